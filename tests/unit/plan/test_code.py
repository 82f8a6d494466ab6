"""The definitions that make a stage's output, and the edits that change their digests."""

import gc
import importlib
import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager
from importlib import import_module
from inspect import CO_OPTIMIZED
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from couplet.config.couplings import CouplingConfig
from couplet.config.networks import NetworkConfig
from couplet.config.params import Params
from couplet.config.recipes import (
    DistanceConfig,
    EMAConfig,
    KernelConfig,
    LearningRateConfig,
    OptimizerConfig,
    ScheduleConfig,
    WeightingConfig,
)
from couplet.errors import UserError
from couplet.plan import code
from couplet.plan.code import PACKAGE, check_running, definitions
from couplet.plan.layout import Layout
from couplet.plan.stages import RUN, STAGES, Settings, code_of
from couplet.plan.summaries import FIGURE_FILES, TABLE_FILES
from couplet.process import Context

ROOMS = (
    *("couplings", "data", "kernels", "losses", "metrics", "networks", "probes", "sampling", "schedules"),
    *("training", "model", "selection", "tensors", "ranks"),
)
"""Rooms and modules of couplet whose functions decide numbers."""


@contextmanager
def called():
    """Collects ``module:name`` of the numeric rooms' definitions that are called meanwhile, in any thread."""
    codes, names = set(), set()

    def note(frame, event, argument):
        codes.add(frame.f_code)

    # Python 3.11 crashes where garbage of torch's compiler, of an earlier test, is collected in a profile.
    gc.collect()
    gc.disable()
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield names
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        gc.enable()
    for each in codes:
        path = Path(each.co_filename)
        # Bodies of modules and classes are run when they are imported, whoever imports them.
        if path.is_relative_to(PACKAGE) and each.co_flags & CO_OPTIMIZED:
            module = ".".join(("couplet", *path.relative_to(PACKAGE).with_suffix("").parts))
            name = each.co_qualname.partition(".")[0]
            if module.split(".")[1] in ROOMS:
                names.add(f"{module}:{name}")


READ_BACK = {"couplet.data.archive:Archive", "couplet.data.archive:read_array"}
"""Definitions by which `prepare` reads its archive again, to draw a picture and to name digests."""


def missing(stage, settings, names):
    """The definitions among ``names`` on which the key of a stage's output does not depend."""
    known, waiting = set(READ_BACK) if stage == "prepare" else set(), [stage]
    while waiting:
        known |= set(code_of(waiting[-1], settings))
        waiting += STAGES[waiting.pop()].reads
    frozen = settings.training.frozen_run
    if frozen is not None and stage != "prepare":
        known |= set(code_of("train", Settings.of(frozen)))
    return {name for name in names - known if not name.endswith("<lambda>")}


def member(family, kinds, number, **settings):
    """One of the kinds of a family, in turn; settings that it does not have are left out."""
    kind = kinds[number % len(kinds)]
    fields = family.family[kind].model_fields
    return {"kind": kind, **{key: value for key, value in settings.items() if key in fields}}


SIZES = {
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "channels_per_head": 4,
    "dropout": 0.1,
    "dropout_resolution": None,
    "attention_below_head_width": "absent",
}
VARIED = {
    "schedule": ScheduleConfig,
    "distance": DistanceConfig,
    "weighting": WeightingConfig,
    "optimizer": OptimizerConfig,
    "learning_rate": LearningRateConfig,
    "ema": EMAConfig,
}


