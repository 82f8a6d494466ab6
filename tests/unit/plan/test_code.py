"""The definitions that make a stage's output, and what an edit of them, and of everything else, does to keys."""

import sys
import threading
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from couplet.config.couplings import CouplingConfig
from couplet.config.networks import NetworkConfig
from couplet.config.params import Params
from couplet.config.probes import ProbeConfig
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
from couplet.plan.code import PACKAGE, check_running, definitions
from couplet.plan.layout import Layout
from couplet.plan.stages import RUN, STAGES, code_of, record_of
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

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield names
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    for code in codes:
        path = Path(code.co_filename)
        if path.is_relative_to(PACKAGE) and code.co_name != "<module>":
            module = ".".join(("couplet", *path.relative_to(PACKAGE).with_suffix("").parts))
            name = code.co_qualname.partition(".")[0]
            if module.split(".")[1] in ROOMS:
                names.add(f"{module}:{name}")


def missing(stage, settings, names):
    """The definitions among ``names`` on which the key of a stage's output does not depend."""
    known, waiting = set(), [stage]
    while waiting:
        known |= set(code_of(waiting[-1], settings))
        waiting += STAGES[waiting.pop()].reads
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
    """A grid that has each coupling, kernel, network, and every other part of a recipe, in a few tiny runs."""
    couplings = sorted(CouplingConfig.family)
    encoder = {"model_channels": 8}
    cells, recipes = [], {}
    for i, coupling in enumerate([*couplings, "lent", "independent"]):
        parts = {key: member(family, sorted(family.family), i) for key, family in VARIED.items()}
        network = member(NetworkConfig, sorted(NetworkConfig.family), i, **SIZES)
        recipes[f"r{i}"] = {
            **{"steps": 2, "batch": 4, "network": network, **parts},
            **{"teacher": ["online", "ema"][i % 2], "conditional": bool(i % 3), "flip": bool(i % 2)},
            **{"clip_norm": [None, 1.0][i % 2], "nonfinite_gradients": ["stop", "zero", "large"][i % 3]},
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
        **{"dataset": "digits", "recipe": "r0", "coupling": "independent", "extractor": "classifier"},
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
        "sample": {"samples": 8},
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

    save_file(build(training, shape).network.state_dict(), path)


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
            more["train"] = {"frozen": layout.train(frozen.cell)}
            reads = {"data": outputs["prepare"], "out": layout.train(frozen.cell)}
            check("train", layout.settings(frozen.cell), **reads)
        for stage in RUN:
            paths = {STAGES[read].option: outputs[read] for read in STAGES[stage].reads}
            check(stage, settings, **paths, out=outputs[stage], **more.get(stage, {}))
        for name in params.probes_of(cell):
            paths = {"data": outputs["prepare"], "train": outputs["train"], "out": layout.probe(cell, name)}
            check("probe", layout.settings(cell, probe=name), **paths, **more.get("train", {}))
    assert {stage: sorted(names) for stage, names in wanting.items() if names} == {}
    assert set(wanting) == set(STAGES)
    rooms = {name.split(".")[1].partition(":")[0] for name in seen}
    assert rooms >= set(ROOMS) - {"selection"}
