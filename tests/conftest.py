"""What tests share: one thread, the repository's parameters, a training of a few milliseconds a step."""

import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from couplet.config.cells import Training
from couplet.data.archive import Split

PARAMS = Path(__file__).parents[1] / "params.yaml"

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers, alone and in any order."""
    torch.manual_seed(0)


@pytest.fixture
def params_content():
    """The content of the repository's params.yaml without its scales, to be edited at will."""
    content = yaml.safe_load(PARAMS.read_text())
    del content["scale"], content["scales"]
    return content


@pytest.fixture(scope="session")
def make_training():
    """Makes the settings of a tiny training on 8x8 images."""

    def make(coupling="independent", *, seed=0, kernel="ve", train=None, **recipe):
        settings = {"kind": coupling} if isinstance(coupling, str) else coupling
        if settings["kind"] in ("vae", "vae_generator"):
            settings = {"encoder": {"model_channels": 8}, **settings}
        network = {
            "kind": "ddpmpp",
            "model_channels": 8,
            "channel_mult": [1],
            "num_blocks": 1,
            "attn_resolutions": [],
        }
        return Training.model_validate(
            {
                "cell": {
                    "dataset": "digits",
                    "recipe": "tiny",
                    "kernel": kernel,
                    "coupling": settings["kind"],
                    "seed": seed,
                },
                "dataset": {"kind": "digits"},
                "recipe": {
                    "steps": 4,
                    "batch": 4,
                    "network": network,
                    "optimizer": {"kind": "radam", "lr": 1e-3},
                    "ema": {"kind": "warmup"},
                    **recipe,
                },
                "kernel": {"kind": kernel},
                "coupling": settings,
                "train": train or {},
            }
        )

    return make


@pytest.fixture
def random_split():
    """Ten grey 8x8 images of noise in three classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, 8, 8, 1), dtype=np.uint8)
    return Split(images, np.arange(10, dtype=np.int64) % 3)


@pytest.fixture
def full_disk():
    """A context in which files may grow to 10 kB: a write beyond that fails, as on a full disk.

    Not for the whole test: the limit holds for pytest's own output too, which may be a longer file.
    """

    @contextmanager
    def limited():
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


HOLD = """
import sys
from pathlib import Path
from couplet.files import locked

with locked(Path(sys.argv[1]), print):
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold():
    """A context in which another process holds a lock; left, it is killed and has no time to tidy up."""

    @contextmanager
    def holding(path):
        command = [sys.executable, "-c", HOLD, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            try:
                yield process
            finally:
                process.kill()

    return holding
