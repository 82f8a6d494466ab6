"""The page of a table: complete, escaped, with everything inside."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from scipy.stats import t

from couplet.reporting.intervals import student
from couplet.reporting.results import POINTS, thinned


class Page(HTMLParser):
    """Tables as lists of rows of texts, attributes, and the text outside scripts and styles."""

    VOID = {"meta", "img", "br", "input", "link"}

    def __init__(self, text):
        super().__init__()
        self.text, self.open, self.tables, self.attributes = "", [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & {*self.open}:
            self.text += data
            if {"td", "th"} & {*self.open[-4:]}:
                self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def page(results):
    return Page(results.text)


def test_table_has_every_row_with_spread_and_interval(page):
    head, *rows = page.tables[0]
    assert head == [
        *("row", "coupling", "seeds", "missing"),
        *("Fréchet distance ↓ (x)", "minus independent", "step (ms)"),
    ]
    _, low, high, *_ = student((9.0, 11.0))
    mean = f"10.000 ± 1.414{low:.3f} to {high:.3f}".replace("-", "−")
    difference = "−6.000−7.5 to −4.5, 2 pairs"
    assert rows == [
        ["1", "independent", "2", "", mean, "", "25 ± 0.5"],
        ["2", "minibatch OT ot", "2", "", "4.000 ± 1.414−8.706 to 16.706", difference, "25 ± 0.5"],
        ["3", "variational vae", "0 of 1", "seed 0: not trained", "", "", "25 ± 0.5"],
    ]
    assert "difference is that of runs with the same seed" in page.text
    assert "quartiles (a clock)" in page.text


def test_columns_in_which_all_rows_agree_are_said_once(page):
    for fact in ("data set digits", "kernel VE", "NFE 1", "features x"):
        assert fact in re.sub(r"\s+", " ", page.text)


def test_best_of_comparable_rows_is_bold(results):
    assert re.findall("<strong>(.*?)</strong>", results.text) == ["4.000"]


def test_missing_cells_are_named(page):
    assert "1 of the cells is missing" in page.text
    assert "digits-ict-ve-vae-s0, x: not trained" in page.text


def test_every_row_has_its_settings_and_the_origin_of_its_numbers(page, results):
    for number, details in enumerate(results.details, start=1):
        assert ("details", "id", f"row-{number}") in page.attributes
        assert [[key, value] for key, value in details.settings.items()] in page.tables
        assert [["coupling.kind", details.settings["coupling.kind"]]] in page.tables  # in which rows differ
        for run, numbers in details.numbers.items():
            assert any([run, *(f"{value:g}" for value in numbers.values())] in table for table in page.tables)
            assert f"made-{run}" in page.text
    assert "couplet why 'results/my table.csv' --row 2" in page.text


def picture(source):
    """The pixels of a data URI."""
    with Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))) as file:
        return np.asarray(file.convert("RGBA"))


def data(text):
    return json.loads(re.search('<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_pictures_are_the_first_seeds_images_after_each_step(results):
    (group,) = data(results.text)
    assert group["steps"] == [100, 200, 400]
    for pictures, coupling in zip(group["pictures"], (0, 20), strict=True):
        for step, source in zip(group["steps"], pictures, strict=True):
            pixels = picture(source)
            assert pixels.shape == (53, 53, 4), "6 × 8 pixels and lines between them"
            assert (pixels[:8, :8] == [step // 2 + coupling] * 3 + [255]).all()
            assert (pixels[8] == 0).all(), "transparent, so that the page's colour is seen"


def test_pictures_are_enlarged_four_times_at_least(page):
    widths = [int(value) for tag, name, value in page.attributes if (tag, name) == ("img", "width")]
    assert set(widths) == {4 * 53}


def test_curves_have_every_seed_and_their_mean(results):
    (group,) = data(results.text)
    distance, loss = group["charts"]
    assert [series["label"] for series in distance["series"]] == ["independent", "minibatch OT"]
    first = distance["series"][0]
    assert first["points"] == [[100, 40.0], [200, 20.0], [400, 10.0]]
    assert [seed["seed"] for seed in first["seeds"]] == [0, 1]
    assert first["seeds"][1]["points"] == [[100, 44.0], [200, 22.0], [400, 11.0]]
    assert all(len(series["points"]) <= POINTS for series in loss["series"])


def test_page_is_one_file_with_escaped_text(page, results):
    assert "<mine>" in page.text
    assert "distance to <made-up> images" in page.text
    loaded = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert all(value.startswith(("data:", "#")) for value in loaded)
    assert len(loaded) > 10
    assert not re.search(r"@import|url\(|https?://(?!www\.w3\.org/2000/svg)|fetch\(", results.text)


def test_intervals_are_students():
    values = [1.0, 2.0, 4.0]
    expected = t.interval(0.95, 2, loc=np.mean(values), scale=np.std(values, ddof=1) / 3**0.5)
    assert student(values)[1:3] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("steps", [range(1, 31), [*range(1, 21), *range(25, 10_001, 25)]])
def test_thinned_curve_has_the_means_of_equal_parts(steps):
    curve = {step: float(step) for step in steps}
    made = thinned(curve)
    assert len(made) <= POINTS
    assert max(made) == max(curve)
    part = max(curve) / POINTS
    for end, mean in made.items():
        members = [step for step in curve if -(-step // part) == -(-end // part)]
        assert mean == pytest.approx(np.mean(members))
    assert thinned({}) == {}
