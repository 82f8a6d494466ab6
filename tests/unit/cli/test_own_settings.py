"""Commands that measure a run take their settings from it, and from what was measured before."""

import json
from pathlib import Path

import pytest
import yaml

from couplet.plan.stages import record_of


def settings_of(stage, output):
    return json.loads(record_of(stage, Path(output)).read_text())["settings"]


@pytest.fixture
def inputs(grid):
    """Options for the outputs of the grid's first run, which was measured with few images."""
    return {
        option: (f"--{option}", getattr(grid, option))
        for option in ("data", "train", "features", "reference", "selection", "samples")
    }


def test_evaluate_takes_the_settings_of_selection_and_samples(grid, inputs, couplet):
    options = [text for name, option in inputs.items() if name != "data" for text in option]
    code, _, err = couplet("evaluate", *options, "--out", "evaluation.json", "--device", "cpu")
    assert code == 0, err
    assert json.loads(Path("evaluation.json").read_text())["samples"]["count"] == 16


def test_sample_takes_the_settings_of_the_selection(grid, inputs, couplet):
    code, _, err = couplet(
        "sample", *inputs["train"], *inputs["selection"], "--out", "more", "--device", "cpu"
    )
    assert code == 0, err
    sampled, selected = settings_of("sample", "more"), settings_of("select", grid.selection)
    assert sampled["nfe"] == selected["scored_nfe"]
    assert sampled["quantise"] == selected["quantise"]


def test_probe_needs_no_parameter_file(inputs, couplet):
    code, _, err = couplet("probe", "transport", *inputs["train"], *inputs["data"], "--out", "probe.csv")
    assert code == 0, err


def test_a_file_that_contradicts_the_run_is_not_answered_by_training_again(grid_content, inputs, couplet):
    grid_content["recipes"]["ict"]["optimizer"] = {"kind": "radam", "lr": 0.5}
    Path("other.yaml").write_text(yaml.safe_dump(grid_content))
    code, _, err = couplet(
        "sample", *inputs["train"], *inputs["selection"], "--params", "other.yaml", "--out", "more"
    )
    assert code == 2
    assert "optimizer.lr = " in err and "this needs 0.5" in err
    assert err.endswith(
        "; give another folder or other settings; measuring without --params takes the run's own\n"
    )
