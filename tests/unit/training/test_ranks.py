"""Two processes that share every batch take the steps of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ranks_worker import trained

from couplet.data.archive import Split

WORKER = Path(__file__).with_name("ranks_worker.py")
COUPLINGS = {
    "independent": {"kind": "independent"},
    "ot": {"kind": "ot"},
    "ot_parts": {"kind": "ot", "parts": 4},
    "sinkhorn": {"kind": "sinkhorn"},
    "swaps_parts": {"kind": "swaps", "parts": 2},
    "vae": {"kind": "vae"},
    "generator": {"kind": "generator", "mu": 0.4},
    "online": {"kind": "generator", "mu": 0.4, "predictor": "online"},
    "vae_generator": {"kind": "vae_generator", "mu": 0.4},
}
# Coupling, dropout, settings of the two processes, and of the one that takes the same steps.
CASES = {
    **{name: (name, 0.0, {}, {}) for name in COUPLINGS},
    **{f"{name}-dropout": (name, 0.3, {}, {"microbatch": 4}) for name in COUPLINGS},
    "vae-microbatch": ("vae", 0.3, {"microbatch": 2}, {"microbatch": 2}),
    "generator-uneven": ("generator", 0.0, {"microbatch": 3}, {}),
    "generator-target": ("generator", 0.0, {}, {}),
    "vae-sharded": ("vae", 0.0, {}, {}),
    "generator-sharded": ("generator", 0.0, {}, {}),  # whose predictor is the average
    "online-sharded": ("online", 0.0, {}, {}),
    "lion-sharded": ("independent", 0.0, {}, {}),
    "lion": ("independent", 0.0, {}, {}),
    "vae-bf16": ("vae", 0.0, {"precision": "bf16"}, {"precision": "bf16", "microbatch": 4}),
}


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    return Split(rng.integers(0, 256, (10, 8, 8, 1), dtype=np.uint8), np.arange(10, dtype=np.int64) % 3)


@pytest.fixture(scope="module")
def settings(make_training):
    def make(name, train):
        coupling, dropout, *_ = CASES[name]
        return make_training(
            COUPLINGS[coupling],
            train=train,
            steps=20,
            batch=8,
            flip=True,
            conditional=True,
            clip_norm=1.0,
            teacher="target" if name.endswith("target") else "online",
            network={
                "kind": "ddpmpp",
                "model_channels": 8,
                "channel_mult": [1],
                "num_blocks": 1,
                "attn_resolutions": [],
                "dropout": dropout,
            },
            schedule={"kind": "discretised", "s0": 2, "s1": 16},
            optimizer={"kind": "lion" if "lion" in name else "radam", "lr": 3e-4 if "lion" in name else 3e-3},
        )

    return make


@pytest.fixture(scope="module")
def two(settings, split, tmp_path_factory):
    """What two processes of torchrun make of every case."""
    folder = tmp_path_factory.mktemp("ranks")
    cases = {name: settings(name, case[2]).model_dump(mode="json") for name, case in CASES.items()}
    (folder / "cases.json").write_text(json.dumps(cases))
    np.save(folder / "images.npy", split.images)
    np.save(folder / "labels.npy", split.labels)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, WORKER, folder], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_take_the_steps_of_one(two, settings, split, name):
    """With dropout: of one that works through the batch in as many parts."""
    found, wanted = np.load(two / f"{name}.npz"), trained(settings(name, CASES[name][3]), split)
    assert found["alike"], "the processes differ"
    tolerance = 1e-3 if "bf16" in name else 1e-5
    np.testing.assert_allclose(found["progress"], wanted["progress"], rtol=tolerance, atol=tolerance)
    for part in ("weights", "averages"):
        difference = np.abs(found[part] - wanted[part]).max()
        assert difference < 10 * tolerance * np.abs(wanted[part]).max()


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith("-sharded")])
def test_a_divided_state_changes_no_bit(two, name):
    """Stopped in the middle and resumed, against two processes that each have the complete state."""
    found, wanted = np.load(two / f"{name}.npz"), np.load(two / f"{name.removesuffix('-sharded')}.npz")
    for part in ("progress", "weights", "averages"):
        np.testing.assert_array_equal(found[part], wanted[part])


@pytest.mark.parametrize("name", ["vae-sharded", "lion-sharded"])
def test_one_process_resumes_from_the_state_of_two(two, settings, split, name):
    training = settings(name, {})
    found = trained(training, split, saved=two / f"{name}.safetensors")
    wanted = np.load(two / f"{name}.npz")
    assert len(found["progress"]) == training.recipe.steps // 2
    for part in ("weights", "averages"):
        assert np.abs(found[part] - wanted[part]).max() < 1e-4 * np.abs(wanted[part]).max()


def test_parts_of_an_assignment_matter(settings, split):
    whole, parts = (trained(settings(name, {}), split)["progress"] for name in ("ot", "ot_parts"))
    assert not np.allclose(whole, parts, rtol=1e-4)
