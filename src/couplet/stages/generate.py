"""`couplet generate`: images of any model that couplet can read, as a folder, an array or a picture."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from couplet import model
from couplet.config.base import refused
from couplet.config.designs import Imported, SamplerConfig
from couplet.config.variants import name_of, variants_in
from couplet.data.archive import Archive
from couplet.errors import Stopped, UserError, installed
from couplet.files import replacing
from couplet.interop.convert import ASSUMED, import_model
from couplet.interop.hub import WEIGHTS, download, is_exported, is_own
from couplet.model import ConsistencyModel, Saved
from couplet.plan.published import GENERATE, IMPORT
from couplet.plan.stages import beside
from couplet.process import Context
from couplet.provenance.record import Digests, FreeRecorder, archive_digests, digests, read_record
from couplet.sampling import Drawn, Labels, class_indices, generate
from couplet.stages.sample import selected

PURPOSE = "generate"
"""Keeps the noise apart from that of other stages."""

CPU_PIXELS, GPU_PIXELS, MOST_IMAGES = 2**13, 2**18, 256
"""Pixels of all images in a network call, and number of images."""

LABELS = "dataset.json"
"""File of labels in a folder, in the layout of EDM's dataset_tool, which `couplet prepare` reads."""

Write = Callable[[NDArray[np.uint8]], object]
"""Called with consecutive images [b, h, w, c]."""


class Model(NamedTuple):
    """A model that was found."""

    name: str
    """As people gave it, or its file of weights in the folder that they gave."""
    checkpoint: Path
    """The file of weights."""
    files: tuple[Path, ...]
    """Files and folders that decide the weights, for records."""

    @property
    def inputs(self) -> Digests:
        """The files with their SHA-256."""
        return digests(*self.files)

    @property
    def imported(self) -> bool:
        """Whether the weights were made of others' files just now."""
        return self.checkpoint not in self.files

    def code(self, saved: Saved) -> list[str]:
        """What decides its images, for records."""
        made = IMPORT if self.imported else ()
        return sorted({*GENERATE, *made, *map(name_of, variants_in(saved.of.design))})


def find_model(source: str | Path, scratch: Path, say: Callable[[str], None] = lambda text: None) -> Model:
    """The model at ``source``, which is imported into the folder ``scratch`` if others published it.

    Args:
        source: a file of `couplet import`, a checkpoint, a folder of `couplet export`, or that of a run,
            which stands for its selected snapshot, or without a selection for the last; a file or folder
            that `couplet import` reads; or the `owner/name` of a model on the Hugging Face hub.
        scratch: a folder that lives as long as the model is read.
        say: called with what is assumed of a model that is imported.

    Raises:
        UserError: it is none of these; the run is unfinished, or its selections differ.
    """
    path = Path(source)
    if not path.exists():
        path = download(str(source))
    if not is_own(path):
        imported = scratch / WEIGHTS
        for line in import_model(str(path), imported).splitlines():
            if line.startswith(ASSUMED):
                say(f"{source}: {line}")
        return Model(str(source), imported, (path,))
    if not path.is_dir():
        return Model(str(source), path, (path,))
    if is_exported(path):
        return Model(str(source), path / WEIGHTS, (path / WEIGHTS,))
    train = path if (path / "checkpoints").is_dir() else path / "train"
    if not (snapshots := sorted((train / "checkpoints").glob("*.safetensors"))):
        unfinished = "; a run is unfinished" if (path / "train.partial").exists() else ""
        raise UserError(f"{path}: no finished run here, expected {train}/checkpoints{unfinished}")
    places = [train.parent / "selection.json", *sorted(train.parent.glob("select-*/selection.json"))]
    chosen = {place: selected(place)["checkpoint"] for place in places if place.exists()}
    if len({*chosen.values()}) > 1:
        listed = ", ".join(f"{name} in {place}" for place, name in chosen.items())
        raise UserError(f"{path}: its selections differ, {listed}; give the path of a checkpoint")
    checkpoint = train / "checkpoints" / next(iter(chosen.values())) if chosen else snapshots[-1]
    return Model(str(checkpoint), checkpoint, (checkpoint, *chosen))


