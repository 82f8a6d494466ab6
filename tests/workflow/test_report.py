"""A cell that diverges beside one that does not; then the report of the repaired grid."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest

TABLE = ("snakemake", "--cores", "2", "results/table1.csv")

pytestmark = pytest.mark.slow


def diverging(params):
    """Parameters under which one step of vae's training overflows."""
    params["recipes"]["ict"]["overrides"].append({"when": {"coupling": "vae"}, "optimizer": {"lr": 1e30}})


@pytest.fixture(scope="module")
def failed(clone):
    """The clone after a run in which one of two cells failed, and the output of that run."""
    clone.edit(diverging)
    return clone, clone.run(*TABLE, ok=False)


@pytest.fixture(scope="module")
def repaired(failed):
    """The clone after the cause was gone, and the jobs of the run that finished it."""
    clone, _ = failed
    clone.edit(lambda params: params["recipes"]["ict"]["overrides"].pop())
    done = clone.run(*TABLE)
    return clone, re.findall(r"^Job \d+: (\w+) (.*)", done.stderr, re.M)


@pytest.fixture(scope="module")
def page(repaired):
    clone, _ = repaired
    clone.run("snakemake", "--report", "report.html", "results/table1.csv")
    return clone, (clone.root / "report.html").read_text()


def test_failed_cell_does_not_stop_the_others(failed):
    clone, done = failed
    assert done.returncode == 1
    assert "profile profiles/default" in done.stderr
    evaluated = [path.parts[-3] for path in clone.root.glob("results/runs/*/evaluate-*/evaluation.json")]
    assert len(evaluated) == 1
    assert "-independent-" in evaluated[0]
    assert not (clone.root / "results/table1.csv").exists()


def test_the_log_of_the_failed_run_is_printed(failed):
    clone, done = failed
    [log] = clone.root.glob("logs/train/*-vae-*.log")
    [last] = log.read_text().splitlines()[-1:]
    assert "not finite in loss or gradient" in last
    assert last in done.stderr
    assert f"log: {log.relative_to(clone.root)}" in done.stderr


def test_finished_cells_are_recorded_with_dvc_also_after_a_failure(failed):
    clone, _ = failed
    for path in clone.root.glob("results/runs/*-independent-*/*"):
        assert path.suffix == ".dvc" or path.with_name(f"{path.name}.dvc").exists()


def test_after_the_repair_only_the_failed_cell_runs(repaired):
    _, jobs = repaired
    assert sorted(rule for rule, _ in jobs) == ["evaluate", "sample", "select", "table", "time", "train"]
    assert all("-vae-" in about for rule, about in jobs if rule not in ("table", "time"))


class References(HTMLParser):
    """Everything that a page makes a browser load."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href", "data", "action", "srcset")]


def test_report_loads_nothing(page):
    _, text = page
    references = References()
    references.feed(text)
    assert references.found == []
    styles = "".join(re.findall("<style>(.*?)</style>", text, re.S))
    assert styles
    assert not re.search(r"@import|url\(\s*['\"]?(?!data:)", styles)


def results_of(text):
    return json.loads(re.search(r"var results = (\{.*\});", text)[1])


def test_report_holds_table_and_figures_to_the_byte(page):
    clone, text = page
    results = results_of(text)
    figures = {str(path.relative_to(clone.root)) for path in clone.root.glob("results/table1.figures/*.png")}
    assert len(figures) == 2
    assert set(results) == {"results/table1.csv", "results/table1.html", *figures}
    for path, result in results.items():
        _, _, content = result["data_uri"].partition(";base64,")
        assert base64.b64decode(content) == (clone.root / path).read_bytes()


def test_captions_give_seeds_extractor_and_budget_and_warn_of_published_numbers(page):
    _, text = page
    results = results_of(text)
    table = plain(results["results/table1.html"]["caption"])
    assert "training seeds (1 planned per row" in table
    assert "80 samples with the training images" in table
    assert "Features are those of: classifier" in table
    assert "ict on digits: 4 steps of 8 images" in table
    assert "There are none for these rows" in table
    for figure in ("samples", "distance"):
        (caption,) = (plain(r["caption"]) for path, r in results.items() if path.endswith(f"{figure}.png"))
        assert "4 steps of 8 images" in caption
        assert "cannot be compared with published numbers" in caption
    assert "80 samples (NFE 1) with the test split" in caption


def plain(html):
    """The words of a piece of HTML."""
    return " ".join(re.sub("<.*?>", "", html).split())
