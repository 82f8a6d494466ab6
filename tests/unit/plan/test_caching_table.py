"""The table of docs/caching.md: each of its edits is made, on a copy of the package and of the parameters."""

import ast
import copy
import re
import shutil
from pathlib import Path

import pytest

import couplet
from couplet.config.resolve import resolve
from couplet.config.yaml12 import dump_yaml, read_yaml
from couplet.plan import code, summaries
from couplet.plan.code import PACKAGE
from couplet.plan.layout import Layout
from couplet.plan.summaries import table_key

ROOT = Path(__file__).parents[3]
STAGES = {"data": "prepare", **{name: name for name in ("features", "reference", "train")}}
STAGES |= {name: name for name in ("select", "sample", "evaluate")}
COLUMNS = [*STAGES, "time", "table"]


def rows():
    """Edits and the marks of their columns, as the document has them."""
    lines = re.findall(r"^\| (.*) \|$", (ROOT / "docs/caching.md").read_text(), re.MULTILINE)
    cells = [re.split(r" ?\| ?", line) for line in lines]
    assert cells[0] == ["edit", *COLUMNS]
    return {edit: dict(zip(COLUMNS, marks, strict=True)) for edit, *marks in cells[2:]}


class Copy:
    """A copy of the package and the content of params.yaml, to be edited at will."""

    def __init__(self, folder):
        self.folder, self.package = folder, folder / "src/couplet"
        self.content = read_yaml(ROOT / "params.yaml")
        self.path = folder / "params.yaml"

    def replace(self, file, old, new):
        path = self.package / file
        text = path.read_text()
        assert text.count(old) >= 1, f"{file}: no {old!r}"
        path.write_text(text.replace(old, new, 1))

    def append(self, file, text):
        path = self.package / file
        path.write_text((path.read_text() if path.exists() else "") + text)

    def put(self, dotted, value):
        *parents, last = dotted.split(".")
        place = self.content
        for parent in parents:
            place = place.setdefault(parent, {})
        assert place.get(last) != value
        place[last] = value

    def keys(self):
        """Keys by cell and column, and those of the measurement of time and of the table."""
        self.path.write_text(dump_yaml(self.content))
        layout = Layout(resolve(self.path), Path("results"))
        keys = {}
        for cell, extractor in layout.params.measured():
            of = layout.keys(cell, extractor)
            keys |= {(cell, column): of[stage] for column, stage in STAGES.items()}
        return keys | {"time": layout.times("digits").name, "table": table_key(layout)}


def every_file(place):
    """Source without comments and docstrings, its layout Python's own."""
    for path in place.package.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
                node.body[0].value.value = "Another docstring."
        path.write_text(ast.unparse(tree))


def annotations_and_messages(place):
    place.replace("training/ema.py", "(n: int, beta: float) -> float", "(n, beta)")
    place.replace("training/engine.py", "has no TF32", "has none")


COUPLING = """
class MineConfig(CouplingConfig):
    implementation: ClassVar[str] = "couplet.couplings.mine:Mine"
    kind: Literal["mine"] = "mine"
"""


def new_coupling(place):
    place.append("config/couplings.py", COUPLING)
    place.append(
        "couplings/mine.py", "from couplet.couplings.base import Coupling\n\nclass Mine(Coupling): pass\n"
    )


def new_variants(place):
    for family, base, folder in (
        ("networks", "NetworkConfig", "networks"),
        ("metrics", "MetricConfig", "metrics"),
        ("datasets", "DatasetConfig", "data/sources"),
    ):
        place.append(f"config/{family}.py", f"\nclass MineConfig({base}): pass\n")
        place.append(f"{folder}/mine.py", "def mine(): pass\n")


def pipeline_files(place):
    for room in ("cli", "stages", "plan", "provenance", "config"):
        for path in (place.package / room).glob("*.py"):
            place.append(path.relative_to(place.package), "\n\ndef added():\n    print(3)\n\nadded()\n")


def moved(place, name, dotted):
    """A file or folder under another path."""
    (place.folder / name).rename(place.folder / "moved")
    place.put(dotted, str(place.folder / "moved"))


def with_images(place):
    image = place.folder / "images" / "a" / "1.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"first")
    settings = {"kind": "images", "path": str(place.folder / "images"), "resolution": 8, "test_images": 2}
    place.put("datasets.digits", settings)


def with_weights(place):
    (place.folder / "weights").write_bytes(b"first")
    place.put("recipes.ict.init_from", str(place.folder / "weights"))


def study(place):
    """Cells of the grid in another file: their keys are those that the grid has."""
    path = place.folder / "study.yaml"
    path.write_text("base: params.yaml\ntable1: {couplings: [vae], seeds: [1]}\n")
    layout, grid = (Layout(resolve(each), Path("results")) for each in (path, place.path))
    ((cell, extractor),) = layout.params.measured()
    assert layout.outputs(cell, extractor) == grid.outputs(cell, extractor)


def put(**settings):
    """An edit of parameters; two underscores for a dot."""
    return lambda place: [place.put(key.replace("__", "."), value) for key, value in settings.items()]


def replace(file, old, new):
    """An edit of one file of the package."""
    return lambda place: place.replace(file, old, new)


