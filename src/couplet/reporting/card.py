"""The model card of an exported model: README.md with the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from couplet.config.cells import Training
from couplet.config.designs import Imported
from couplet.config.metrics import words
from couplet.config.yaml12 import dump_yaml
from couplet.model import Saved
from couplet.plan.layout import checkpoint_name
from couplet.reporting import markdown

CARD, WEIGHTS, SETTINGS, PICTURE = "README.md", "model.safetensors", "params.yaml", "samples.png"

TASK = "unconditional-image-generation"
LICENCES = "https://huggingface.co/docs/hub/repositories-licenses"


class DataSet(NamedTuple):
    """The images that a model was trained on."""

    name: str
    source: str
    counts: Mapping[str, int]
    """Images per split."""
    classes: Sequence[str]
    digest: str


class Metric(NamedTuple):
    """A number, with the protocol without which it compares with no other."""

    name: str
    """The extractor's name of it: ``fid``, ``fd_classifier``."""
    heading: str
    value: float
    text: str
    """The value as people read it."""
    nfe: int
    protocol: Mapping[str, Any]


def card(
    title: str,
    saved: Saved,
    *,
    licence: str | None,
    digest: str,
    parameters: Mapping[str, int],
    record: Mapping[str, Any] | None,
    dataset: DataSet | None,
    metrics: Sequence[Metric],
    shown: str,
    timesteps: Sequence[int] | None,
) -> str:
    """Text of README.md.

    Args:
        title: name of the model: `owner/name`, or that of its folder.
        saved: what rebuilds the model, and where it is from.
        licence: identifier of the hub; None leaves the choice to the reader of the file.
        digest: SHA-256 of the model file.
        parameters: number of them in `network` and `coupling`.
        record: content of the record of the run, where there is one.
        dataset: the images of the run, where their card is there.
        metrics: numbers that were measured on the model.
        shown: how the picture is made.
        timesteps: argument of diffusers' pipeline for all noise levels; None without a pipeline.
    """
    front = dump_yaml(
        _front(title, saved, licence, piped=timesteps is not None, metrics=metrics, dataset=dataset)
    )
    if licence is None:
        front = front.replace("license: unknown\n", f"license: unknown # choose one of {LICENCES}\n", 1)
    parts = [
        *(
            f"---\n{front}---\n",
            f"# {title}\n",
            f"{INTRODUCTION}\n",
            f"![samples]({PICTURE})\n",
            f"*{shown}*\n",
        ),
        *_use(title, saved),
        *("## Model\n", *_table(_design(saved, parameters))),
        *("## Origin\n", *_table(_origin(saved, digest, record, dataset))),
        *("The model file comes from\n", "```sh", *_commands(saved), "```\n"),
        *_numbers(metrics),
        *(_pipeline(title, timesteps) if timesteps is not None else ()),
        *("## Files\n", *_table(_files(saved, timesteps is not None))),
    ]
    if licence is None:
        parts.append(f"No licence has been chosen yet: edit `license` above, one of <{LICENCES}>.\n")
    return "\n".join(parts)


INTRODUCTION = "A consistency model: it makes an image from noise in one network evaluation, or a few."


def _front(
    title: str,
    saved: Saved,
    licence: str | None,
    *,
    piped: bool,
    metrics: Sequence[Metric],
    dataset: DataSet | None,
) -> dict[str, Any]:
    """The front matter; metrics in the form of the hub's `model-index`."""
    tags = ["consistency-models", "image-generation", *(["diffusers"] if piped else [])]
    front: dict[str, Any] = {"library_name": "couplet", "license": licence or "unknown", "tags": tags}
    if not saved.conditional:  # the hub has no name for generation by class
        front["pipeline_tag"] = TASK
    name = None if saved.training is None else saved.training.cell.dataset
    if name is not None:
        front["datasets"] = [name]
    if metrics:
        front["metrics"] = sorted({metric.name for metric in metrics})
        described: dict[str, Any] = {"name": name or "unknown", "type": name or "unknown"}
        if dataset is not None:
            described["args"] = {"images": dict(dataset.counts), "digest": dataset.digest}
        numbers = [
            {
                "type": metric.name,
                "name": f"{metric.heading}, NFE {metric.nfe}",
                "value": metric.value,
                "args": {"nfe": metric.nfe, **metric.protocol},
            }
            for metric in metrics
        ]
        result = {"task": {"type": TASK}, "dataset": described, "metrics": numbers}
        front["model-index"] = [{"name": title, "results": [result]}]
    # Copied part by part, because YAML writes a value that occurs twice as a reference.
    copied: dict[str, Any] = json.loads(json.dumps(front))
    return copied


def _use(title: str, saved: Saved) -> Iterator[str]:
    nfe = len(saved.sampler.levels)
    yield "## Use\n"
    yield '```python\nimport couplet  # pip install "couplet-cm[hub]"\n'
    yield f"model = couplet.load({json.dumps(title)})"
    yield f"images = model.sample(16, nfe={nfe}, seed=0)  # uint8 [n, height, width, channels]\n```\n"
    yield "`couplet.load` takes the `owner/name` of a repository on the Hub, or the path of this folder. It"
    yield f"reads `{WEIGHTS}`, which holds weights and settings; nothing in it is executed.\n"