def grid(path):
    """A grid that has each coupling, kernel, network and other part of a recipe, in a few tiny runs."""
    couplings = sorted(CouplingConfig.family)
    encoder = {"model_channels": 8}
    cells, recipes = [], {}
    for i, coupling in enumerate([*couplings, "lent", "independent"]):
        parts = {key: member(family, sorted(family.family), i) for key, family in VARIED.items()}
        network = member(NetworkConfig, sorted(NetworkConfig.family), i, **SIZES)
        recipes[f"r{i}"] = {
            "steps": 2,
            "batch": 4,
            "network": network,
            **parts,
            # The third kind of schedule is the one that has the N(k) of a target.
            "teacher": ["online", "ema", "target"][i % 3],
            "conditional": bool(i % 3),
            "flip": bool(i % 2),
            "clip_norm": [None, 1.0][i % 2],
            "nonfinite_gradients": ["stop", "zero", "large"][i % 3],
        }
        kernel = sorted(KernelConfig.family)[i % len(KernelConfig.family)]
        cells.append({"recipe": f"r{i}", "kernel": kernel, "coupling": coupling})
    recipes["started"] = {**recipes["r0"], "init_from": str(path / "weights.safetensors")}
    cells.append({**cells[0], "recipe": "started"})
    grids = [
        {"datasets": ["digits"], "seeds": [0], **{f"{key}s": [name] for key, name in cell.items()}}
        for cell in cells
    ]
    others = {"recipes": ["r1"], "kernels": ["ve"], "couplings": ["independent"], "seeds": [0]}
    grids[0]["extractors"] = ["classifier", "values"]
    grids += [{**others, "datasets": ["mixture", "own"], "extractors": ["values"]}]
    recipes["r1"]["network"] = {"kind": "mlp", "model_channels": 8, "num_blocks": 1}
    return {
        "dataset": "digits",
        "recipe": "r0",
        "coupling": "independent",
        "extractor": "classifier",
        "table1": grids,
        "datasets": {
            "digits": {"test_images": 300},
            "mixture": {"points": 20},
            "own": {"kind": "images", "path": str(path / "own"), "resolution": 8, "test_images": 10},
        },
        "features": {"classifier": {"steps": 2, "channels": [8, 8], "features": 8}, "values": {}},
        "couplings": {
            **{kind: {"encoder": encoder} for kind in ("vae", "vae_generator")},
            "lent": {"kind": "generator", "predictor": "frozen", "pretrained": {"coupling": "independent"}},
        },
        "recipes": recipes,
        "train": {"snapshots": 2, "save_every": 1},
        "select": {"samples": 8, "nfe": 2, "split": "train"},
        "reference": {"images": 10, "sets": 2},
        "sample": {"samples": 8, "repeats": 2, "labels": "data"},
        "evaluate": {"metrics": {"fd": None, "kid": {"subsets": 2, "subset_size": 8}, "is": {"splits": 2}}},
        "probes": {
            "gradient": {"batches": 2},
            "transport": {"pairs": 8, "levels": [1.0]},
            "regulariser": {"pairs": 8, "levels": [1.0]},
            "plane": {"points": 5},
        },
    }


def own_images(folder):
    """Twenty colour images of noise in two classes, a zip and a folder."""
    rng = np.random.default_rng(0)
    for i in range(20):
        path = folder / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(path)


def initial_weights(path, training, shape):
    """Weights of another network of the same kind."""
    from safetensors.torch import save_file

    from couplet.model import build

    save_file(build(training.design, shape).network.state_dict(), path)


def test_no_definition_that_a_stage_calls_is_missing_from_its_key(tmp_path):
    """The stages run under a tracer: every function of a numeric room that is called must count."""
    from couplet.cost import native_shape

    own_images(tmp_path / "own")
    params = Params.model_validate(grid(tmp_path))
    first = params.training(params.cells()[0])
    initial_weights(tmp_path / "weights.safetensors", first, native_shape(first.dataset))
    layout, context, seen = Layout(params, tmp_path / "results"), Context(), set()
    wanting = {}

    def check(stage, settings, **given):
        if given["out"].exists():
            return
        with called() as names:
            import_module(f"couplet.stages.{stage}").run(context, settings, **given)
        assert names
        wanting.setdefault(stage, set()).update(missing(stage, settings, names))
        seen.update(names)

    for cell, extractor in params.measured():
        outputs, settings = layout.outputs(cell, extractor), layout.settings(cell, extractor)
        frozen = settings.training.frozen_run
        more = {"prepare": {"name": cell.dataset}}
        if frozen is not None:
            more["train"] = {"frozen": layout.output("train", frozen.cell)}
            reads = {"data": outputs["prepare"], "out": layout.output("train", frozen.cell)}
            check("train", layout.settings(frozen.cell), **reads)
        for stage in RUN:
            paths = {STAGES[read].option: outputs[read] for read in STAGES[stage].reads}
            check(stage, settings, **paths, out=outputs[stage], **more.get(stage, {}))
        for name in params.probes_of(cell):
            paths = {
                "data": outputs["prepare"],
                "train": outputs["train"],
                "out": layout.output("probe", cell, name),
            }
            check("probe", layout.settings(cell, probe=name), **paths, **more.get("train", {}))
    for name, (cell, *_) in layout.timed().items():
        data = layout.output("prepare", cell)
        check("time", layout.timing(name), data=data, out=layout.times(name))
    assert {stage: sorted(names) for stage, names in wanting.items() if names} == {}
    assert set(wanting) == set(STAGES)
    rooms = {name.split(".")[1].partition(":")[0] for name in seen}
    assert rooms >= set(ROOMS) - {"selection"}


