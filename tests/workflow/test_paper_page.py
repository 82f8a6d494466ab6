"""The cheapest study of each kind of figure, and their page, through Snakemake at toy size."""

import csv
import json
import os
import xml.etree.ElementTree as ElementTree

import pytest
import yaml

TINY = {"steps": 4, "batch": 8, "network": {"kind": "mlp", "model_channels": 8, "num_blocks": 1}}
FIGURES = {
    "dots": {"kind": "dots"},
    "sweep": {"kind": "sweep", "x": "coupling.mu", "xlabel": "mu", "zero": {"independent": 0.0}},
    "steps": {"kind": "steps", "against": ["steps", "seconds", "evaluations"]},
    "evaluations": {"kind": "evaluations"},
    "gradient": {"kind": "probe", "probe": "gradient"},
    "transport": {"kind": "probe", "probe": "transport"},
    "regulariser": {"kind": "probe", "probe": "regulariser"},
    "plane": {"kind": "plane"},
    "trajectories": {"kind": "trajectories"},
}
LENT = {"kind": "generator", "predictor": "frozen", "mu": 1.0}


def lines(path):
    """The lines of a CSV file by their columns."""
    return list(csv.DictReader(path.read_text().splitlines()))


def study(name, order):
    """A study of the two cells that all share, but where a figure needs others."""
    grid = {
        "datasets": ["digits"],
        "recipes": ["tiny"],
        "couplings": ["independent", "generator"],
        "seeds": [0, 1],
    }
    made = {
        "base": "../../params.yaml",
        "extractor": "classifier",
        "recipes": {"tiny": {"base": "ict", **TINY}},
        # At equal seconds, a row whose first snapshot is beyond the budget is left out.
        "train": {"snapshots": 4, "save_every": 2},
        "probes": {
            "gradient": {"batches": 2},
            "transport": {"pairs": 8, "levels": [0.5, 80.0]},
            "regulariser": {"pairs": 8, "levels": [0.5, 80.0]},
            "trajectories": {"pairs": 8, "levels": [0.5, 80.0]},
        },
        "study": {
            "paper": "couplet",
            "result": "toy",
            "title": f"A figure of {name}",
            "claim": "Nothing <b>at all</b>.",
            "source": "a test",
            "order": order,
            "figure": FIGURES[name],
            "numbers": "evaluate" if name == "dots" else "select",
            "samples": name == "dots",
            "compare": [{"lower": "generator", "than": "independent"}],
        },
        "table1": grid,
    }
    if name == "regulariser":
        made["recipes"]["denoiser"] = {
            "base": "tiny",
            "schedule": {"kind": "denoising"},
            "weighting": "karras",
        }
        made["couplings"] = {"lent": {**LENT, "pretrained": {"recipe": "tiny", "coupling": "generator"}}}
        made["table1"] = grid | {"recipes": ["denoiser"], "couplings": ["lent"], "seeds": [0]}
        made["study"]["compare"] = []
    if name in ("plane", "trajectories"):
        made |= {"dataset": "mixture", "recipe": "tiny", "coupling": "vae", "extractor": "values"}
        made["table1"] = grid | {"datasets": ["mixture"], "couplings": ["vae"], "seeds": [0]}
        made["study"]["compare"] = []
    return made


@pytest.fixture(scope="module")
def made(clone):
    """A clone whose studies are small ones, one of each kind, all drawn."""
    folder = clone.root / "workflow/studies"
    for path in folder.glob("*.yaml"):
        path.unlink()
    for order, name in enumerate(FIGURES):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(study(name, order)))
    clone.run("git", "add", "--all")
    clone.run("git", "commit", "--quiet", "--message", "small studies")
    clone.run("snakemake", "--cores", "2", "results/paper.html")
    return clone


