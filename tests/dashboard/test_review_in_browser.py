"""A review session in a real browser, against the real server."""

import re
from datetime import UTC, datetime

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from served import Served

from naruto_core.domain import GENERATED, Run, Variant
from naruto_core.judging.campaign_plan import contender, plan_units
from naruto_core.ratings import Campaign, Extremes, Grades, Mode, Outcome, Role
from naruto_core.store.database import Ratings
from naruto_core.store.writes import Store

NOW = datetime.now(UTC)


def open_campaign(ratings: Ratings, store: Store, run: Run, mode: Mode = Mode.PAIR) -> str:
    samples = {contender(run.id, v.value): store.samples(run.id, v) for v in GENERATED}
    if mode is Mode.BEST_WORST:
        samples["another/base"] = store.samples(run.id, Variant.BASE)
    suite = store.prompts(run.id)
    assert suite
    units = plan_units(mode, samples, suite.prompts, overlap=0, raters=2, gold=0, seed=0)
    campaign = Campaign("", mode.value, "Which one?", mode, NOW, repeats=0.0)
    return ratings.open_campaign(campaign, units, seed=0).id


def reviewer(ratings: Ratings) -> str:
    ratings.add_reviewer("admin", Role.ADMIN)
    return ratings.add_reviewer("Ann <b>bold</b>", Role.REVIEWER)[1]


def enter(chrome: Browser, served: Served, token: str, width: int = 1280, height: int = 900) -> Page:
    page = chrome.new_context(viewport={"width": width, "height": height}).new_page()
    page.goto(f"{served.address}/enter/{token}")
    start_rating(page)
    ready(page)
    return page


def start_rating(page: Page) -> None:
    """Read the guidelines, which are shown at the first visit."""
    page.get_by_role("button", name="Start rating").click(timeout=30_000)
    expect(page.locator(".review .pane").first).to_be_visible(timeout=30_000)


def ready(page: Page) -> None:
    """Wait until the next assignment is loaded."""
    expect(page.locator(".review")).to_have_attribute("data-ready", "true", timeout=15_000)
    wait_min_view_time(page)


def wait_min_view_time(page: Page) -> None:
    """Sooner, an answer would be ignored as the second half of a double click."""
    page.wait_for_timeout(300)


def expect_rated(page: Page, count: int, text: str = "Saved.", of: int = 12) -> None:
    expect(page.locator(".status")).to_have_text(f"You rated {count} of {of}. {text}", timeout=15_000)


def test_a_whole_session_by_keyboard(chrome: Browser, served: Served, ratings: Ratings, store: Store, run: Run) -> None:
    campaign_id = open_campaign(ratings, store, run)
    page = enter(chrome, served, reviewer(ratings))
    for number, key in enumerate(("ArrowLeft", "ArrowRight", "ArrowDown", "x"), start=1):
        page.keyboard.press(key)
        expect_rated(page, number)
        ready(page)
    answers = [rating.answer for rating in ratings.ratings(campaign_id)]
    assert answers == [Outcome.LEFT, Outcome.RIGHT, Outcome.TIE, Outcome.BOTH_BAD]
    page.keyboard.press("s")
    expect_rated(page, 5)
    assert len(ratings.ratings(campaign_id)) == 4
    page.keyboard.press("u")
    expect_rated(page, 4, "Undone.")
    page.keyboard.press("u")
    expect_rated(page, 3, "Undone.")
    assert len(ratings.ratings(campaign_id)) == 3
    assert all(rating.seconds > 0 for rating in ratings.ratings(campaign_id))


def test_to_the_end_and_nothing_is_asked_twice(
    chrome: Browser, served: Served, ratings: Ratings, store: Store, run: Run
) -> None:
    campaign_id = open_campaign(ratings, store, run)
    page = enter(chrome, served, reviewer(ratings))
    for number in range(12):
        previous = page.locator(".stage").get_attribute("data-shown")
        wait_min_view_time(page)
        page.keyboard.press("ArrowLeft")
        expect(page.locator(".status")).to_contain_text(f"You rated {number + 1} of 12.", timeout=15_000)
        if number < 11:
            expect(page.locator(".stage")).not_to_have_attribute("data-shown", previous or "", timeout=15_000)
    expect(page.locator(".done")).to_contain_text("nothing left")
    votes = ratings.ratings(campaign_id)
    assert len(votes) == len({rating.unit_id for rating in votes}) == 12


