"""The page of a table in headless Chromium: clicks, keys, widths and colours."""

import re
import shutil
from itertools import pairwise

import pytest

WIDTHS = (390, 1280)


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    found = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    with api.sync_playwright() as playwright:
        try:
            launched = playwright.chromium.launch(executable_path=next(found, None), args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield launched
        launched.close()


@pytest.fixture
def visit(browser, results, tmp_path):
    """Opens the page as a file; afterwards, nothing was loaded from elsewhere and no error was logged."""
    file = tmp_path / "index.html"
    file.write_text(results.text, encoding="utf-8")
    problems, requests, contexts = [], [], []

    def visited(width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        return page

    yield visited
    for context in contexts:
        context.close()
    assert problems == []
    assert {url for url in requests if not url.startswith("data:")} == {file.as_uri()}


def sources(page):
    return [image.get_attribute("src") for image in page.locator("img[data-panel]").all()]


def test_slider_shows_the_samples_of_other_steps(visit):
    page = visit()
    slider, shown = page.get_by_label("Training steps"), page.locator("output")
    seen = [sources(page)]
    assert shown.inner_text() == "400"
    slider.focus()
    for steps in ("200", "100"):
        page.keyboard.press("ArrowLeft")
        assert shown.inner_text() == steps
        seen.append(sources(page))
    assert all(a != b for before, after in pairwise(seen) for a, b in zip(before, after, strict=True))
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    assert (shown.inner_text(), sources(page)) == ("400", seen[0])
    assert slider.get_attribute("aria-valuetext") == "400 steps"


def test_chart_shows_values_under_the_pointer_and_by_keys(visit):
    page = visit()
    chart, legend = page.locator(".chart").first, page.locator(".legend").first
    assert re.sub(r"\s+", " ", legend.inner_text()).startswith(
        "independent 10.0 seed 0: 9.00 · seed 1: 11.0 "
    )
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 10, box["y"] + 50)
    assert chart.get_attribute("aria-valuetext") == "step 100: independent 40.0, minibatch OT 16.0"
    chart.focus()
    page.keyboard.press("ArrowRight")
    assert chart.get_attribute("aria-valuetext") == "step 200: independent 20.0, minibatch OT 8.00"
    assert "20.0" in legend.inner_text()
    page.keyboard.press("End")
    assert chart.get_attribute("aria-valuenow") == "400"
    assert chart.locator("path.mean").count() == 2
    assert chart.locator("path.seed").count() == 4


def test_slider_moves_the_curves_too(visit):
    page = visit()
    page.get_by_label("Training steps").focus()
    page.keyboard.press("Home")
    assert page.locator(".chart").first.get_attribute("aria-valuenow") == "100"


def test_rows_open_by_keyboard_and_by_their_number(visit):
    page = visit()
    first, second = page.locator("#row-1"), page.locator("#row-2")
    first.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert first.get_by_text("made-run-i0").is_visible()
    assert not second.get_by_text("made-run-o0").is_visible()
    page.get_by_role("link", name="2", exact=True).click()
    second.get_by_text("made-run-o0").wait_for(state="visible", timeout=5000)
    assert page.evaluate("document.activeElement.closest('details').id") == "row-2"
    inner = second.locator("details summary")
    inner.click()
    assert second.get_by_role("cell", name="400", exact=True).is_visible()


def test_everything_that_acts_is_reached_by_tab(visit):
    page = visit()
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.className || document.activeElement.localName"))
    for name in ("scroll", "a", "input", "chart", "summary"):
        assert name in reached


@pytest.mark.parametrize("width", WIDTHS)
def test_page_is_as_wide_as_the_screen(width, visit):
    page = visit(width)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    image = page.locator("img[data-panel]").first
    assert image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    assert image.bounding_box()["width"] == 4 * 53 or width < 640


CONTRASTS = """
() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const luminance = colour => colour.slice(0, 3).map(each => each / 255)
    .map(each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
    .reduce((sum, each, i) => sum + each * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *:not(script):not(style)")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length) continue;
    const style = getComputedStyle(element), svg = element.namespaceURI.includes("svg");
    const [a, b] = [luminance(rgb(svg ? style.fill : style.color)), luminance(behind(element))];
    found.push([element.localName, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
  }
  for (const path of document.querySelectorAll(".chart .mean")) {
    const [a, b] = [luminance(rgb(getComputedStyle(path).stroke)), luminance(behind(path.closest("div")))];
    found.push(["curve", (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
  }
  return found;
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_curves_stand_out(scheme, visit):
    """WCAG 2: 4.5 for text, 3 for graphics."""
    page = visit(scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    found = page.evaluate(CONTRASTS)
    assert len(found) > 60
    assert {"p", "td", "text", "curve", "summary"} <= {name for name, _ in found}
    assert not [(name, ratio) for name, ratio in found if ratio < (3 if name == "curve" else 4.5)]
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
