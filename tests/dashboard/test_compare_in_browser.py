"""The page Compare in a real browser: the address holds the view; slider, flip, zoom; dark mode."""

import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Browser, Page, expect
from served import Served

from naruto_core.artifacts import Layout
from naruto_core.domain import Run, Variant
from naruto_core.store.writes import Store


def open_page(chrome: Browser, address: str, **context: object) -> Page:
    page = chrome.new_context(viewport={"width": 1280, "height": 900}, **context).new_page()  # type: ignore[arg-type]
    page.goto(address)
    expect(page.locator(".compare .pane").first).to_be_visible(timeout=30_000)
    return page


def test_the_address_gives_exactly_this_view_to_somebody_else(chrome: Browser, served: Served, run: Run) -> None:
    page = open_page(chrome, f"{served.address}/compare")
    expect(page.locator(".compare section")).to_have_count(4)
    page.get_by_role("combobox", name="Seed").click()
    page.get_by_role("option", name="8", exact=True).click()
    expect(page.locator(".compare section")).to_have_count(2, timeout=15_000)
    expect(page).to_have_url(re.compile("seed=8"))
    query = parse_qs(urlsplit(page.url).query)
    assert query == {"model": [f"{run.id}/base", f"{run.id}/adapted"], "seed": ["8"]}
    other = open_page(chrome, page.url)
    expect(other.locator(".compare section")).to_have_count(2)
    pictures = ".compare img"
    assert [image.get_attribute("src") for image in other.locator(pictures).all()] == [
        image.get_attribute("src") for image in page.locator(pictures).all()
    ]
    page.get_by_role("tab", name="XYZ").click()
    expect(page).to_have_url(re.compile("part=XYZ"))
    other.goto(page.url)
    expect(other.get_by_role("tab", name="XYZ")).to_have_attribute("aria-selected", "true", timeout=15_000)
    expect(other.get_by_text("No runs differ in exactly two keys")).to_be_visible(timeout=15_000)


def test_the_slider_uncovers_the_second_picture_and_both_zoom_together(
    chrome: Browser, served: Served, run: Run
) -> None:
    page = open_page(chrome, f"{served.address}/compare?layout=Slider+over+the+first+two")
    slider = page.get_by_label("Where one picture ends").first
    slider.fill("20")
    assert "20%" in page.locator(".over").first.evaluate("node => node.style.clipPath")
    page.locator(".pane").first.dblclick()
    views = page.locator(".pane img").evaluate_all("all => [...new Set(all.map(node => node.style.transform))]")
    assert len(views) == 1
    assert "scale(3)" in views[0]


def test_key_and_button_flip_every_row_and_its_caption(chrome: Browser, served: Served, run: Run) -> None:
    page = open_page(chrome, f"{served.address}/compare?layout=Flip+the+first+two+in+place")
    captions = page.locator("figcaption")
    expect(captions).to_have_text([f"{run.id[5:]}/base"] * 4)
    page.keyboard.press("f")
    expect(captions).to_have_text([f"{run.id[5:]}/adapted"] * 4)
    page.get_by_role("button", name="Flip").nth(2).click()
    expect(captions).to_have_text([f"{run.id[5:]}/base"] * 4)


def test_text_has_contrast_in_light_and_dark_and_a_missing_picture_is_a_sentence(
    chrome: Browser, served: Served, run: Run, store: Store, home: Path
) -> None:
    lost = store.samples(run.id, Variant.BASE)[0]
    Layout(home).absolute(lost.path).unlink()
    light = open_page(chrome, f"{served.address}/compare", color_scheme="light")
    expect(light.locator(".compare .missing").first).to_contain_text("This picture is missing or was changed.")
    caption = light.locator("[data-testid=stCaptionContainer] p").first
    assert seen_contrast(caption.evaluate(COLOURS)) > 4.5
    page = open_page(chrome, f"{served.address}/compare", color_scheme="dark")
    back = page.locator(".stApp").evaluate("node => getComputedStyle(node).backgroundColor")
    text = page.locator(".compare .prompt").first.evaluate("node => getComputedStyle(node).color")
    assert contrast(text, back) > 7


# the colours of a text and of what is behind it, and the text's opacity
COLOURS = """node => { let opacity = 1, behind = null;
for (let up = node; up; up = up.parentElement) { const style = getComputedStyle(up); opacity *= Number(style.opacity);
  if (!behind && !/, 0\\)|transparent/.test(style.backgroundColor)) behind = style.backgroundColor; }
return [getComputedStyle(node).color, behind, opacity]; }"""


def seen_contrast(colours: tuple[str, str, float]) -> float:
    """The contrast of a text that may be transparent, by its own colour or by the opacity of what contains it."""
    text, behind, opacity = colours
    channels, back = ([float(part) for part in re.findall(r"[\d.]+", colour)] for colour in (text, behind))
    share = opacity * (channels[3] if len(channels) > 3 else 1.0)
    mixed = (share * a + (1 - share) * b for a, b in zip(channels[:3], back[:3], strict=True))
    return contrast(f"rgb({', '.join(map(str, mixed))})", behind)


def contrast(text: str, background: str) -> float:
    """The contrast ratio of WCAG 2; colours as a browser writes them."""
    lighter, darker = sorted((luminance(text), luminance(background)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