PACKAGE_OF_TEST = {
    "house/__init__.py": "",
    "house/base.py": """
        import math

        FACTOR = 2.0
        UNUSED = 3.0

        class Base:
            scale = 1.0

            def twice(self, x):
                return 2 * x
        """,
    "house/tools.py": """
        from house.base import FACTOR
        import house.deep.inner
        from house import far

        def helper(x, *, power=2):
            \"\"\"Raise x.\"\"\"
            assert x > 0, f"x = {x}"
            return x ** power

        def late(x):
            from house.late import shift
            return shift(x)

        def scaled(x):
            return FACTOR * x + house.deep.inner.CONSTANT + far.away(x)

        def other(x):
            return x
        """,
    "house/late.py": """
        def shift(x):
            return x + 1

        def unshift(x):
            return x - 1
        """,
    "house/far.py": """
        def away(x):
            return x
        """,
    "house/deep/__init__.py": "",
    "house/deep/inner.py": """
        CONSTANT = 1
        """,
    "house/main.py": """
        import dataclasses
        from collections.abc import Callable
        from house.base import Base
        from house.tools import helper, late, scaled

        class Mine(Base):
            def __init__(self, config):
                self.config = config

            def __call__(self, x: float) -> float:
                # A comment.
                if x < 0:
                    raise ValueError(f"x = {x}: must not be negative")
                return helper(self.twice(x)) + late(x) + scaled(x)
        """,
}
"""Source of a package, by path; ``house.main:Mine`` reaches all but a few of its definitions."""

KEPT = {
    "comment": ("main", "# A comment.", "# Another one."),
    "docstring": ("tools", "Raise x.", "Raise x to a power."),
    "docstring added": ("late", "def shift(x):", "def shift(x):\n    'Shift.'"),
    "annotation": ("main", "x: float) -> float", "x: int) -> Callable[[int], 'float']"),
    "annotation removed": ("main", "x: float) -> float", "x)"),
    "blank line and brackets": ("base", "return 2 * x", "\n        return (2 *\n                x)"),
    "how a number is written": ("base", "FACTOR = 2.0", "FACTOR = 2.00"),
    "order of imports": (
        "main",
        "import dataclasses\nfrom collections.abc import Callable",
        "from collections.abc import Callable\nimport dataclasses",
    ),
    "an import more": ("main", "import dataclasses", "import dataclasses, json"),
    "message of an error": ("main", "must not be negative", "has to be positive"),
    "cause of an error": ("main", 'negative")', 'negative") from None'),
    "message of an assertion": ("tools", 'f"x = {x}"', '"x is not positive"'),
    "unused constant": ("base", "UNUSED = 3.0", "UNUSED = 4.0"),
    "unused function": ("late", "return x - 1", "return x - 2"),
    "new function": ("late", "def unshift", "def new():\n    return 5\n\ndef unshift"),
    "new class": ("base", "class Base", "class New:\n    pass\n\nclass Base"),
    "function removed": ("tools", "def other(x):\n    return x", ""),
}
"""Edits that change no number: a module, a text of it, and the text in its place."""

CHANGED = {
    "constant in a function": ("late", "x + 1", "x + 2"),
    "operator": ("late", "x + 1", "x * 1"),
    "constant of the module": ("base", "FACTOR = 2.0", "FACTOR = 2.5"),
    "constant of another package, by its path": ("deep/inner", "CONSTANT = 1", "CONSTANT = 2"),
    "function of a module": ("far", "return x", "return -x"),
    "default argument": ("tools", "power=2", "power=3"),
    "condition of an assertion": ("tools", "x > 0", "x >= 0"),
    "condition of an error": ("main", "x < 0", "x <= 0"),
    "kind of an error": ("main", "raise ValueError", "raise TypeError"),
    "attribute of the base class": ("base", "scale = 1.0", "scale = 2.0"),
    "method of the base class": ("base", "return 2 * x", "return 3 * x"),
    "another base class": ("main", "Mine(Base)", "Mine"),
    "helper": ("tools", "x ** power", "x ** power + 1"),
    "decorator": ("late", "def shift", "@staticmethod\ndef shift"),
    "name that is rebound": ("base", "UNUSED = 3.0", "FACTOR = 3.0"),
    "statement of the module": ("late", "def unshift", "print()\n\ndef unshift"),
    "call": ("main", "late(x) +", ""),
    "order of a sum": ("main", "late(x) + scaled(x)", "scaled(x) + late(x)"),
    "import under the same name": (
        "tools",
        "from house.late import shift",
        "from house.late import unshift as shift",
    ),
}
"""Edits that may change a number."""