EDITS = {
    "comments, docstrings and formatting of all files": every_file,
    "annotations and the message of an error in `training/`": annotations_and_messages,
    "a new coupling: a class in `config/couplings.py`, a file in `couplings/`": new_coupling,
    "a new network, metric and data set, each a class and a file": new_variants,
    "files of `cli/`, `stages/`, `plan/`, `provenance/` and `config/`": pipeline_files,
    "a formula in `couplings/variational.py`": replace("couplings/variational.py", "0.5 *", "0.25 *"),
    "the base class in `couplings/base.py`": replace(
        "couplings/base.py", "return noise\n", "return 1 * noise\n"
    ),
    "a block of the U-Net, `networks/blocks.py`": replace(
        "networks/blocks.py", "class UNetBlock(nn.Module):", "class UNetBlock(nn.Module):\n    new = 3\n"
    ),
    "the running average, `training/ema.py`": replace(
        "training/ema.py", "(1 + n) / (10 + n)", "(2 + n) / (10 + n)"
    ),
    "a variable renamed in `training/step.py`": replace(
        "training/step.py",
        "    distance = objective.distance(student, target)\n",
        "    gap = objective.distance(student, target)\n    distance = gap\n",
    ),
    "the loader of batches, `data/loader.py`": replace(
        "data/loader.py", "class Loader:", "class Loader:\n    new = 3\n"
    ),
    "the sampler, `sampling.py`": replace("sampling.py", "level * z", "z * level"),
    "the Fréchet distance, `metrics/distances.py`": replace(
        "metrics/distances.py", "def frechet_distance(", "@staticmethod\ndef frechet_distance("
    ),
    "KID, `metrics/distances.py`": replace(
        "metrics/distances.py", "def kernel_distance(", "@staticmethod\ndef kernel_distance("
    ),
    "the classifier's network, `metrics/extractor/classifier.py`": replace(
        "metrics/extractor/classifier.py",
        "class Classifier(nn.Module):",
        "class Classifier(nn.Module):\n    new = 3\n",
    ),
    "the reader of digits, `data/sources/toy.py`": replace("data/sources/toy.py", "255 / 16", "256 / 16"),
    "`reporting/published.csv`, or the style of figures": lambda place: place.append(
        "reporting/published.csv", "\n"
    ),
    "`recipes.ict.optimizer.lr`": put(recipes__ict__optimizer__lr=1e-3),
    "`recipes.ecm.steps`, which no cell of the grid has": put(recipes__ecm__steps=5),
    "`recipes.ict.mid_sigmas`": put(recipes__ict__mid_sigmas=[0.5]),
    "`couplings.vae.kl_weight`": put(couplings__vae__kl_weight=5.0),
    "`datasets.digits.test_images`": put(datasets__digits__test_images=301),
    "`features.classifier.steps`": put(features__classifier__steps=5),
    "`reference.images`": put(reference__images=500),
    "`select.samples`": put(select__samples=500),
    "`sample.samples`, `sample.repeats`": put(sample__samples=500, sample__repeats=2),
    "`sample.labels`": put(sample__labels="data"),
    "`evaluate.metrics.kid.subsets`": put(evaluate__metrics__kid__subsets=5),
    "a metric more in `evaluate.metrics`": put(evaluate__metrics__precision_recall={}),
    "`train.snapshots`": put(train__snapshots=5),
    "`train.log_every`, `train.save_every`, `train.microbatch`, `sample.batch`": put(
        train__log_every=5, train__save_every=5, train__microbatch=8, sample__batch=50
    ),
    "`raw`, `probes`, `track`, `peak_tflops`": put(
        raw="other", probes={"plane": {}}, track=["mlflow"], peak_tflops=1.0
    ),
    "`threads`": put(threads=2),
    "`gpus` above 1": put(gpus=2),
    "`nodes` above 1": put(nodes=2),
    "`gpus: 0`": put(gpus=0),
    "a seed more in `table1.seeds`": put(table1__seeds=[0, 1, 2, 3]),
    "a study with cells of the grid in a new file": study,
    "images at `path` replaced, under the same names": lambda place: (
        place.folder / "images/a/1.png"
    ).write_bytes(b"other"),
    "images at `path` moved, with `path`": lambda place: moved(place, "images", "datasets.digits.path"),
    "weights of `init_from` written again": lambda place: (place.folder / "weights").write_bytes(b"other"),
    "weights of `init_from` moved, with `init_from`": lambda place: moved(
        place, "weights", "recipes.ict.init_from"
    ),
}
"""The edits of the document, each of a :class:`Copy`."""

BEFORE = {"images": with_images, "weights": with_weights}
"""What an edit needs first, by the first word of its name."""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A copy whose code is the code that keys are made of."""
    place = Copy(tmp_path)
    shutil.copytree(PACKAGE, place.package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(couplet.__spec__, "submodule_search_locations", [str(place.package)])
    monkeypatch.setattr(summaries, "PACKAGE", place.package)
    forget()
    yield place
    monkeypatch.undo()
    forget()


def forget():
    """Forget the modules that were read."""
    for function in vars(code).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


def test_document_lists_the_edits():
    assert list(rows()) == list(EDITS)


@pytest.mark.parametrize("edit", EDITS)
def test_edit_reruns_what_the_document_says(place, edit):
    if (first := edit.split()[0]) in BEFORE:
        BEFORE[first](place)
    content = copy.deepcopy(place.content)
    before = place.keys()
    EDITS[edit](place)
    if place.content == content:
        forget()
    after = place.keys()
    marks = rows()[edit]
    for column in STAGES:
        cells = {key[0] for key in before if key[1:] == (column,)}
        changed = {cell for cell in cells if before[cell, column] != after[cell, column]}
        its = {cell for cell in cells if cell.coupling == "vae"}
        assert changed == {"": set(), "all": cells, "its cells": its}[marks[column]], column
    for column in ("time", "table"):
        assert (before[column] != after[column]) == (marks[column] == "all"), column
