"""An installed package adds a data set, an extractor, a metric, a probe and a figure; its stages use them."""

import csv
import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

from couplet.config.base import Variant
from couplet.config.params import FAMILIES
from couplet.config.resolve import resolve
from couplet.config.variants import load_plugins
from couplet.config.yaml12 import dump_yaml
from couplet.errors import UserError
from couplet.plan.layout import Layout
from couplet.plan.stages import RUN, STAGES, code_of
from couplet.process import Context
from couplet.stages import figure

SOURCE = '''
from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from couplet.config.datasets import DatasetConfig
from couplet.config.extractors import ExtractorConfig
from couplet.config.metrics import MetricConfig, Number
from couplet.config.probes import ProbeConfig
from couplet.config.study import FigureConfig


class StripesConfig(DatasetConfig):
    """Images whose rows are bright or dark."""

    implementation: ClassVar[str] = "outside_code:read_stripes"
    native: ClassVar = (8, 8, 1)
    kind: Literal["stripes"] = "stripes"
    count: int = 40


class RowsConfig(ExtractorConfig):
    """Means of rows as features."""

    implementation: ClassVar[str] = "outside_code:Rows"
    kind: Literal["rows"] = "rows"


class GapConfig(MetricConfig):
    """Largest gap between means of features."""

    implementation: ClassVar[str] = "outside_code:gap"
    numbers: ClassVar[Mapping[str, Number]] = {"gap": Number("gap", 2, lower_is_better=True)}
    kind: Literal["gap"] = "gap"
    factor: float = 1.0


class NormConfig(ProbeConfig):
    """Norm of all weights, for each snapshot."""

    implementation: ClassVar[str] = "outside_code:norm"
    columns = ("step", "norm")
    kind: Literal["norm"] = "norm"


class BlankConfig(FigureConfig):
    """Axes with a point for each row."""

    implementation: ClassVar[str] = "outside_code:Blank"
    kind: Literal["blank"] = "blank"
'''

CODE = """
import numpy as np
from matplotlib.figure import Figure

from couplet.data.archive import Split
from couplet.data.loader import to_float
from couplet.data.sources.base import Source
from couplet.figures.base import FigureKind
from couplet.metrics.extractor.base import Extractor


def read_stripes(config, raw, stack):
    labels = np.arange(config.count) % 2
    images = np.zeros((config.count, 8, 8, 1), np.uint8)
    images[labels == 1, ::2] = 200
    images += np.arange(config.count, dtype=np.uint8)[:, None, None, None]
    split = Split(images, labels.astype(np.int64))
    return Source("made of stripes", ("even", "odd"), {"train": split, "test": split})


class Rows(Extractor):
    batch = 16

    def __init__(self, config, folder, device):
        super().__init__(config, folder, device, digest="0" * 64)

    def prepare(self, images):
        return to_float(images, self.device)

    def network(self, prepared):
        return prepared.mean((1, 3)), None


def gap(config, samples, reference, *, seed):
    return {"gap": config.factor * float(np.abs(samples.moments.mean - reference.moments.mean).max())}


def norm(config, subject):
    for step in subject.checkpoints:
        model = subject.snapshot(step).online
        yield step, sum(float(each.square().sum()) for each in model.parameters()) ** 0.5


class Blank(FigureKind):
    def rows(self, cells):
        return cells.distances()

    def picture(self, rows, ylabel):
        picture = Figure()
        picture.subplots().plot(rows["value"])
        return picture
"""

CONTENT = {
    "dataset": "stripes",
    "recipe": "tiny",
    "coupling": "independent",
    "extractor": "rows",
    "table1": {"datasets": ["stripes"], "recipes": ["tiny"], "couplings": ["independent"], "seeds": [0, 1]},
    "datasets": {"stripes": {"count": 20}},
    "recipes": {"tiny": {"steps": 2, "batch": 4, "network": {"kind": "mlp", "model_channels": 8}}},
    "train": {"snapshots": 2},
    "select": {"samples": 16},
    "sample": {"samples": 16},
    "evaluate": {"metrics": {"fd": None, "gap": None, "double": {"kind": "gap", "factor": 2.0}}},
    "study": {
        "paper": "couplet",
        "result": "none",
        "title": "T",
        "claim": "C.",
        "source": "nobody",
        "order": 1,
        "figure": {"kind": "blank"},
    },
}

