"""Checkpoints in other projects' formats: imported, sampled, and compared with their authors' outputs.

The environment variable COUPLET_PUBLISHED names another set in the format of the folder `published`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import lzma
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from couplet import kernels, model, sampling
from couplet.interop.convert import Options, import_model
from couplet.model import ConsistencyModel, Saved
from couplet.networks.base import Network
from couplet.tensors import CPU

FOLDER = Path(os.environ.get("COUPLET_PUBLISHED") or Path(__file__).parent / "published")
INDEX: dict[str, Any] = json.loads((FOLDER / "index.json").read_text())
GROUPS = {group["name"]: group for group in INDEX["groups"]}
TENSORS = json.loads((FOLDER / "tensors.json").read_text())
FILES = [(group["name"], case) for group in GROUPS.values() for case in group["cases"]]
DOUBLE = {"rtol": 1e-9, "atol": 1e-11}
IN_FLOAT32 = {"rtol": 1e-6, "atol": 5e-6}
"""For double-precision samples of OpenAI's code and diffusers, whose levels are numbers of float32 still."""


@functools.cache
def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / GROUPS[name]["file"]) as stored:
        return dict(stored)


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Makes the checkpoint of a case, a file or a folder."""
    room = tmp_path_factory.mktemp("published")

    @functools.cache
    def make(name: str, case: str) -> Path:
        facts = GROUPS[name]["cases"][case]
        path = room / (facts.get("file") or facts["folder"])
        if "file" in facts:
            path.write_bytes(lzma.decompress((FOLDER / facts["stored_as"]).read_bytes()))
            assert hashlib.sha256(path.read_bytes()).hexdigest() == facts["sha256"]
            return path
        shutil.copytree(FOLDER / facts["folder"], path)
        for packed in path.rglob("*.xz"):
            packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        return path

    return make


def needed(name: str, case: str) -> Options:
    """What the file does not tell: its second level, and, of a state dict alone, sizes of the network."""
    arguments = GROUPS[name]["cases"][case].get("model_arguments", {})
    heads = arguments.get("num_head_channels")
    if case.endswith(".pth"):  # the same network as the group's first file
        others = (facts.get("network_kwargs", {}) for facts in GROUPS[name]["cases"].values())
        heads = next(
            (kwargs["channels_per_head"] for kwargs in others if "channels_per_head" in kwargs), None
        )
    mid = tuple(arrays(name).get("mid_t", np.array([])).tolist())
    return Options(head_channels=heads, resolution=arguments.get("image_size"), mid_sigmas=mid or None)


@pytest.fixture(scope="session")
def imported(
    unpacked: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    room = tmp_path_factory.mktemp("imported")

    @functools.cache
    def make(name: str, case: str, weights: str | None = None) -> Path:
        out = room / f"{case}-{weights}.safetensors"
        import_model(str(unpacked(name, case)), out, needed(name, case)._replace(weights=weights))
        return out

    return make


def classes(name: str, which: str, count: int, dtype: torch.dtype) -> Tensor | None:
    """One-hot rows; integers in OpenAI's groups."""
    stored = arrays(name).get(which)
    if stored is None:
        return None
    labels = torch.from_numpy(stored)
    if labels.ndim == 1:
        labels = torch.nn.functional.one_hot(labels.long(), count)
    return labels.to(dtype)


def compare(name: str, array: str, mine: Tensor, precision: str, double: dict[str, float] = DOUBLE) -> None:
    """Within the tolerance of the array, or ``double`` of its double-precision reference."""
    stored, tolerance = arrays(name)[array], GROUPS[name]["arrays"][array]["tol"]
    if precision == "float64":
        if f"{array}__f64" not in arrays(name):
            return
        stored, tolerance = arrays(name)[f"{array}__f64"], double
    np.testing.assert_allclose(mine.numpy(), stored, rtol=tolerance["rtol"], atol=tolerance["atol"])


def inputs(name: str, *names: str) -> list[Tensor]:
    dtype = torch.get_default_dtype()
    return [torch.from_numpy(arrays(name)[array]).to(dtype) for array in names]


def loaded(path: Path) -> tuple[ConsistencyModel, Saved]:
    """The model in the precision of the test, filters included."""
    network, saved = model.load(path, CPU)
    return network.to(torch.get_default_dtype()), saved


