"""benchmarks/power.py: what it reads, compares and concludes."""

import json
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from couplet.reporting.intervals import pairs_needed, simultaneous

SCRIPT = Path(__file__).parents[3] / "benchmarks/power.py"
NAMES = {"dataset": "digits", "recipe": "ict", "kernel": "ve"}


@pytest.fixture
def power(monkeypatch, capsys):
    """Runs the script; returns what it prints."""

    def run(*arguments):
        monkeypatch.syspath_prepend(SCRIPT.parent)
        monkeypatch.setattr("sys.argv", [str(SCRIPT), *map(str, arguments)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def study(tmp_path):
    """The CSV file of a figure of kind `steps`: ten seeds, of which one row lacks the last."""
    rng = np.random.default_rng(0)
    rows = [
        {
            **NAMES,
            "coupling": coupling,
            "row": coupling,
            "seed": seed,
            "nfe": 1,
            "against": against,
            "x": x,
            "value": v,
        }
        for coupling, count, mean in (("independent", 10, 1.0), ("ot", 9, 0.5), ("vae", 10, 0.9))
        for seed in range(count)
        for against, unit in (("steps", 1), ("seconds", 0.1))
        for x, v in ((100 * unit, mean + rng.normal()), (200 * unit, mean + 0.1 * rng.normal()))
    ]
    path = tmp_path / "study.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_seeds_follow_from_the_pairs_of_each_snapshot(power, study, tmp_path):
    out, numbers = tmp_path / "power.json", tmp_path / "numbers.csv"
    printed = power(study, "--json", out, "--numbers", numbers, "--size", "0.5")
    found = json.loads(out.read_text())
    assert found["level"] == simultaneous(2)
    assert f"{100 * simultaneous(2):g} %" in printed
    rows = {(row["coupling"], row["step"]): row for row in found["comparisons"]}
    assert [*rows] == [("ot", 100), ("vae", 100), ("ot", 200), ("vae", 200)]
    table = (
        pd.read_csv(study)
        .query("against == 'steps' and x == 200")
        .pivot(index="seed", columns="coupling")["value"]
    )
    difference = (table["ot"] - table["independent"]).dropna()
    row = rows["ot", 200]
    assert row["pairs"] == len(difference) == 9
    assert row["difference"] == pytest.approx(difference.mean())
    assert row["std"] == pytest.approx(difference.std())
    assert row["seeds_for_observed"] == pairs_needed(difference.mean(), difference.std(), simultaneous(2))
    half = 0.5 * table["independent"][:9].mean()
    assert row["seeds_for_0.5"] == pairs_needed(half, difference.std(), simultaneous(2))
    assert power(numbers, "--size", "0.5") == printed
