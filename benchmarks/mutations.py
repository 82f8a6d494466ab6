"""Do the tests notice wrong mathematics? One deliberate error at a time, in a copy of the source.

    python benchmarks/mutations.py [--json FILE]

Each mutation replaces one piece of text; the golden and unit tests must then fail. Prints which test
failed first; exits with 1 if an error went unnoticed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
TESTS = (
    "tests/golden",
    "tests/unit/kernels",
    "tests/unit/schedules",
    "tests/unit/losses",
    "tests/unit/couplings",
    "tests/unit/training",
    "tests/unit/sampling",
)


class Mutation(NamedTuple):
    """One error: ``right`` in ``file`` becomes ``wrong``."""

    what: str
    file: str
    right: str
    wrong: str


MUTATIONS = (
    Mutation("sign of the noise", "kernels.py", "* data + t * noise", "* data - t * noise"),
    Mutation(
        "t and r swapped",
        "schedules.py",
        "grid[interval + 1], grid[interval]",
        "grid[interval], grid[interval + 1]",
    ),
    Mutation(
        "N(k) off by one",
        "schedules.py",
        "** (step // phase), s1) + 1",
        "** (step // phase), s1)",
    ),
    Mutation("phase off by one", "schedules.py", "(step // phase)", "((step + 1) // phase)"),
    Mutation("no stop-gradient", "training/step.py", "@torch.no_grad()\n    def predict", "def predict"),
    Mutation(
        "teacher's own dropout mask",
        "training/step.py",
        """record_function("teacher"),
        default_stream(device, draws.dropout_seed)""",
        """record_function("teacher"),
        default_stream(device, draws.dropout_seed + 2)""",
    ),
    Mutation(
        "average as teacher without dropout",
        "training/step.py",
        "_in_mode(teacher, models.online.training)",
        "_in_mode(teacher, teacher.training)",
    ),
    Mutation("r = 0 not replaced", "training/step.py", "clean = level == 0", "clean = level < 0"),
    Mutation(
        "penalty not scaled",
        "losses.py",
        "        return 1 / (t - r)\n\n\nclass",
        "        return 1.0\n\n\nclass",
    ),
    Mutation("weight 1/t", "losses.py", "return 1 / (t - r)\n\n    def", "return 1 / t\n\n    def"),
    Mutation("pseudo-Huber without - c", "losses.py", "+ c**2) - c\n", "+ c**2)\n"),
    Mutation("boundary not shifted", "kernels.py", "t - self.sigma_min) if", "t) if"),
    Mutation("time not divided by 4", "kernels.py", "t.log() / 4", "t.log()"),
    Mutation("sigmoid of +b t", "schedules.py", "sigmoid(-b * t)", "sigmoid(b * t)"),
    Mutation("stage one late", "schedules.py", "* t)) / q ** (stage + 1)", "* t)) / q**stage"),
    Mutation("sign of p_mean", "schedules.py", "grid.log() - p_mean", "grid.log() + p_mean"),
    Mutation("KL without ln std", "couplings/variational.py", " - std.log()", ""),
    Mutation(
        "encoder in, noise out",
        "couplings/variational.py",
        "images, noise * std + mean",
        "images, noise * std - mean",
    ),
    Mutation("mu is the share of real", "couplings/generator_induced.py", "uniform < self", "uniform > self"),
    Mutation("transport cost maximised", "couplings/minibatch.py", "cheapest(-(images", "cheapest((images"),
    Mutation("plan of the dearest transport", "couplings/minibatch.py", "plan = gain", "plan = -gain"),
    Mutation("rows of the plan left as they are", "couplings/minibatch.py", ".log_softmax(1)", ""),
    Mutation("swaps for the worse", "couplings/minibatch.py", "mine] > gain", "mine] < gain"),
    Mutation("worst direction taken", "couplings/minibatch.py", "gains.argmax", "gains.argmin"),
    Mutation(
        "generator without the encoder's noise",
        "couplings/variational.py",
        "images, encoded.noise",
        "images, noise",
    ),
    Mutation("EMA roles swapped", "training/ema.py", "avg_fn(decay)", "avg_fn(1 - decay)"),
    Mutation("parts of a batch not weighted", "training/loop.py", " * (len(terms.distance) / count)", ""),
    Mutation(
        "noise not dealt out before a step",
        "training/loop.py",
        "arrange = self.state.model.coupling.arrange",
        "arrange = lambda images, noise, rows: noise[rows]",
    ),
    Mutation(
        "sampler skips the coupling",
        "sampling.py",
        "model.coupling.renoise(images, z, labels)",
        "z",
    ),
    Mutation("sampler starts from the encoder", "sampling.py", "if i == 0:", "if i < 0:"),
)


def first_failure(mutation: Mutation, folder: Path) -> str | None:
    """The first test that fails with ``mutation`` applied, or None."""
    source = folder / "couplet"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(REPOSITORY / "src/couplet", source, ignore=shutil.ignore_patterns("__pycache__"))
    path = source / mutation.file
    text = path.read_text()
    if text.count(mutation.right) != 1:
        sys.exit(f"{mutation.file}: {mutation.right!r} found {text.count(mutation.right)} times")
    path.write_text(text.replace(mutation.right, mutation.wrong))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *TESTS],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M)
    if done.returncode and found is None:
        return f"pytest exit code {done.returncode}"
    return found[1] if found else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the outcome here as well")
    target = parser.parse_args().json
    outcome = {}
    with tempfile.TemporaryDirectory() as folder:
        for mutation in MUTATIONS:
            outcome[mutation.what] = first_failure(mutation, Path(folder))
            print(f"{mutation.what:35} {outcome[mutation.what] or 'NOT NOTICED'}", flush=True)
    if target:
        target.write_text(json.dumps(outcome, indent=2) + "\n")
    sys.exit(1 if None in outcome.values() else 0)


if __name__ == "__main__":
    main()
