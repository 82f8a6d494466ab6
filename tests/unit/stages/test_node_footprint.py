"""Packages that a GPU node needs: its stages run with the base requirements alone."""

import json
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from couplet.config.resolve import resolve

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
    with redirect_stderr(io.StringIO()) as printed, redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as end:
            code = end.code
        except Exception:
            traceback.print_exc()
    ended[name] = code, printed.getvalue(), "torch._dynamo" in sys.modules
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
def ended(tmp_path_factory, noise_archive):
    """Exit code and stderr of each stage, and whether torch's compiler was imported until its end."""
    root = tmp_path_factory.mktemp("node")
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    del params["scale"], params["scales"]
    params["recipes"]["ict"].update(steps=2, batch=4)
    params["recipes"]["ict"]["network"]["model_channels"] = 8
    params["features"]["classifier"].update(steps=2)
    params["train"].update(snapshots=1, save_every=1)
    params["select"].update(samples=8)
    params["sample"].update(samples=8)
    params["evaluate"] = {"metrics": {"fd": {}, "kid": {"subsets": 2, "subset_size": 6}}}
    params["probes"] = {"gradient": {"batches": 2}}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    noise_archive(root / "data", resolve(root / "params.yaml").dataset_named("digits"))
    measuring = "--train ict-vae --features features --reference reference --params params.yaml"
    commands = {
        **{f"train {name}": f"train --coupling {name} --data data --out ict-{name}" for name in COUPLINGS},
        "features": "features --data data --out features",
        "reference": "reference --data data --features features --out reference",
        "select": f"select {measuring} --out selection.json",
        "sample": "sample --train ict-vae --selection selection.json --params params.yaml --out samples",
        "evaluate": f"evaluate {measuring} --selection selection.json --samples samples --out numbers.json",
        "probe": "probe gradient --params params.yaml --train ict-vae --data data --out probe.csv",
    }
    hidden = modules_of_others({"couplet-cm", *requirements(PACKAGES)})
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


STAGES_ON_A_NODE = (
    *(f"train {name}" for name in COUPLINGS),
    *("features", "reference", "select", "sample", "evaluate", "probe"),
)


@pytest.mark.parametrize("stage", STAGES_ON_A_NODE)
def test_stage_needs_no_other_package(ended, stage):
    code, printed, _ = ended[stage]
    assert code == 0, printed


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_training_imports_no_compiler(ended, coupling):
    assert ended[f"train {coupling}"][2] is False
