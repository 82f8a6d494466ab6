"""The model card of an exported model: README.md with the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from couplet.config.yaml12 import dump_yaml

TASKS = {False: "unconditional-image-generation", True: "image-generation"}
"""Task of a model without classes and with them; the hub has no name for the second among its pipelines."""

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
    decimals: int
    nfe: int
    protocol: Mapping[str, Any]
    source: str
    """The file that it is from."""


class Card(NamedTuple):
    """Facts of an exported model."""

    title: str
    licence: str | None
    conditional: bool
    design: Mapping[str, str]
    """Rows of the table of the model."""
    origin: Mapping[str, str]
    """Rows of the table of its training, or of where it was imported from."""
    commands: Sequence[str]
    """Shell commands that make the model file."""
    dataset: DataSet | None
    metrics: Sequence[Metric]
    sampling: str
    """How the pictures in samples.png are made."""
    nfe: int
    """Largest number of evaluations that the model has levels for."""
    timesteps: Sequence[int] | None
    """Argument of diffusers' pipeline for all levels; None without one."""
    files: Mapping[str, str]
    """What each file of the folder is."""


def card(facts: Card) -> str:
    """Text of README.md."""
    front = dump_yaml(_front(facts))
    if facts.licence is None:
        front = front.replace("license: unknown\n", f"license: unknown # choose one of {LICENCES}\n", 1)
    return f"---\n{front}---\n\n" + "\n".join(_body(facts))


def _front(facts: Card) -> dict[str, Any]:
    """The front matter; metrics in the form of the hub's `model-index`."""
    task = TASKS[facts.conditional]
    front: dict[str, Any] = {
        "library_name": "couplet",
        "license": facts.licence or "unknown",
        "tags": ["consistency-models", "image-generation", *(["diffusers"] if facts.timesteps else [])],
    }
    if not facts.conditional:
        front["pipeline_tag"] = task
    if facts.dataset is not None:
        front["datasets"] = [facts.dataset.name]
    if facts.metrics and facts.dataset is not None:
        front["metrics"] = sorted({metric.name for metric in facts.metrics})
        dataset = {
            "name": facts.dataset.name,
            "type": facts.dataset.name,
            "args": {"images": dict(facts.dataset.counts), "digest": facts.dataset.digest},
        }
        numbers = [
            {
                "type": metric.name,
                "name": f"{metric.heading}, NFE {metric.nfe}",
                "value": metric.value,
                "args": {"nfe": metric.nfe, **metric.protocol},
            }
            for metric in facts.metrics
        ]
        result = {"task": {"type": task}, "dataset": dataset, "metrics": numbers}
        front["model-index"] = [{"name": facts.title, "results": [result]}]
    return front


def _body(facts: Card) -> Iterator[str]:
    quoted = json.dumps(facts.title)
    yield f"# {facts.title}\n"
    yield "A consistency model: it makes an image from noise in one network evaluation, or a few.\n"
    yield f"![samples](samples.png)\n\n*{facts.sampling}*\n"
    yield "## Use\n"
    yield f'```python\nimport couplet  # pip install "couplet-cm[hub]"\n\nmodel = couplet.load({quoted})'
    yield f"images = model.sample(16, nfe={facts.nfe}, seed=0)  # uint8 [n, height, width, channels]\n```\n"
    yield "`couplet.load` takes the `owner/name` of a repository on the Hub, or the path of this folder. It"
    yield "reads `model.safetensors`, which holds weights and settings; nothing in it is executed.\n"
    yield "## Model\n"
    yield from _table(facts.design)
    yield "## Origin\n"
    origin = dict(facts.origin)
    if facts.dataset is not None:
        counts = ", ".join(f"{count} {split}" for split, count in facts.dataset.counts.items())
        origin |= {"data set": f"{facts.dataset.name}: {facts.dataset.source}", "images": counts}
        if facts.dataset.classes:
            origin["classes"] = str(len(facts.dataset.classes))
        origin["digest of the data set"] = f"`{facts.dataset.digest}`"
    yield from _table(origin)
    if facts.commands:
        yield "The model file comes from\n"
        yield "\n".join(["```sh", *facts.commands, "```\n"])
    if facts.metrics:
        yield "## Metrics\n"
        yield "| metric | NFE | value | protocol |\n| --- | --- | --- | --- |"
        for metric in facts.metrics:
            stated = {name.replace("_", " "): value for name, value in metric.protocol.items()}
            words = (f"{name} {'not stated' if value is None else value}" for name, value in stated.items())
            value = f"{metric.value:.{metric.decimals}f}"
            yield f"| {metric.heading} | {metric.nfe} | {value} | {_cell(', '.join(words))} |"
        yield ""
    if facts.timesteps is not None:
        yield "## diffusers\n"
        yield "The same network as a pipeline of diffusers:\n"
        yield "```python\nfrom diffusers import ConsistencyModelPipeline\n"
        yield f"pipe = ConsistencyModelPipeline.from_pretrained({quoted})"
        steps = f"num_inference_steps=None, timesteps={list(facts.timesteps)}"
        yield f"images = pipe(batch_size=16, {steps}).images\n```\n"
        yield "It draws other noise than couplet and rounds to the nearest pixel value; from the same noise,"
        yield "pixels agree up to the rounding of sums.\n"
    yield "## Files\n"
    yield from _table({f"`{name}`": content for name, content in facts.files.items()})
    if facts.licence is None:
        yield f"No licence has been chosen yet: edit `license` above, one of <{LICENCES}>.\n"


def _table(rows: Mapping[str, str]) -> Iterator[str]:
    yield "| | |\n| --- | --- |"
    yield from (f"| {name} | {_cell(value)} |" for name, value in rows.items())
    yield ""


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")
