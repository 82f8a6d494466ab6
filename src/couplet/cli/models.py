"""Commands on any model and any images: generate, score, export."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from couplet.cli import options as o
from couplet.cli.inspection import print_table
from couplet.config.base import choices
from couplet.config.cells import EvaluateConfig
from couplet.config.extractors import ExtractorConfig, extractors_named
from couplet.config.resolve import resolve
from couplet.config.variants import load_plugins
from couplet.errors import UserError
from couplet.process import process

METRICS = ("fd", "kid", "is", "precision_recall")
EXTRACTORS = ("inception-legacy", "inception")
"""What is measured unless options say otherwise: each where it applies."""
MOST = 10_000_000
FILES = (".npz", ".png")
"""Suffixes of single files that `generate` writes; its other outputs are folders."""
NO_FOLDER = (".npy", ".zip", ".tar", ".jpg", ".jpeg", ".gif", ".webp", ".safetensors")
"""Suffixes by which other files may be meant."""

Model = Annotated[
    Path,
    typer.Argument(
        help="The folder of a run or of `couplet export`, a checkpoint, what `couplet import` writes or "
        "reads, or OWNER/NAME on the Hugging Face Hub."
    ),
]
Seed = Annotated[int, typer.Option(help="Decides the noise of every image.", min=0, max=2**62)]
Nfe = Annotated[int, typer.Option(help="Network evaluations per image.", min=1, max=10_000)]
Batch = Annotated[int, typer.Option(help="Images handed on at once; changes no pixel.", min=1, max=1_000_000)]
Labels = Annotated[
    str | None,
    typer.Option(
        help="Classes for a conditional model: balanced, uniform (drawn), numbers in turn such as 3 or 3,5; "
        "or a prepared data set, to draw its classes.",
        show_default="balanced",
    ),
]
MidSigmas = Annotated[
    str | None,
    typer.Option(help="Noise levels after the first: 0.821 or 20,3.", show_default="the model's own"),
]


def generate(
    model: Model,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="A folder for image files, an .npz file (arr_0), or a .png file for all."
        ),
    ],
    count: Annotated[int, typer.Option(help="Number of images.", min=1, max=MOST)] = 64,
    nfe: Nfe = 1,
    seed: Seed = 0,
    labels: Labels = None,
    mid_sigmas: MidSigmas = None,
    batch: Batch = 256,
    threads: o.Threads = None,
    device: o.Device = "auto",
    processes: o.Processes = 1,
) -> None:
    """Generate images with any model: of a run, or of others.

    A run's folder stands for its selected snapshot, or without a selection for the last one.
    """
    options = {"labels": _labels(labels), "mid_sigmas": _levels(mid_sigmas)}
    checked = _images_out(out, "--out")
    with process(threads, device, processes) as context, scratch() as folder:
        from couplet.stages.generate import described, find_model, run

        more: dict[str, Any] = {"count": count, "nfe": nfe, "seed": seed, "batch": batch, **options}
        settings = run(context, find_model(model, folder, context.say), out=checked, **more)
        typer.echo(f"{out}: {described(settings)}")


def score(
    samples: Annotated[
        Path,
        typer.Argument(help="A folder, zip, .npz or .npy file of images, a prepared data set, or any model."),
    ],
    reference: Annotated[
        Path,
        typer.Option(
            help="Real images, equally; an output of `couplet reference`; an .npz file of mu and sigma."
        ),
    ],
    out: Annotated[Path, o.output("The JSON file to write.", folder=False)] = Path("score.json"),
    split: Annotated[str, typer.Option(help="Split of a reference that has splits.")] = "train",
    extractor: Annotated[
        list[str] | None,
        typer.Option(
            help="A name, or an output of `couplet features`; may be repeated.",
            show_default="inception-legacy, inception",
        ),
    ] = None,
    params: Annotated[
        Path | None, typer.Option(help="A parameter file, for names in its `features` and for its metrics.")
    ] = None,
    scale: o.Scale = None,
    count: Annotated[int, typer.Option(help="Of a model: number of images.", min=2, max=MOST)] = 50_000,
    nfe: Nfe = 1,
    seed: Seed = 0,
    labels: Labels = None,
    mid_sigmas: MidSigmas = None,
    keep: Annotated[
        Path | None, typer.Option(help="Of a model: folder or .npz file that keeps the images.")
    ] = None,
    batch: Batch = 256,
    threads: o.Threads = None,
    device: o.Device = "auto",
    processes: o.Processes = 1,
) -> None:
    """Compare images with real ones: FID, KID, IS, precision and recall, each with its protocol."""
    if out.suffix != ".json":
        raise UserError(f"--out {out}: must end in .json")
    if split not in ("train", "test"):
        raise UserError(f"--split {split}: {choices(split, ['train', 'test'])}")
    options: dict[str, Any] = {"labels": _labels(labels), "mid_sigmas": _levels(mid_sigmas)}
    of_model = {**options, "keep": keep}
    settings, extractors = _measuring(params, scale, extractor)
    with process(threads, device, processes) as context, scratch() as folder:
        from couplet.interop.hub import is_model
        from couplet.stages import score as scoring
        from couplet.stages.generate import find_model, run

        more: dict[str, Any] = {"seed": seed, "split": split, "reference": reference}
        if is_model(samples):
            found = find_model(samples, folder, context.say)
            images = _images_out(keep or context.ranks.gather(folder)[0] / "images.npz", "--keep")
            options |= {"count": count, "nfe": nfe, "seed": seed, "batch": batch}
            about = {"path": str(samples), **run(context, found, out=images, **options)}
            more |= {"nfe": nfe, "about": about, "origin": None if keep else found.inputs}
        elif given := next((name for name, value in of_model.items() if value is not None), None):
            raise UserError(f"--{given.replace('_', '-')}: belongs to a model, {samples} is none")
        else:
            images = samples
        scores = scoring.run(context, settings, samples=images, extractors=extractors, out=out, **more)
        context.ranks.wait()  # another process may still read the images
        if context.ranks.first:
            print_table(scoring.lines(scores), ("metric", "value", "protocol"))
            typer.echo(f"\n{out}: {len(scores)} numbers; `couplet why {out}` says where they come from")


def export(
    model: Model,
    to: Annotated[Path, o.output("The folder to write, new or empty.", "--to", folder=True)],
    name: Annotated[
        str | None,
        typer.Option(help="OWNER/NAME of the repository, for the card.", show_default="--to"),
    ] = None,
    license: Annotated[
        str | None, typer.Option(help="Licence as the hub writes it, such as mit.", show_default="unknown")
    ] = None,
    score: Annotated[
        list[Path] | None,
        typer.Option(help="A file of `couplet score` on this model, for the card; may be repeated."),
    ] = None,
    diffusers: Annotated[
        bool, typer.Option("--diffusers", help="Also as diffusers' ConsistencyModelPipeline.")
    ] = False,
    threads: o.Threads = None,
    device: o.Device = "auto",
) -> None:
    """Write a model as a folder for the Hugging Face Hub: weights, settings, model card, samples, record.

    A run's folder stands for its selected snapshot, or without a selection for the last one.
    """
    title = name or to.absolute().name
    if name is not None and not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", name, re.ASCII):
        raise UserError(f"--name {name}: must be OWNER/NAME of letters, digits, '-', '_' and '.'")
    if license is not None and not re.fullmatch(r"[a-z0-9.-]{1,64}", license, re.ASCII):
        raise UserError(f"--license {license}: must be an identifier of the hub, such as apache-2.0")
    with process(threads, device) as context, scratch() as folder:
        from couplet.stages.export import run
        from couplet.stages.generate import find_model

        more: dict[str, Any] = {"title": title, "licence": license, "scores": score or ()}
        places = run(context, find_model(model, folder, context.say), out=to, diffusers=diffusers, **more)
    quoted = shlex.quote(str(to))
    typer.echo(f"{to}: {model} as a folder for the Hugging Face Hub")
    for place in places:
        typer.echo(f"note: its settings name {place}, which everybody will read")
    if license is None:
        typer.echo(f"note: no licence chosen; give --license, or edit {to / 'README.md'}")
    print_table(
        [
            ("next", f"couplet verify {quoted}"),
            ("", f"hf upload {name or f'OWNER/{shlex.quote(title)}'} {quoted}"),
        ]
    )


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder."""
    with TemporaryDirectory(prefix="couplet-") as folder:
        yield Path(folder)


