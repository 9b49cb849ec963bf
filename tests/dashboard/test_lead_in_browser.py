"""The lead's five questions by counted clicks; accessibility, weight and look of every page; in a real browser."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from apps import NOW, finished_campaign
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Response, expect
from served import Served

from naruto_core.artifacts import Layout, sha256_file
from naruto_core.domain import Run, Score, StepRecord, Variant
from naruto_core.store.database import Ratings
from naruto_core.store.writes import Store

ROOT = Path(__file__).parents[2]
SCREEN = {"width": 1440, "height": 900}
MOST_BYTES = 1_500_000  # of a page, without Streamlit's own program, which browsers keep


@pytest.fixture
def runs(store: Store, run: Run) -> list[str]:
    """The run and a better one with another rank, both with scores, steps and pictures; the better one's id first."""
    recipe = '{{"training": {{"rank": {}, "max_train_steps": 20}}}}'
    suite = store.prompts(run.id)
    assert suite
    ids: list[str] = []
    for rank, value in ((4, 50.0), (8, 10.0)):
        new = store.open_run(
            profile="mini", recipe_json=recipe.format(rank), fingerprint=f"r{rank}", dataset_id="d1", git_commit="",
            now=NOW,
        )  # fmt: skip
        store.add_prompts(new.id, suite)
        samples = store.samples(run.id)
        store.add_samples([replace(sample, id=f"{sample.id}-{rank}", run_id=new.id) for sample in samples])
        change = {"change": value - 100, "change_low": value - 105, "change_high": value - 95, "change_word": "better"}
        base = Score(new.id, "fd-judge", Variant.BASE, 100.0, 95.0, 105.0, 40, "judge", "1", "d1", "jackknife")
        trained = replace(base, variant=Variant.ADAPTED, value=value, low=value - 5, high=value + 5, details=change)
        store.add_scores([base, trained, replace(base, variant=Variant.REAL, value=5.0, low=4.0, high=6.0)])
        store.add_steps(new.id, [StepRecord(step, 1 / (step + 1), 1.0, {"d": 0.1}) for step in range(20)])
        store.finish_run(new.id, NOW)
        ids.append(new.id)
    return ids[::-1]


def open_page(chrome: Browser, address: str, **context: object) -> Page:
    page = chrome.new_context(**({"viewport": SCREEN} | context)).new_page()  # type: ignore[arg-type]
    page.goto(address)
    settled(page)
    return page


def settled(page: Page) -> None:
    """Wait until the page is drawn."""
    expect(page.locator("[data-testid=stMain] h1").first).to_be_visible(timeout=30_000)
    expect(page.locator("[data-testid=stApp]")).not_to_have_attribute(
        "data-test-script-state", "running", timeout=30_000
    )
    expect(page.locator("[data-testid=stSkeleton]")).to_have_count(0, timeout=30_000)


def in_sight(place: Locator) -> bool:
    """Whether all of the height is on the screen, without scrolling."""
    expect(place).to_be_visible(timeout=30_000)
    box = place.bounding_box()
    return box is not None and box["y"] >= 0 and box["y"] + box["height"] <= SCREEN["height"]


def test_the_leads_five_questions_are_answered_by_few_clicks_without_scrolling(
    chrome: Browser, served: Served, ratings: Ratings, store: Store, runs: list[str], run: Run
) -> None:
    best = runs[0]
    page = open_page(chrome, served.address)
    clicks: list[str] = []

    def click(link: Locator) -> None:
        clicks.append(link.inner_text())
        link.click()

    # 0 clicks: which run is best, and why
    assert in_sight(page.get_by_role("heading", name=f"Best run {best[5:]}"))
    assert in_sight(page.get_by_role("cell", name="Fréchet distance ↓"))
    assert in_sight(page.get_by_role("cell", name="-90.0 (-95.0 to -85.0)"))
    assert clicks == []
    # 2 clicks at most: what changed between two runs
    click(page.get_by_role("link", name=f"Compare with {best[5:]}").first)
    assert in_sight(page.get_by_text("Changed in the recipe: training.rank 8 → 4."))
    assert len(clicks) == 1
    # 1 click: did it train well
    page = open_page(chrome, served.address)
    click(page.get_by_role("link", name="Open this run"))
    assert in_sight(page.get_by_text(f"{best}: done"))
    assert in_sight(page.locator("[data-testid=stVegaLiteChart]").first)
    assert len(clicks) == 2
    # 2 clicks: one prompt over all runs
    page = open_page(chrome, served.address)
    click(page.get_by_role("link", name="Compare", exact=True))
    settled(page)
    words = page.get_by_label("Words in the prompt")
    click(words)
    page.keyboard.type("orange")
    page.keyboard.press("Enter")
    expect(page.locator(".compare section")).to_have_count(2, timeout=30_000)  # the prompt's two seeds
    assert page.locator(".compare section").first.locator(".pane").count() == 3  # all runs with pictures
    assert in_sight(page.locator(".compare .pane").first)
    assert len(clicks) == 4
    # 1 click: what people said
    finished_campaign(ratings, store, run)
    page = open_page(chrome, f"{served.address}/enter/{ratings.renew_link(name='admin')}")
    click(page.get_by_role("link", name="Campaigns"))
    assert in_sight(page.get_by_role("heading", name="Win rates", exact=True))
    assert len(clicks) == 5