def test_nothing_on_the_page_or_in_its_addresses_names_a_model(
    chrome: Browser, served: Served, ratings: Ratings, store: Store, run: Run
) -> None:
    campaign_id = open_campaign(ratings, store, run)
    urls: list[str] = []
    context = chrome.new_context()
    page = context.new_page()
    page.on("request", lambda request: urls.append(request.url))
    page.goto(f"{served.address}/enter/{reviewer(ratings)}")
    start_rating(page)
    ready(page)
    page.keyboard.press("ArrowLeft")
    expect_rated(page, 1)
    html = page.content() + " ".join(urls) + page.locator(".review").inner_html()
    assert any("/pictures/" in address for address in urls)
    for word in (run.id, "fused", "adapted", "base-", "seed", "hostile"):
        assert word not in html.replace("baseline", ""), word
    for path, title in (("campaigns", "Campaigns"), ("verdicts", "Verdicts"), ("runs", "Runs")):
        page.goto(f"{served.address}/{path}")
        expect(page.get_by_text("You are Ann <b>bold</b>.")).to_be_visible(timeout=30_000)
        expect(page.get_by_role("heading", name="Review")).to_be_visible(timeout=30_000)
        assert page.get_by_role("heading", name=title, exact=True).count() == 0
        assert page.get_by_role("dialog").count() == 0
    expect(page.get_by_text("That page is for admins.")).to_be_visible()
    page.goto(f"{served.address}/review")
    expect(page.locator(".review .pane").first).to_be_visible(timeout=30_000)
    expect(page.get_by_text("That page is for admins.")).to_have_count(0)
    page.goto(f"{served.address}/nothing")
    expect(page.get_by_role("dialog")).to_be_visible(timeout=30_000)
    expect(page.locator(".review .pane").first).to_be_visible(timeout=30_000)
    ready(page)
    page.keyboard.press("ArrowLeft")  # read behind a message, this would be a vote
    page.wait_for_timeout(300)
    assert len(ratings.ratings(campaign_id)) == 1


def test_a_reload_a_second_tab_and_a_double_click_count_once(
    chrome: Browser, served: Served, ratings: Ratings, store: Store, run: Run
) -> None:
    campaign_id, token = open_campaign(ratings, store, run), reviewer(ratings)
    page = enter(chrome, served, token)
    other = page.context.new_page()
    other.goto(served.address)
    expect(other.locator(".review .pane").first).to_be_visible(timeout=30_000)
    page.get_by_role("button", name="Left is better").dblclick()
    expect(page.locator(".status")).to_contain_text("You rated 1 of 12.", timeout=15_000)
    page.wait_for_timeout(500)
    assert len(ratings.ratings(campaign_id)) == 1
    other.keyboard.press("ArrowLeft")
    expect(other.locator(".warning")).to_contain_text("Not counted: these pictures were", timeout=15_000)
    page.reload()
    expect(page.locator(".review .pane").first).to_be_visible(timeout=30_000)
    assert len(ratings.ratings(campaign_id)) == 1


def test_a_vote_whose_reply_is_late_does_not_hold_up_the_next_pair(
    chrome: Browser, served: Served, ratings: Ratings, store: Store, run: Run
) -> None:
    campaign_id = open_campaign(ratings, store, run)
    page = enter(chrome, served, reviewer(ratings))
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        held.append(route)
        if len(held) > 1:
            route.continue_()

    page.route("**/judging/deeds", hold_the_first)
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
        ready(page)  # another pair is loaded already, although no vote has arrived
    assert len(held) == 1
    assert ratings.ratings(campaign_id) == []
    held[0].continue_()
    expect_rated(page, 2)
    assert [rating.answer for rating in ratings.ratings(campaign_id)] == [Outcome.LEFT] * 2


def test_votes_given_while_the_server_is_away_arrive_when_it_is_back(
    chrome: Browser, served: Served, ratings: Ratings, store: Store, run: Run
) -> None:
    campaign_id = open_campaign(ratings, store, run)
    page = enter(chrome, served, reviewer(ratings))
    served.stop()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".warning")).to_contain_text("No connection", timeout=15_000)
    served.start()
    expect_rated(page, 1)
    assert [rating.answer for rating in ratings.ratings(campaign_id)] == [Outcome.LEFT]


def test_pictures_zoom_in_step_in_full_size_and_the_next_pair_is_seen_whole(
    chrome: Browser, served: Served, ratings: Ratings, store: Store, run: Run
) -> None:
    open_campaign(ratings, store, run)
    page = enter(chrome, served, reviewer(ratings))
    pictures = page.locator(".pane img")
    assert all("/512.webp" in address for address in pictures.evaluate_all("all => all.map(node => node.src)"))
    page.locator(".pane").first.dblclick()
    views = pictures.evaluate_all("all => all.map(node => node.style.transform)")
    assert views[0] == views[1]
    assert "scale(3)" in views[0]
    expect(pictures.nth(1)).to_have_attribute("src", re.compile("/full.webp"))
    page.keyboard.press("ArrowLeft")
    expect_rated(page, 1)
    assert "scale(1)" in pictures.first.evaluate("node => node.style.transform")
    assert "/512.webp" in (pictures.first.get_attribute("src") or "")