def _images_out(out: Path, option: str) -> Path:
    """The path of generated images, checked before any work."""
    if out.suffix.lower() in NO_FOLDER:
        raise UserError(f"{option} {out}: must be a folder, or end in {' or '.join(FILES)}")
    return o.checked_output(out, f"{option} {out}", folder=out.suffix not in FILES)


def _labels(text: str | None) -> Any:
    """The classes that --labels asks for."""
    if text in (None, "balanced", "uniform"):
        return text
    if Path(text).is_dir():
        return Path(text)
    parts = text.split(",")
    if not all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts):
        raise UserError(
            f"--labels {text}: must be balanced, uniform, class numbers such as 3,5, or a data set"
        )
    return tuple(map(int, parts))


def _levels(text: str | None) -> tuple[float, ...] | None:
    """The noise levels that --mid-sigmas asks for."""
    try:
        return None if text is None else tuple(map(float, text.split(",")))
    except ValueError:
        raise UserError(f"--mid-sigmas {text}: must be numbers, such as 0.821 or 20,3") from None


def _measuring(
    params: Path | None, scale: str | None, names: list[str] | None
) -> tuple[EvaluateConfig, list[ExtractorConfig | Path]]:
    """The metrics, and the extractors of these names, kinds or folders."""
    load_plugins()
    known = dict[str, ExtractorConfig]()
    settings = EvaluateConfig.model_validate({"metrics": {name: {} for name in METRICS}})
    if params is not None:
        checked = resolve(params, scale)
        known = checked.features
        settings = checked.evaluate
    elif scale is not None:
        raise UserError(f"--scale {scale}: belongs to --params FILE")
    return settings, extractors_named(names or EXTRACTORS, known, at="--extractor")
