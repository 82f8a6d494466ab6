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
    """The clone after a run in which one of two cells failed, and what that run said."""
    clone.edit(diverging)
    return clone, clone.run(*TABLE, ok=False)


@pytest.fixture(scope="module")
def repaired(failed):
    """The clone after the cause was gone, and the jobs of the run that finished it."""
    clone, _ = failed
    clone.edit(lambda params: params["recipes"]["ict"]["overrides"].pop())
    done = clone.run(*TABLE)
    return clone, re.findall(r"^(?:local)?rule (\w+):\n(?:    .*\n)*?    wildcards: (.*)", done.stderr, re.M)


@pytest.fixture(scope="module")
def page(repaired):
    clone, _ = repaired
    clone.run("snakemake", "--report", "report.html", "results/table1.csv")
    return clone, (clone.root / "report.html").read_text()


def test_failed_cell_does_not_stop_the_others(failed):
    clone, done = failed
    assert done.returncode == 1
    assert "profile profiles/default" in done.stderr
    evaluated = [path.parts[-3] for path in clone.root.glob("results/runs/*/eval-*/evaluation.json")]
    assert len(evaluated) == 1
    assert "-independent-" in evaluated[0]
    assert not (clone.root / "results/table1.csv").exists()


def test_what_failed_and_what_did_not_run_is_said_last(failed):
    clone, done = failed
    said = done.stderr[done.stderr.index("Exiting because a job execution failed") :]
    run, log = re.findall(r"couplet: train (\S+) failed: (\S+)\n", said)[0]
    assert "-vae-" in run
    last = (clone.root / log).read_text().splitlines()[-1]
    assert "not finite in loss or gradient" in last
    assert f"    {last}\n" in said
    waiting = dict(re.findall(r"^    (\S+): ([a-z, ]+)$", said, re.M))
    assert {name: set(rules.split(", ")) for name, rules in waiting.items()} == {
        run: {"select", "sample", "evaluate"},
        "table1": {"table"},
    }


def test_after_the_repair_only_the_failed_cell_runs(repaired):
    _, jobs = repaired
    assert sorted(rule for rule, _ in jobs) == ["evaluate", "sample", "select", "table", "train"]
    assert all("-vae-" in about for rule, about in jobs if rule != "table")


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


def test_captions_say_seeds_extractor_budget_and_that_no_published_number_is_near(page):
    _, text = page
    results = results_of(text)
    table = plain(results["results/table1.html"]["caption"])
    assert "training seeds (1 planned per row" in table
    assert "80 samples with the training images" in table
    assert "in the features of: classifier" in table
    assert "ict on digits: 4 steps of 8 images" in table
    assert "None stands beside these" in table
    for figure in ("samples", "distance"):
        (caption,) = (plain(r["caption"]) for path, r in results.items() if path.endswith(f"{figure}.png"))
        assert "4 steps of 8 images" in caption
        assert "No published number belongs beside this figure" in caption
    assert "80 samples (NFE 1) against the test split" in caption


def plain(html):
    """The words of a piece of HTML."""
    return " ".join(re.sub("<.*?>", "", html).split())