@pytest.mark.parametrize("name", FIGURES)
def test_figure_has_data_picture_and_caption(made, name):
    place = made.root / "results/paper"
    rows = lines(place / f"{name}.csv")
    caption = json.loads((place / f"{name}.json").read_text())
    assert ElementTree.parse(place / f"{name}.svg").getroot().tag.endswith("svg")
    assert (place / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert {row["seed"] for row in rows} == (
        {"0"} if name in ("plane", "regulariser", "trajectories") else {"0", "1"}
    )
    assert len(caption["statements"]) == {
        "dots": 2,  # NFE 1 and 2
        "sweep": 2,
        "evaluations": 2,
        "steps": 3,  # steps, seconds, evaluations
        "gradient": 1,
        "transport": 1,
    }.get(name, 0)
    for found in caption["statements"]:
        # Steps of a millisecond on a busy machine may be too uncertain to compare.
        assert found["verdict"] != "no claim" or "ratio of their times" in found["text"]
    assert "4 steps of 8 images" in caption["budget"]


def test_numbers_are_those_of_the_stages(made):
    place = made.root / "results"
    for name, file in (("dots", "evaluation.json"), ("sweep", "selection.json")):
        found = sorted(float(row["value"]) for row in lines(place / f"paper/{name}.csv"))
        stored = []
        for path in place.glob(f"runs/digits-tiny-*/*/{file}"):
            content = json.loads(path.read_text())
            if name == "dots":
                stored += [row["value"] for row in content["numbers"] if row["metric"] == "fd"]
            else:
                stored += [value for key, value in content["scores"][-1].items() if key.startswith("fd_")]
        assert found == sorted(stored)


def test_sweep_has_the_setting_of_each_row(made):
    rows = lines(made.root / "results/paper/sweep.csv")
    assert {(row["coupling"], row["x"]) for row in rows} == {("independent", "0.0"), ("generator", "0.5")}


def test_page_holds_every_figure_in_order_and_nothing_from_elsewhere(made):
    page = (made.root / "results/paper.html").read_text()
    places = [page.index(f'id="{name}"') for name in FIGURES]
    assert places == sorted(places)
    assert page.count("data:image/svg+xml;base64,") == len(FIGURES)
    assert page.index("data:image/png;base64,") < page.index("data:image/svg+xml;base64,")
    assert page.count("data:image/png;base64,") == 1
    assert "Nothing &lt;b&gt;at all&lt;/b&gt;." in page
    assert 'href="paper/dots.csv"' in page


def test_a_second_call_has_nothing_to_do_and_an_edited_claim_redraws_its_figure_alone(made):
    assert made.plan("results/paper.html") == []
    with made.edited("workflow/studies/dots.yaml") as [path]:
        content = yaml.safe_load(path.read_text())
        content["study"]["claim"] = "Something."
        path.write_text(yaml.safe_dump(content))
        assert made.rules("results/paper.html") == ["figure", "paper"]
    assert made.plan("results/paper.html") == []


def test_a_study_that_shares_its_cells_runs_nothing_but_its_figure(made):
    """Whatever file is found first to give the jobs their settings."""
    shared = made.root / "workflow/studies/a-first.yaml"
    shared.write_text(yaml.safe_dump(study("steps", 99)))
    rules = made.rules("results/paper/a-first.csv", "results/paper/steps.csv")
    shared.unlink()
    assert rules == ["figure"]


def test_the_page_is_current_whatever_the_times_of_its_files(made):
    """As after `make pull`."""
    captions = [*(made.root / "results/paper").iterdir()]
    os.utime(made.root / "results/paper.html", (1, 1))
    assert made.plan("results/paper.html") == []
    assert made.rules("results/paper.html", "--forcerun", "paper") == ["paper"]
    for path in captions:
        os.utime(path, (2, 2))
    assert made.plan("results/paper.html") == []


def test_figures_and_page_are_kept_by_dvc(made):
    assert (made.root / "results/paper.dvc").exists()
    assert (made.root / "results/paper.html.dvc").exists()
    kept = made.run("git", "status", "--porcelain", "--untracked-files=all", "results").stdout
    assert "results/paper.dvc" in kept
    assert "results/paper/" not in kept
    assert "selection.record.json" not in kept


def test_everything_is_in_a_record_that_holds(made):
    said = made.run("couplet", "verify", "results").stdout
    assert "differ" not in said or "0 differ" in said


def test_figure_of_a_file_without_a_study_is_one_line(made):
    done = made.run("couplet", "figure", "--params", "params.yaml", "--out", "results/paper/no.csv", ok=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("couplet: ")
    assert "study" in done.stderr
    assert not (made.root / "results/paper/no.csv").exists()


def test_caption_that_is_none_is_one_line(made):
    done = made.run("couplet", "paper", "results/paper/dots.csv", "--out", "page.html", ok=False)
    assert done.returncode == 2
    assert "results/paper/dots.csv" in done.stderr
    assert not (made.root / "page.html").exists()