def same_weights(name: str, case: str) -> bool:
    """Whether the arrays of the group are of this file: a training state holds later weights."""
    return "training-state" not in case


@pytest.mark.parametrize(("name", "case"), [each for each in FILES if same_weights(*each)])
def test_denoiser(name: str, case: str, imported: Callable[..., Path], precision: str) -> None:
    compare_denoised(name, case, imported, precision)


def compare_denoised(name: str, case: str, imported: Callable[..., Path], precision: str) -> None:
    """At all levels, with labels and without; of the EMA and, where a set has them, of the raw weights."""
    checked = []
    for array, weights, labelled in (
        ("D", None, True),
        ("D_without_labels", None, False),
        ("D_of_raw_weights", "raw", True),
    ):
        if array not in arrays(name):
            continue
        network, saved = loaded(imported(name, case, weights))
        x, sigma = inputs(name, "x", "sigma")
        labels = classes(name, "class_labels", saved.shape.num_classes, x.dtype) if labelled else None
        with torch.no_grad():
            compare(name, array, network(x, sigma, labels, boundary=saved.sampler.boundary), precision)
        checked.append(array)
    assert checked


def samples(name: str, path: Path, clip: bool | None = None) -> tuple[list[Tensor], Saved]:
    """One- and two-step samples from the stored noise, as `generate` makes them."""
    network, saved = loaded(path)
    sampler = saved.sampler
    noises = inputs(name, *(array for array in ("latents", "noise1") if array in arrays(name)))
    labels = classes(name, "sample_labels", saved.shape.num_classes, noises[0].dtype)
    images = sampling.multistep(
        network,
        noises,
        sampler.levels[: len(noises)],
        labels,
        boundary=sampler.boundary,
        clip=sampler.clip if clip is None else clip,
        renoise=sampler.renoise,
    )
    return list(images), saved


@pytest.mark.parametrize(("name", "case"), [each for each in FILES if same_weights(*each)])
def test_samples(name: str, case: str, imported: Callable[..., Path], precision: str) -> None:
    images, saved = samples(name, imported(name, case))
    for steps, image in enumerate(images, 1):
        if f"sample_{steps}step" in arrays(name):
            double = IN_FLOAT32 if saved.sampler.clip else DOUBLE
            compare(name, f"sample_{steps}step", image, precision, double)
        array = f"sample_{steps}step_uint8"
        if array in arrays(name):
            pixels = sampling.to_uint8(image, saved.sampler.quantise).numpy().astype(int)
            difference = np.abs(pixels - arrays(name)[array].astype(int))
            assert difference.max() <= 1
            near = GROUPS[name]["arrays"][array]["tol"]["values_that_close_to_a_border"]
            assert (difference > 0).sum() <= near
    assert saved.sampler.levels[1:] == tuple(arrays(name).get("mid_t", np.array([])).tolist())


def holding(array: str) -> list[tuple[str, str]]:
    """The files of the groups that hold an array."""
    return [(name, case) for name, case in FILES if same_weights(name, case) and array in arrays(name)]


@pytest.mark.parametrize(("name", "case"), holding("sample_1step_unclipped"))
def test_samples_without_clipping(name: str, case: str, imported: Callable[..., Path]) -> None:
    image = samples(name, imported(name, case), clip=False)[0][0]
    compare(name, "sample_1step_unclipped", image, "float32")
    assert image.abs().max() > 1


@pytest.mark.parametrize(("name", "case"), holding("sample_1step_minmax"))
def test_what_gc_gives_to_inception(name: str, case: str, imported: Callable[..., Path]) -> None:
    """The batch stretched to [-1, 1], which couplet does not offer (see the discrepancies)."""
    image = samples(name, imported(name, case))[0][0]
    low, high = image.min(), image.max()
    compare(name, "sample_1step_minmax", 2 * (image - low) / (high - low) - 1, "float32")


@pytest.mark.parametrize(("name", "case"), holding("debug/model_output"))
def test_network_alone(name: str, case: str, imported: Callable[..., Path], precision: str) -> None:
    network, saved = loaded(imported(name, case))
    x, sigma = inputs(name, "x", "sigma")
    c_in = (1 / (sigma**2 + 0.25).sqrt()).reshape(-1, 1, 1, 1)
    labels = classes(name, "class_labels", saved.shape.num_classes, x.dtype)
    with torch.no_grad():
        compare(name, "debug/model_output", network.network(c_in * x, sigma.log() / 4, labels), precision)