OUTSIDE = ("outside", "outside_code")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package with a module of settings, named as an entry point, and one of code."""
    families = {family: dict(family.family) for family in Variant.__subclasses__()}
    site = tmp_path / "site"
    about = site / "outside-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[couplet.plugins]\noutside = outside\n")
    (site / "outside.py").write_text(SOURCE)
    (site / "outside_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(site)
    load_plugins.cache_clear()
    yield tmp_path
    for family, members in families.items():
        family.family.clear()
        family.family.update(members)
    for name in OUTSIDE:
        sys.modules.pop(name, None)
    load_plugins.cache_clear()


def write(folder, content=CONTENT):
    path = folder / "params.yaml"
    path.write_text(dump_yaml(content))
    return path


def lines(path):
    """The rows of a CSV file."""
    return list(csv.DictReader(path.read_text().splitlines()))


def test_stages_use_variants_of_an_installed_package(installed):
    params = resolve(write(installed))
    assert "outside_code" not in sys.modules, "settings are read without the code"
    layout, context = Layout(params, installed / "results"), Context()
    for cell, extractor in params.measured():
        outputs, settings = layout.outputs(cell, extractor), layout.settings(cell, extractor)
        for stage in RUN:
            paths = {STAGES[read].option: outputs[read] for read in STAGES[stage].reads}
            more = {"name": cell.dataset} if stage == "prepare" else {}
            import_module(f"couplet.stages.{stage}").run(
                context, settings, **paths, out=outputs[stage], **more
            )
    card = json.loads((outputs["prepare"] / "card.json").read_text())
    assert card["source"] == "made of stripes"
    assert json.loads((outputs["features"] / "card.json").read_text())["kind"] == "rows"
    rows = json.loads(outputs["evaluate"].read_text())["numbers"]
    numbers = {row["metric"]: row["value"] for row in rows if row["nfe"] == 1}
    assert set(numbers) == {"fd", "gap", "double_gap"}
    assert numbers["double_gap"] == pytest.approx(2 * numbers["gap"])
    assert "norm" in params.probes_of(cell)
    probe = layout.output("probe", cell, "norm")
    paths = {"data": outputs["prepare"], "train": outputs["train"], "out": probe}
    import_module("couplet.stages.probe").run(context, layout.settings(cell, probe="norm"), **paths)
    measured = lines(probe)
    assert [row["step"] for row in measured] == ["1", "2"]
    assert all(float(row["norm"]) > 0 for row in measured)
    picture = installed / "results/paper/outside.csv"
    figure.run(params, "outside", layout.root, picture)
    assert len(lines(picture)) == len(rows) // 3 * len(params.cells())
    assert picture.with_suffix(".svg").exists()


@pytest.mark.parametrize(
    ("stage", "definition"),
    [
        ("prepare", "outside_code:read_stripes"),
        ("features", "outside_code:Rows"),
        ("evaluate", "outside_code:gap"),
        ("probe", "outside_code:norm"),
    ],
)
def test_code_of_an_installed_package_counts(installed, stage, definition):
    params = resolve(write(installed))
    layout = Layout(params, Path("results"))
    (cell, extractor), *_ = params.measured()
    probe = "norm" if stage == "probe" else None
    assert definition in code_of(stage, layout.settings(cell, extractor, probe=probe))


@pytest.mark.parametrize("section", FAMILIES)
def test_kind_of_an_installed_package_without_code_is_one_line(installed, section):
    """In a section of a parameter file; the same holds for recipes, metrics and figures."""
    family = FAMILIES[section].__name__
    imports = f"from typing import Literal\nfrom {FAMILIES[section].__module__} import {family}\n"
    mine = f'class MineConfig({family}):\n    kind: Literal["mine"] = "mine"\n'
    (installed / "site/outside.py").write_text(imports + mine)
    content = {key: value for key, value in CONTENT.items() if key != "study"} | {
        "dataset": "digits",
        "extractor": "values",
        "evaluate": {"metrics": {"fd": None}},
        "datasets": {},
        "table1": CONTENT["table1"] | {"datasets": ["digits"]},
    }
    assert resolve(write(installed, content))
    content[section] = {**content.get(section, {}), "mine": None}
    with pytest.raises(
        UserError, match=rf"{section}\.mine\.kind = \"mine\": MineConfig names no implementation"
    ):
        resolve(write(installed, content))


def test_unknown_kind_lists_those_of_an_installed_package(installed):
    resolve(write(installed))
    content = CONTENT | {"extractor": "rowz"}
    with pytest.raises(UserError, match=r'extractor = "rowz": did you mean \'rows\'\? allowed: .*rows'):
        resolve(write(installed, content))


def test_package_that_cannot_be_imported_is_one_line(installed):
    (installed / "site/outside.py").write_text("import nothing_of_that_name\n")
    message = r"^package outside: outside of couplet\.plugins cannot be imported \(No module named 'nothing"
    with pytest.raises(UserError, match=message) as caught:
        resolve(write(installed))
    assert "\n" not in str(caught.value)
