"""What a GPU node needs: the stages that belong there run with couplet's own requirements alone."""

import json
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from couplet.data.archive import Split, write

REPOSITORY = Path(__file__).resolve().parents[3]
PACKAGES = {"torch", "numpy", "scipy", "pydantic", "safetensors", "pyyaml", "filelock", "rich", "typer"}
COUPLINGS = ("independent", "ot", "vae", "generator")

NODE = """
import io, json, sys, traceback
from contextlib import redirect_stderr, redirect_stdout

hidden, commands = json.load(sys.stdin)

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Hiding, sys.meta_path)
from couplet.cli import main

ended = {}
for name, command in commands.items():
    sys.argv, code = ["couplet", *command], 1
    with redirect_stderr(io.StringIO()) as said, redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as end:
            code = end.code
        except Exception:
            traceback.print_exc()
    ended[name] = code, said.getvalue()
print(json.dumps(ended))
"""
"""A process in which other packages are not installed; it runs couplet's commands one after the other."""


def requirements(names):
    """Distributions that come with ``names``: what they require here, and so on."""
    waiting, seen = [Requirement(name) for name in names], set()
    while waiting:
        wanted = waiting.pop()
        for extra in ("", *wanted.extras):
            key = canonicalize_name(wanted.name), extra
            try:
                needs = metadata.requires(wanted.name) or [] if key not in seen else []
            except metadata.PackageNotFoundError:
                continue
            seen.add(key)
            for need in map(Requirement, needs):
                if need.marker is None or need.marker.evaluate({"extra": extra}):
                    waiting.append(need)
    return {name for name, _ in seen}


def modules_of_others(distributions):
    """Top-level modules of what else is installed than ``distributions``."""
    found = metadata.packages_distributions()
    return [name for name, owners in found.items() if not distributions & set(map(canonicalize_name, owners))]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Exit code and last words of each stage."""
    root = tmp_path_factory.mktemp("node")
    rng = np.random.default_rng(0)
    splits = {
        name: Split(rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8), np.arange(count) % 3)
        for name, count in (("train", 12), ("test", 6))
    }
    write(root / "data", dataset="noise", source="random", classes=("a", "b", "c"), splits=splits)
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["recipes"]["ict"].update(steps=2, batch=4)
    params["recipes"]["ict"]["network"]["model_channels"] = 8
    params["features"]["classifier"].update(steps=2)
    params["train"].update(snapshots=1, save_every=1)
    params["select"].update(samples=8)
    params["sample"].update(samples=8)
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    step = {"step": 2, "checkpoint": "step-00000002.safetensors"}
    (root / "selection.json").write_text(json.dumps({"selected": step}))
    measuring = "--train ict-vae --features features --reference reference"
    commands = {
        **{f"train {name}": f"train --coupling {name} --data data --out ict-{name}" for name in COUPLINGS},
        "features": "features --data data --out features",
        "reference": "reference --data data --features features --out reference",
        "sample": "sample --coupling vae --train ict-vae --selection selection.json --out samples",
        "select": f"select --coupling vae {measuring} --out selected.json",
        "evaluate": f"evaluate --coupling vae {measuring} --selection selection.json --samples samples"
        " --out evaluated",
    }
    hidden = modules_of_others({"couplet", *requirements(PACKAGES)})
    assert {"cleanfid", "sklearn", "torchvision", "PIL", "snakemake"} <= set(hidden)
    done = subprocess.run(
        [sys.executable, "-c", NODE],
        input=json.dumps([hidden, {name: command.split() for name, command in commands.items()}]),
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_requirements_are_these():
    content = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert {Requirement(text).name for text in content["project"]["dependencies"]} == PACKAGES


@pytest.mark.parametrize(
    "stage", [*(f"train {name}" for name in COUPLINGS), "features", "reference", "sample"]
)
def test_stage_needs_no_other_package(ended, stage):
    code, said = ended[stage]
    assert code == 0, said


@pytest.mark.parametrize("stage", ["select", "evaluate"])
def test_stage_that_measures_asks_for_clean_fid(ended, stage):
    code, said = ended[stage]
    assert code == 2
    assert "FID and KID need clean-fid" in said
    assert "pip install couplet[pipeline]" in said