def _design(saved: Saved, parameters: Mapping[str, int]) -> dict[str, str]:
    """Rows of the table of the model."""
    design, sampler, shape = saved.of.design, saved.sampler, saved.shape
    levels = ", ".join(f"{level:g}" for level in sampler.levels)
    shift = "shifted so that f(x, sigma_min) = x" if sampler.boundary else "EDM's, without a shift"
    owned = f", {parameters['coupling']:,} parameters" if parameters["coupling"] else ""
    return {
        "network": f"{design.network.kind}, {parameters['network']:,} parameters",
        "images": f"{shape.resolution}×{shape.resolution}, {shape.channels} channels",
        "classes": str(shape.num_classes) if saved.conditional else "none given to the network",
        "kernel": design.kernel.kind,
        "coupling": design.coupling.kind + owned,
        "noise levels": f"sigma_min {design.sigma_min:g}, sigma_max {design.sigma_max:g}, "
        f"sigma_data {design.sigma_data:g}",
        "preconditioning": shift,
        "evaluations": f"at noise levels {levels}" + ("; clamped to [-1, 1]" if sampler.clip else ""),
    }


def _origin(
    saved: Saved, digest: str, record: Mapping[str, Any] | None, dataset: DataSet | None
) -> Iterator[tuple[str, str]]:
    """Rows of the table of what is known of the training."""
    yield "SHA-256 of the model file", f"`{digest}`"
    if isinstance(saved.of, Imported):
        yield from ((f"imported {name}", value) for name, value in saved.of.source.items())
        return
    recipe = saved.of.recipe
    yield "run", str(saved.of.cell)
    steps = f"{saved.step} of {recipe.steps} steps of {recipe.batch} images with {recipe.optimizer.kind}"
    yield "training", f"{steps}; averaged weights ({recipe.ema.kind})"
    if record is None:
        yield "record", "none beside the checkpoint"
    else:
        device = record["cpu"] if record["device"] == "cpu" else record["device"]
        versions = (f"{name} {number}" for name, number in record["packages"].items())
        commit = record["commit"] or "no repository"
        yield "commit of couplet", commit + (" with changes" if record["dirty"] else "")
        yield "cache key", record["key"]
        yield "took", f"{record['seconds']:.0f} s on {device}"
        yield "versions", ", ".join((f"Python {record['python']}", *versions))
    if dataset is None:
        yield "data set", f"{saved.of.cell.dataset}; its card was not at hand"
        return
    yield "data set", f"{dataset.name}: {dataset.source}"
    yield "images of the data set", ", ".join(f"{n} {split}" for split, n in dataset.counts.items())
    yield "classes of the data set", str(len(dataset.classes))
    yield "digest of the data set", f"`{dataset.digest}`"


def _commands(saved: Saved) -> Iterator[str]:
    """Shell commands that make the model file, in this folder."""
    if isinstance(saved.of, Imported):
        source = saved.of.source
        weights = f" --weights {shlex.quote(source['weights'])}" if source.get("weights") else ""
        yield f"couplet import {shlex.quote(source.get('file', 'FILE'))}{weights} --out {WEIGHTS}"
        return
    common = f"--params {SETTINGS}"
    yield f"couplet prepare {shlex.quote(saved.of.cell.dataset)} {common} --out data"
    frozen = ""
    if (teacher := saved.of.frozen_run) is not None:
        names = shlex.join(["--coupling", teacher.cell.coupling, "--recipe", teacher.cell.recipe])
        yield f"couplet train {common} {names} --data data --out teacher"
        frozen = " --frozen teacher"
    yield f"couplet train {common} --data data{frozen} --out train"
    yield f"cp train/checkpoints/{checkpoint_name(saved.step)} {WEIGHTS}"


def _numbers(metrics: Sequence[Metric]) -> Iterator[str]:
    if metrics:
        yield "## Metrics\n"
        heads = ("metric", "NFE", "value", "protocol")
        rows = ((m.heading, str(m.nfe), m.text, words(m.protocol)) for m in metrics)
        yield markdown.table(heads, rows)


def _pipeline(title: str, timesteps: Sequence[int]) -> Iterator[str]:
    yield "## diffusers\n\nThe same network as a pipeline of diffusers:\n"
    yield "```python\nfrom diffusers import ConsistencyModelPipeline\n"
    yield f"pipe = ConsistencyModelPipeline.from_pretrained({json.dumps(title)})"
    yield f"images = pipe(batch_size=16, num_inference_steps=None, timesteps={list(timesteps)}).images\n```\n"
    yield "It draws other noise than couplet and rounds to the nearest pixel value; from the same noise,"
    yield "pixels agree up to the rounding of sums.\n"


def _files(saved: Saved, piped: bool) -> Iterator[tuple[str, str]]:
    """Rows of the table of files."""
    yield f"`{WEIGHTS}`", "weights, with the settings that rebuild the model; read by `couplet.load`"
    yield "`config.json`", "the same settings, to be read by people"
    if isinstance(saved.of, Training):
        yield f"`{SETTINGS}`", "parameter file that repeats the training"
    yield f"`{PICTURE}`", "the samples above"
    yield "`record.json`", "digests of all files, code, versions and inputs: `couplet verify`, `couplet why`"
    if piped:
        yield "`model_index.json`, `unet/`, `scheduler/`", "the pipeline of diffusers"


def _table(rows: Mapping[str, str] | Iterator[tuple[str, str]]) -> Iterator[str]:
    yield markdown.table(("", ""), dict(rows).items())