PAGES = ("", "runs", "run", "compare", "campaigns", "campaigns?part=New+campaign", "campaigns?part=Reviewers", "deploy",
         "deploy?part=Service", "dataset")  # fmt: skip
PHONE = {"width": 390, "height": 844}


def test_no_page_has_a_serious_accessibility_fault_in_light_in_dark_and_on_a_phone(
    chrome: Browser, served: Served, ratings: Ratings, store: Store, runs: list[str], run: Run
) -> None:
    finished_campaign(ratings, store, run)
    page = open_page(chrome, f"{served.address}/enter/{ratings.renew_link(name='admin')}")
    faults: list[str] = []
    backgrounds: set[str] = set()
    for address in PAGES:
        page.set_viewport_size(SCREEN)  # type: ignore[arg-type]
        page.goto(f"{served.address}/{address}")
        settled(page)
        for look in ("dark", "light", "phone"):
            if look == "phone":
                page.set_viewport_size(PHONE)  # type: ignore[arg-type]
            else:
                page.emulate_media(color_scheme=look)
            page.wait_for_timeout(150)  # the page changes its colours
            backgrounds.add(page.locator(".stApp").evaluate("node => getComputedStyle(node).backgroundColor"))
            faults += [
                f"{look} /{address}: {fault['id']} {fault['nodes'][0]['html'][:200]}"
                for fault in Axe().run(page).response["violations"]
                if fault["impact"] in ("critical", "serious")
            ]
    assert len(backgrounds) == 2
    assert faults == []


def test_a_page_of_pictures_of_1024_pixels_weighs_at_most_a_megabyte_and_a_half(
    chrome: Browser, served: Served, store: Store, run: Run, home: Path
) -> None:
    sheet = Image.open(ROOT / "docs" / "demo.png").convert("RGB")
    samples = store.samples(run.id)
    for number, sample in enumerate(samples):
        left = (number % 4) * sheet.width // 5
        path = Layout(home).absolute(sample.path)
        sheet.crop((left, 0, left + 200, 200)).resize((1024, 1024), Image.Resampling.BICUBIC).save(path)
        samples[number] = replace(sample, sha256=sha256_file(path))
    store.add_samples(samples)
    sizes: dict[str, int] = {}

    def weigh(response: Response) -> None:
        if "/static/" not in response.url and response.ok:
            sizes[response.url] = len(response.body())

    page = chrome.new_context(viewport=SCREEN).new_page()  # type: ignore[arg-type]
    page.on("response", weigh)
    for address in ("", "compare", "run"):
        sizes.clear()
        page.goto(f"{served.address}/{address}")
        settled(page)
        if address == "compare":
            expect(page.locator(".compare .pane").first).to_be_visible(timeout=30_000)
        page.wait_for_function("[...document.images].every(picture => picture.complete)", timeout=30_000)
        deadline = time.monotonic() + 30
        while address == "compare" and sum("/pictures/" in url for url in sizes) < 2:
            assert time.monotonic() < deadline, sizes
            page.wait_for_timeout(100)  # responses are reported meanwhile
        assert sum(sizes.values()) <= MOST_BYTES, sizes