@pytest.fixture
def digests(tmp_path, monkeypatch):
    """The definitions that ``house.main:Mine`` reaches, with one text of one module replaced."""

    def examine(module=None, old="", new=""):
        root = tmp_path / f"{module}-{old}-{new}".encode().hex()[:40]
        for name, source in PACKAGE_OF_TEST.items():
            path, text = root / name, textwrap.dedent(source)
            if name == f"house/{module}.py":
                assert old in text
                text = text.replace(old, new)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setattr(sys, "path", [str(root), *sys.path])
        clear()
        return definitions("house.main:Mine")

    yield examine
    clear()


def clear():
    """Forget modules that were read."""
    for function in vars(code).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()


def test_definitions_are_followed_by_name(digests):
    assert sorted(digests()) == [
        *("house.base:Base", "house.base:FACTOR", "house.deep.inner:CONSTANT", "house.far:away"),
        *("house.late:shift", "house.main:Mine", "house.tools:helper", "house.tools:late"),
        "house.tools:scaled",
    ]


@pytest.mark.parametrize("edit", KEPT)
def test_edit_that_changes_no_number_changes_no_digest(digests, edit):
    assert digests(*KEPT[edit]) == digests()


@pytest.mark.parametrize("edit", CHANGED)
def test_edit_that_may_change_a_number_changes_the_digests(digests, edit):
    assert digests(*CHANGED[edit]) != digests()


def test_definition_that_is_none(digests):
    digests()
    with pytest.raises(ValueError, match=r"house\.main:Nobody: no such definition"):
        definitions("house.main:Nobody")


def test_every_stage_s_numerics_exist():
    for stage in STAGES.values():
        assert definitions(*stage.numerics) or not stage.numerics


def test_configuration_errors_and_files_never_count(tmp_path):
    params = Params.model_validate(grid(tmp_path))
    cell, extractor = params.measured()[0]
    settings = Layout(params, tmp_path).settings(cell, extractor)
    for stage in RUN:
        modules = {name.partition(":")[0].split(".")[1] for name in code_of(stage, settings)}
        assert not modules & {"config", "errors", "files", "plan", "stages", "cli", "provenance", "reporting"}


def test_package_has_the_files_that_tables_and_figures_read():
    """The wheel has every file of the package: tests/workflow/test_wheel.py makes a table with it."""
    assert all((PACKAGE / name).is_file() for name in (*TABLE_FILES, *FIGURE_FILES))


def test_a_copy_with_other_code_than_runs_is_refused(tmp_path):
    check_running(tmp_path / "without a package")
    place = tmp_path / "src/couplet"
    shutil.copytree(PACKAGE, place, ignore=shutil.ignore_patterns("__pycache__"))
    check_running(tmp_path)
    (place / "project/workflow").mkdir(parents=True)
    (place / "project/workflow/record.py").write_text("a wheel has it, a checkout has not")
    check_running(tmp_path)
    (place / "losses.py").write_text("")
    with pytest.raises(UserError, match=re.escape(f"differs from the code that runs, {PACKAGE}")):
        check_running(tmp_path)


def test_digests_depend_on_nothing_else(tmp_path):
    """Neither on the seed of hashes, the working directory or the order of a folder's files."""
    program = "from couplet.plan.code import definitions; print(definitions('couplet.training.loop:run'))"
    printed = set()
    for seed, folder in (("1", tmp_path), ("2", PACKAGE)):
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", program]
        printed.add(
            subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True).stdout
        )
    assert len(printed) == 1
    assert printed == {f"{definitions('couplet.training.loop:run')}\n".encode()}