@pytest.mark.parametrize(("name", "case"), holding("encoder_mu"))
def test_encoder(name: str, case: str, imported: Callable[..., Path], precision: str) -> None:
    network, saved = loaded(imported(name, case))
    (clean,) = inputs(name, "clean")
    labels = classes(name, "class_labels", saved.shape.num_classes, clean.dtype)
    with torch.no_grad():
        mean, std = network.coupling.posterior(clean, labels)
    compare(name, "encoder_mu", mean, precision)
    compare(name, "encoder_std", std, precision)


def test_second_levels_are_those_of_the_authors(unpacked: Callable[[str, str], Path], tmp_path: Path) -> None:
    """Without options, where a file tells the level or its family's code has one."""
    found = {}
    for name, case in FILES:
        options = needed(name, case)._replace(mid_sigmas=None)
        import_model(str(unpacked(name, case)), tmp_path / "model", options)
        found[case] = model.load(tmp_path / "model", CPU)[1].sampler.levels[1:]
    for name, case in FILES:
        if not case.startswith("cmt"):  # its command's own option
            assert found[case] == pytest.approx(arrays(name).get("mid_t", np.array([])).tolist()), case


def hashed(tensor: Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    shape = "x".join(map(str, tensor.shape))
    return f"{shape}:{kind}:{hashlib.sha256(data).hexdigest()[:16]}"


@pytest.mark.parametrize("number", range(3))
def test_each_average_of_a_training_state(
    number: int, unpacked: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """Every width bit by bit; the middle one is the default."""
    for name, case in FILES:
        if "training-state" not in case:
            continue
        std = GROUPS[name]["cases"][case]["stds"][number]
        source, out = str(unpacked(name, case)), tmp_path / "model"
        import_model(source, out, needed(name, case)._replace(weights=f"{std:.3f}"))
        wanted = TENSORS[case]["ema_state"][
            f"{std:.3f}" if isinstance(TENSORS[case]["ema_state"], dict) else number
        ]
        _, tensors = model.load_tensors(out)
        assert {n.removeprefix("network."): hashed(t) for n, t in tensors.items()} == {
            n.removeprefix("unet."): text for n, text in wanted.items()
        }


MUTATIONS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "time scaling": lambda patch: patch.setattr(
        model, "time_embedding_input", lambda t: kernels.time_embedding_input(t) * 1.01
    ),
    "boundary": lambda patch: patch.setattr(
        ConsistencyModel, "forward", functools.partialmethod(_opposite, ConsistencyModel.forward)
    ),
    "labels": lambda patch: patch.setattr(
        Network, "label_rows", functools.partialmethod(_shifted, Network.label_rows)
    ),
}


def _opposite(self: ConsistencyModel, forward: Any, *arguments: Any, boundary: bool) -> Tensor:
    made: Tensor = forward(self, *arguments, boundary=not boundary)
    return made


def _shifted(self: Network, rows: Any, labels: Tensor | None, like: Tensor) -> Tensor:
    made: Tensor = rows(self, labels, like)
    return made.roll(1, dims=1)


@pytest.mark.parametrize(
    ("mutation", "name", "case"),
    [
        (mutation, name, case)
        for mutation in MUTATIONS
        for name, case in holding("class_labels" if mutation == "labels" else "D")
    ],
)
def test_mutations_are_noticed(
    mutation: str, name: str, case: str, imported: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    imported(name, case)
    MUTATIONS[mutation](monkeypatch)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        compare_denoised(name, case, imported, "float32")


def test_every_output_is_compared() -> None:
    """A new kind of array needs a test of its own here."""
    known = r"D|D_without_labels|D_of_raw_weights|encoder_(mu|std)|debug/model_output"
    samples_ = r"sample_[12]step(_uint8)?|sample_1step_(unclipped|minmax)"
    for name, group in GROUPS.items():
        outputs = [array for array, facts in group["arrays"].items() if facts["role"] == "output"]
        assert [array for array in outputs if not re.fullmatch(f"{known}|{samples_}", array)] == [], name