def test_a_hostile_prompt_is_text_and_the_picture_says_it_to_those_who_cannot_see(
    chrome: Browser, served: Served, ratings: Ratings, store: Store, run: Run
) -> None:
    open_campaign(ratings, store, run)
    page = enter(chrome, served, reviewer(ratings))
    page.on("dialog", lambda dialog: pytest.fail("a script in a prompt ran"))
    for _ in range(3):
        text = page.locator(".prompt").inner_text()
        assert page.locator(".pane img").first.get_attribute("alt") == text
        page.keyboard.press("s")
        ready(page)
    assert page.locator(".prompt script, .prompt img").count() == 0


SCREENS = {(1440, 900): 520, (1366, 650): 340, (390, 844): 240, (360, 640): 150}  # and the least side of a picture
OUT_OF_SIGHT = """
all => all.filter(node => node.checkVisibility())
  .map(node => [node.className || node.textContent, node.getBoundingClientRect()])
  .filter(([_, box]) => box.left < 0 || box.top < 0 || box.right > innerWidth || box.bottom > innerHeight)
  .map(([name]) => name)
"""


@pytest.mark.parametrize("mode", [Mode.PAIR, Mode.SCALE])
def test_all_of_the_review_page_is_in_sight_on_phones_and_laptops(
    chrome: Browser, served: Served, ratings: Ratings, store: Store, run: Run, mode: Mode
) -> None:
    campaign_id = open_campaign(ratings, store, run, mode)
    page = enter(chrome, served, reviewer(ratings))
    for (width, height), least in SCREENS.items():
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(400)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        parts = page.locator(".review :is(button, .prompt, .pane, .status)")
        assert parts.count() >= 8
        assert parts.evaluate_all(OUT_OF_SIGHT) == [], (width, height)
        boxes = [pane.bounding_box() for pane in page.locator(".pane").all()]
        sides = [min(box["width"], box["height"]) for box in boxes if box]
        assert min(sides) >= (least if mode is Mode.PAIR else 100), (width, height)
        button = page.locator(".controls button").first.bounding_box()
        assert button
        assert button["height"] >= 44
    if mode is Mode.PAIR:
        page.get_by_role("button", name="Lower is better").click()
        expect_rated(page, 1)
        (rating,) = ratings.ratings(campaign_id)
        assert rating.answer is Outcome.RIGHT


def test_single_pictures_are_graded_by_keyboard(
    chrome: Browser, served: Served, ratings: Ratings, store: Store, run: Run
) -> None:
    campaign_id = open_campaign(ratings, store, run, Mode.SCALE)
    page = enter(chrome, served, reviewer(ratings))
    assert page.locator(".references").count() == 0  # the table of this dataset is missing; the page works without
    page.keyboard.press("Enter")
    expect(page.locator(".status")).to_contain_text("Answer both questions first.")
    page.keyboard.press("4")
    page.keyboard.press("2")
    page.get_by_role("button", name="Hands").click()
    page.keyboard.press("Enter")
    expect_rated(page, 1)
    (rating,) = ratings.ratings(campaign_id)
    assert rating.answer == Grades(4, 2, frozenset({"hands"}))


def test_the_best_and_the_worst_of_four_are_chosen_by_keyboard(
    chrome: Browser, served: Served, ratings: Ratings, store: Store, run: Run
) -> None:
    campaign_id = open_campaign(ratings, store, run, Mode.BEST_WORST)
    page = enter(chrome, served, reviewer(ratings))
    page.keyboard.press("3")
    expect(page.locator(".ask")).to_contain_text("worst")
    page.keyboard.press("1")
    expect_rated(page, 1, of=4)
    (rating,) = ratings.ratings(campaign_id)
    assert rating.answer == Extremes(best=2, worst=0)


def test_guidelines_come_once_and_notes_and_marked_defects_are_kept(
    chrome: Browser, served: Served, ratings: Ratings, store: Store, run: Run
) -> None:
    campaign_id = open_campaign(ratings, store, run)
    page = enter(chrome, served, reviewer(ratings))
    page.keyboard.press("n")
    page.keyboard.press("ArrowLeft")  # in the note, this is no vote
    page.get_by_role("textbox", name="Note on these pictures").fill("a third arm <b>")
    page.get_by_role("button", name="Save the note").click()
    expect(page.locator(".status")).to_contain_text("Note saved.", timeout=15_000)
    page.get_by_role("button", name="N Note").click()
    page.get_by_role("button", name="Hands").click()
    box = page.locator(".pane img").nth(1).bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator(".status")).to_contain_text("Marked.", timeout=15_000)
    mark, note = ratings.picture_notes(campaign_id)
    assert (note.text, note.sample) == ("a third arm <b>", "")
    assert mark.sample
    assert mark.defect == "hands"
    assert (mark.x, mark.y) == (pytest.approx(0.5, abs=0.02), pytest.approx(0.5, abs=0.02))
    assert ratings.ratings(campaign_id) == []
    page.reload()
    expect(page.locator(".review .pane").first).to_be_visible(timeout=30_000)
    expect(page.locator(".panel")).not_to_be_visible()
