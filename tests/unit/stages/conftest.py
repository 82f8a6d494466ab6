"""A grid of two cells that takes seconds, with the records of all its stages."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from couplet.config import Params
from couplet.config.layout import Layout
from couplet.stages.evaluate import evaluate
from couplet.stages.features import features
from couplet.stages.prepare import prepare
from couplet.stages.reference import reference
from couplet.stages.sample import sample
from couplet.stages.select import select
from couplet.stages.table import table
from couplet.stages.train import train

CPU = torch.device("cpu")
PARAMS = Path(__file__).parents[3] / "params.yaml"


def silent(*anything):
    """Reports to nobody."""


def run_shared(layout, cell, extractor):
    """The stages that all cells of a data set share."""
    data, folder = layout.data(cell.dataset), layout.features(cell.dataset, extractor)
    prepare(cell.dataset, layout.params.datasets[cell.dataset], out=data, raw=Path("raw"))
    features(layout.params.features[extractor], data, folder, CPU)
    reference(data, folder, layout.reference(cell.dataset, extractor), CPU, silent)


def run_cell(layout, cell, extractor):
    """The stages of one cell."""
    settings = layout.params.training(cell), layout.params.measurement(cell, extractor)
    trained, out = layout.train(cell), layout.evaluation(cell, extractor)
    folder, statistics = layout.features(cell.dataset, extractor), layout.reference(cell.dataset, extractor)
    selection, samples = out / "selection.json", out / "samples"
    train(settings[0], layout.data(cell.dataset), trained, CPU, silent, silent)
    select(*settings, trained, folder, statistics, selection, CPU, silent)
    sample(*settings, trained, selection, samples, CPU, silent)
    evaluate(*settings, trained, selection, samples, folder, statistics, out, CPU)


def small():
    """The content of the repository's file at the size of the grid here."""
    content = yaml.safe_load(PARAMS.read_text())
    del content["scale"], content["scales"]
    content["table1"] |= {"couplings": ["independent"], "seeds": [0, 1]}
    content["recipes"]["ict"] |= {"steps": 2, "batch": 4}
    content["recipes"]["ict"]["network"]["model_channels"] = 8
    content["features"]["classifier"] = {"steps": 2, "channels": [8, 8], "features": 8}
    content["train"] = {"snapshots": 2, "log_every": 1}
    content["select"] = {"samples": 16}
    content["sample"] = {"samples": 16}
    content["evaluate"] = {"metrics": {"fd": {}, "kid": {"subsets": 2, "subset_size": 8}}}
    return content


@pytest.fixture
def grid_content():
    """The parameters of the grid as a file has them, to be edited at will."""
    return small()


@pytest.fixture(scope="session")
def made_grid(tmp_path_factory):
    """Parameters of two seeds of one coupling, and the folder of their results with a table."""
    params = Params.model_validate(small())
    root = tmp_path_factory.mktemp("grid") / "results"
    layout = Layout(params, root)
    for number, (cell, extractor) in enumerate(params.measured()):
        if not number:
            run_shared(layout, cell, extractor)
        run_cell(layout, cell, extractor)
    table(params, root, root / "table1.csv")
    return params, root


@pytest.fixture
def grid(made_grid, tmp_path, monkeypatch):
    """A copy of the grid below the working folder, with its two cells."""
    params, made = made_grid
    monkeypatch.chdir(tmp_path)
    root = Path("results")
    shutil.copytree(made, root)
    layout = Layout(params, root)
    first, second = (cell for cell, _ in params.measured())
    return SimpleNamespace(
        params=params,
        root=root,
        layout=layout,
        cells=(first, second),
        data=layout.data("digits"),
        features=layout.features("digits", "classifier"),
        reference=layout.reference("digits", "classifier"),
        train=layout.train(first),
        eval=layout.evaluation(first, "classifier"),
        records=layout.records(first, "classifier"),
    )