def run(
    context: Context,
    source: Model,
    *,
    out: Path,
    count: int,
    nfe: int,
    seed: int,
    batch: int,
    labels: Labels | Path | None = None,
    mid_sigmas: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Write images to ``out``, and its record; return the settings that decide them.

    Args:
        out: a folder, for a file of each image and, with classes, dataset.json; an .npz file in the layout of
            OpenAI's code, `arr_0` with images and, with classes, `arr_1`; or a .png file for all images.
        batch: images handed on at once. The network is always called with the same ones, so that no pixel
            depends on it.
        labels: classes for a conditional model, by default balanced; those of a prepared data set are drawn
            as often as each is in its training split.
        mid_sigmas: noise levels of the evaluations after the first, instead of the model's own.

    Raises:
        Stopped: a signal came; nothing is written.
        UserError: the model or a setting does not fit, or ``out`` is taken.
    """
    network, saved = model.load(source.checkpoint, context.device)
    sampler = _sampler(source.name, saved, nfe, mid_sigmas)
    classes_of = _labels(source.name, saved, labels)
    side, channels = saved.shape.resolution, saved.shape.channels
    _check_free(out)
    if out.suffix not in WRITERS and channels == 2:
        raise UserError(f"{out}: points of the plane are no image files; give an .npz or .png file")
    settings = {
        "count": count,
        "nfe": nfe,
        "seed": seed,
        "labels": str(labels) if isinstance(labels, Path) else classes_of,
        "sampler": sampler.model_dump(mode="json"),
    }
    if isinstance(saved.of, Imported):
        settings["source"] = saved.of.source
    inputs = {**source.inputs, **(archive_digests(Archive(labels)) if isinstance(labels, Path) else {})}
    code = source.code(saved)
    record = FreeRecorder("generate", settings, out, context.device, inputs=inputs, numerics=code)
    classes = None
    if classes_of is not None:
        classes = class_indices(
            classes_of, saved.shape.num_classes, range(count), seed=seed, purpose=PURPOSE
        ).numpy()
    images = images_of(
        *(context, network, saved, sampler), count=count, nfe=nfe, seed=seed, labels=classes_of or "balanced"
    )
    size = _call_size(side, context.device)
    with context.counting(f"generate {source.name}", count) as advance:
        if context.ranks.first:
            shape = (count, side, side, channels)
            with WRITERS.get(out.suffix, _folder)(out, shape, classes) as write:
                while group := list(islice(images, max(1, batch // size))):
                    write(np.concatenate(group))
                    advance(sum(map(len, group)))
            record.finish(out)
        else:
            for _ in images:
                pass
    context.ranks.wait()
    return settings


def described(settings: dict[str, Any]) -> str:
    """The settings of images in a line."""
    levels = ", ".join(f"{level:g}" for level in settings["sampler"]["levels"][: settings["nfe"]])
    labels = settings["labels"]
    given = "" if labels is None else f", classes {labels}"
    return f"{settings['count']} images, NFE {settings['nfe']} at noise level {levels}{given}"


def _sampler(path: str, saved: Saved, nfe: int, mid_sigmas: Sequence[float] | None) -> SamplerConfig:
    """The model's way of sampling, with other ``mid_sigmas`` if they are given."""
    try:
        sampler = saved.sampler
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if mid_sigmas is not None:
        with refused("--mid-sigmas"):
            changed = {"levels": [sampler.levels[0], *mid_sigmas]}
            sampler = SamplerConfig.model_validate(sampler.model_dump() | changed)
        if any(after >= before for before, after in zip(sampler.levels, sampler.levels[1:], strict=False)):
            listed = ", ".join(f"{level:g}" for level in mid_sigmas)
            raise UserError(f"--mid-sigmas {listed}: must fall from below {sampler.levels[0]:g}")
    if nfe > len(sampler.levels):
        levels = ", ".join(f"{level:g}" for level in sampler.levels)
        raise UserError(
            f"--nfe {nfe}: {path} has {len(sampler.levels)} for sampling, noise level {levels}; give a "
            "smaller number, or further levels with --mid-sigmas"
        )
    return sampler


def _labels(path: str, saved: Saved, labels: Labels | Path | None) -> Labels | Drawn | None:
    """The classes that samples get; None for a model without classes."""
    if not saved.conditional:
        if labels is not None:
            given = ",".join(map(str, labels)) if isinstance(labels, tuple) else labels
            raise UserError(f"--labels {given}: {path} is given no classes; leave it out")
        return None
    count = saved.shape.num_classes
    if isinstance(labels, Path):
        archive = Archive(labels)
        if (held := len(archive.card.classes)) != count:
            raise UserError(f"--labels {labels}: has {held} classes, {path} has {count}")
        return Drawn(np.bincount(archive.train.labels, minlength=count).tolist())
    if isinstance(labels, tuple) and (wrong := [label for label in labels if label >= count]):
        raise UserError(f"--labels {wrong[0]}: {path} has classes 0 to {count - 1}")
    return labels or "balanced"


def _check_free(out: Path) -> None:
    """Raise UserError if ``out`` is a folder with other files than an earlier call wrote."""
    if out.suffix in WRITERS or not out.exists():
        return
    present = {Path(os.path.normpath(file)) for file in out.rglob("*") if not file.is_dir()}
    record = beside(out)
    written = {*read_record(record).outputs} if record.exists() else set[Path]()
    if others := sorted(present - written):
        raise UserError(f"{out}: has other files, such as {others[0].name}; choose another folder")


def images_of(
    context: Context,
    network: ConsistencyModel,
    saved: Saved,
    sampler: SamplerConfig,
    *,
    count: int,
    nfe: int,
    seed: int,
    labels: Labels | Drawn = "balanced",
) -> Iterator[NDArray[np.uint8]]:
    """The images of a model that its settings and a seed decide, whatever asks for them; uint8 [b, h, w, c].

    Args:
        saved: what the file of ``network`` says of it.
        labels: classes for a conditional model.

    Raises:
        Stopped: a signal came to one of the processes.
    """
    blocks = generate(
        network,
        saved.shape,
        sampler,
        seed=seed,
        purpose=PURPOSE,
        count=count,
        batch=_call_size(saved.shape.resolution, context.device),
        nfe=[nfe],
        conditional=saved.conditional,
        labels=labels,
        ranks=context.ranks,
    )
    with context.signals() as stopped:
        for block in blocks:
            if context.ranks.any(stopped() is not None):
                raise Stopped(f"stopped by {stopped() or 'a signal'}; nothing is written")
            yield block[nfe]


def _call_size(resolution: int, device: torch.device) -> int:
    """Images in a network call: a number that suits the device, the same for every batch size.

    The rounding of a network's sums depends on it, and with that a pixel in some ten thousands.
    """
    pixels = GPU_PIXELS if device.type == "cuda" else CPU_PIXELS
    return max(1, min(MOST_IMAGES, pixels // resolution**2))


@contextmanager
def _folder(out: Path, shape: tuple[int, ...], classes: NDArray[np.int64] | None) -> Iterator[Write]:
    """Write a PNG file for each image, named by its index, and the labels."""
    with installed("a folder of images"):
        from PIL import Image
    with replacing(out) as temporary:
        temporary.mkdir()
        names = (f"{index:06d}.png" for index in range(shape[0]))

        def write(images: NDArray[np.uint8]) -> None:
            # `images` comes first: at its end zip has not yet taken another name.
            for image, name in zip(images, names, strict=False):
                Image.fromarray(image.squeeze(-1) if shape[-1] == 1 else image).save(temporary / name)

        yield write
        if classes is not None:
            labels = [[f"{index:06d}.png", label] for index, label in enumerate(classes.tolist())]
            (temporary / LABELS).write_text(json.dumps({"labels": labels}) + "\n")


@contextmanager
def _npz(out: Path, shape: tuple[int, ...], classes: NDArray[np.int64] | None) -> Iterator[Write]:
    """Write `arr_0` with the images and `arr_1` with the classes, never all images in memory."""
    with replacing(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        # The name alone as ZipInfo: dated 1980, so that equal images give equal bytes.
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            yield lambda images: file.write(images.tobytes())
        if classes is not None:
            with archive.open(zipfile.ZipInfo("arr_1.npy"), "w") as file:
                np.lib.format.write_array(file, classes)


@contextmanager
def _grid(out: Path, shape: tuple[int, ...], classes: NDArray[np.int64] | None) -> Iterator[Write]:
    """Draw all images as one picture, about as wide as high; points of the plane as a scatter plot."""
    with installed("a picture"):
        from couplet.reporting.pictures import image_of, tile
    parts: list[NDArray[np.uint8]] = []
    with replacing(out) as temporary:
        yield parts.append
        picture = tile(np.concatenate(parts), columns=math.ceil(shape[0] ** 0.5))
        image_of(picture).save(temporary, "PNG")


WRITERS = {".npz": _npz, ".png": _grid}
"""Writers of files by suffix; other outputs are folders."""
