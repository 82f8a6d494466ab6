"""`couplet export`: a model as a folder that the Hugging Face Hub understands, complete or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence, Set
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from couplet import model
from couplet.config.cells import EvaluateConfig, Training
from couplet.config.datasets import panel_size
from couplet.config.designs import Imported
from couplet.config.extractors import ExtractorConfig
from couplet.config.fit import Facts
from couplet.config.layers import leaves, without
from couplet.config.metrics import described
from couplet.config.params import Params
from couplet.config.yaml12 import dump_yaml
from couplet.data.archive import Archive
from couplet.errors import UserError, installed
from couplet.files import read_json, replacing, sha256, write_json
from couplet.interop.diffusers import Pipeline, pipeline
from couplet.interop.files import Refused
from couplet.interop.hub import CONFIG, FORMAT, LIBRARY, PIPELINE, UNET, WEIGHTS, is_exported
from couplet.model import ConsistencyModel, Saved
from couplet.plan.stages import RECORD, beside, record_of
from couplet.process import Context
from couplet.provenance.record import (
    Digests,
    FreeRecorder,
    Record,
    chain,
    digests,
    maker,
    read_record,
)
from couplet.reporting.card import CARD, PICTURE, SETTINGS, DataSet, Metric, card
from couplet.stages.generate import Model, images_of
from couplet.stages.score import protocol_of
from couplet.tensors import save_tensors

SEED = 0
"""Of the samples in the card."""


def run(
    context: Context,
    source: Model,
    *,
    out: Path,
    title: str,
    licence: str | None = None,
    scores: Sequence[Path] = (),
    diffusers: bool = False,
) -> list[str]:
    """Write the folder ``out``, with its record inside; return paths of this machine that its settings name.

    Args:
        source: the weights, and what led to them.
        title: name of the model in its card: `owner/name`, or the folder's.
        licence: identifier of the hub, such as `apache-2.0`.
        scores: files of `couplet score` on this model, besides the evaluations of its run.
        diffusers: whether to write the pipeline of diffusers too.

    Raises:
        Stopped: a signal came; nothing is written.
        UserError: there is no model, ``out`` has files, a number is of another model, or the pipeline cannot
            express the model.
    """
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty; choose another folder")
    path, digest = source.checkpoint, sha256(source.checkpoint)
    if is_exported(path.parent) and path.name == WEIGHTS:
        raise UserError(f"{path.parent}: is exported already; copy the folder")
    network, saved = model.load(path, context.device)
    if saved.of.sampler is None:
        raise UserError(f"{source.name}: a diffusion model, which makes no images in a few steps")
    made, inputs = _Made.of(path), dict(source.inputs)
    # A score read the same weights, or the same files of others.
    same = {digest, *(inputs.values() if source.imported else ())}
    metrics: list[Metric] = []
    for file, found in (*_evaluations(made, path), *_scores(scores, same)):
        metrics += found
        inputs |= digests(file)
    dataset = None
    if made is not None:
        dataset, files = made.dataset()
        inputs |= files
    converted = _converted(source.name, network, saved) if diffusers else None
    settings = {
        "title": title,
        "licence": licence,
        "diffusers": diffusers,
        "design": saved.of.design.model_dump(mode="json"),
    }
    numerics = source.code(saved)
    if converted is not None:
        numerics.append("couplet.interop.diffusers:pipeline")
    with replacing(out) as folder:
        folder.mkdir()
        place = folder / RECORD
        record = FreeRecorder(
            "export", settings, out, context.device, inputs=inputs, numerics=numerics, path=place
        )
        with replacing(folder / WEIGHTS) as temporary:
            shutil.copyfile(path, temporary)
        write_json(folder / CONFIG, _config(saved, digest))
        if saved.training is not None:
            (folder / SETTINGS).write_text(dump_yaml(repeated(saved.training)))
        shown = _picture(context, network, saved, folder / PICTURE)
        if converted is not None:
            _write_pipeline(folder, converted)
        # People edit the card, so that it is in no record.
        record.finish(*sorted(folder.iterdir()))
        text = card(
            title,
            saved,
            licence=licence,
            digest=digest,
            parameters={part: _size(getattr(network, part)) for part in ("network", "coupling")},
            record=None if made is None else made.record.content,
            dataset=dataset,
            metrics=metrics,
            shown=shown,
            timesteps=None if converted is None else converted.timesteps,
        )
        (folder / CARD).write_text(text)
    return list(_places(saved))


def _size(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


class _Made(NamedTuple):
    """The run that made a checkpoint."""

    train: Path
    record: Record

    @classmethod
    def of(cls, checkpoint: Path) -> _Made | None:
        """The run, by the record beside its checkpoints; UserError if the checkpoint was edited."""
        place = Path(os.path.normpath(checkpoint))
        record = maker(place)
        if record is None or record.stage != "train":
            return None
        if (present := sha256(checkpoint)) != record.outputs[place]:
            raise UserError(
                f"{checkpoint}: has SHA-256 {present[:16]}, {record.path} says "
                f"{record.outputs[place][:16]}: edited or damaged"
            )
        return cls(record.path.parent, record)

    def dataset(self) -> tuple[DataSet | None, Digests]:
        """The data set of the run, by its card, and the card's digest; None if it is gone."""
        card = next((path for path in self.record.inputs if path.name == "card.json"), None)
        if card is None or not card.is_file():
            return None, {}
        found = digests(card)
        if found[card] != self.record.inputs[card]:
            raise UserError(
                f"{card}: has SHA-256 {found[card][:16]}, {self.record.path} says "
                f"{self.record.inputs[card][:16]}: not the data set of the run"
            )
        facts = Archive(card.parent).card
        names = ("source", "counts", "classes", "digest")
        return DataSet(facts.dataset, **{name: getattr(facts, name) for name in names}), found


def _evaluations(made: _Made | None, checkpoint: Path) -> Iterator[tuple[Path, list[Metric]]]:
    """The numbers of the run that were measured on this checkpoint, by file."""
    if made is None:
        return
    root = made.train.parent
    for path in filter(Path.exists, (root / "evaluation.json", *root.glob("evaluate-*/evaluation.json"))):
        record, content = read_record(record_of("evaluate", path)), read_json(path)
        records = chain(record)
        of_run = record.content["keys"].get("train") == made.record.content["key"]
        if not of_run or content["selected"]["checkpoint"] != checkpoint.name:
            continue
        config = ExtractorConfig.parse(content["extractor_config"])
        settings = EvaluateConfig.model_validate(content["settings"])
        reference, sampled = content["reference"], _sampled(records, "sample")
        counts = {"images": reference["images"], "features": reference["features"]}
        counts["samples"] = content["samples"]["count"]
        metrics = []
        for row in content["numbers"]:
            protocol = protocol_of(row["metric"], settings, config, content["extractor"], **counts)
            protocol |= {"reference_split": reference["split"], "training_seed": row["seed"], **sampled}
            metrics.append(_metric(row, config, row["nfe"], protocol))
        yield path, metrics


def _scores(paths: Sequence[Path], same: Set[str]) -> Iterator[tuple[Path, list[Metric]]]:
    """The numbers in files of `couplet score` on the model, a file of which has one of these SHA-256."""
    for path in paths:
        content, record = read_json(path), read_record(beside(path), "`couplet score` writes it")
        records = chain(record)
        read = {
            found for each in records if each.stage in ("score", "generate") for found in each.inputs.values()
        }
        if record.stage != "score" or not same & read:
            raise UserError(f"--score {path}: is not of this model; give a file of `couplet score` on it")
        configs = record.content["settings"]["extractors"]
        extractors = {config.label: config for config in map(ExtractorConfig.parse, configs)}
        about = {**_sampled(records, "generate"), **content["samples"]}
        protocol = {"reference": Path(content["reference"]["path"]).name}
        if (split := content["reference"].get("split")) is not None:
            protocol["reference_split"] = split
        protocol |= {"levels": about["sampler"]["levels"][: about["nfe"]], "seed": about["seed"]}
        if about["labels"] is not None:
            protocol["labels"] = about["labels"]
        yield (
            path,
            [
                _metric(row, extractors[row["extractor"]], about["nfe"], {**row["protocol"], **protocol})
                for row in content["numbers"]
            ],
        )


def _sampled(records: Sequence[Record], stage: str) -> dict[str, Any]:
    """How the samples of a chain were made, without what a metric's protocol has of it."""
    settings: dict[str, Any] = next(
        (record.content["settings"] for record in records if record.stage == stage), {}
    )
    return without(settings, "samples", "count", *(("nfe",) if stage == "sample" else ()))


def _metric(row: Mapping[str, Any], config: ExtractorConfig, nfe: int, protocol: Mapping[str, Any]) -> Metric:
    """A number, of a ``row`` with `metric` and `value`, under the name that its extractor gives it."""
    number = described(config.number(row["metric"]))
    heading = f"{number.heading} {'↓' if number.lower_is_better else '↑'}"
    name = config.metric(row["metric"])
    return Metric(name, heading, row["value"], number.text(row["value"]), nfe=nfe, protocol=protocol)


def _converted(path: str, network: ConsistencyModel, saved: Saved) -> Pipeline:
    """The model for diffusers; UserError if it cannot be expressed."""
    try:
        return pipeline(network, saved)
    except Refused as error:
        raise UserError(
            f"--diffusers: {path}: diffusers' ConsistencyModelPipeline cannot express {error}; leave it out"
        ) from None


def _write_pipeline(folder: Path, content: Pipeline) -> None:
    """Write the files of a pipeline."""
    for name in ("scheduler", "unet"):
        (folder / name).mkdir()
    for name, part in zip(PIPELINE, (content.model_index, content.scheduler, content.unet), strict=True):
        write_json(folder / name, part)
    tensors = {name: tensor.cpu() for name, tensor in content.tensors.items()}
    save_tensors(folder / UNET[0], tensors, format="pt")


def _config(saved: Saved, digest: str) -> dict[str, Any]:
    """Content of config.json."""
    content = {
        "library_name": LIBRARY,
        "format": FORMAT,
        "couplet_version": version("couplet-cm"),
        "weights": {"file": WEIGHTS, "sha256": digest},
        "design": saved.of.design.model_dump(mode="json"),
        "shape": saved.shape._asdict(),
        "sampler": saved.sampler.model_dump(mode="json"),
        "step": saved.step,
    }
    if isinstance(saved.of, Imported):
        content["source"] = saved.of.source
    return content


def _picture(context: Context, network: ConsistencyModel, saved: Saved, path: Path) -> str:
    """Draw samples as `couplet generate` does; return how they are made."""
    with installed("a picture of samples"):
        from couplet.reporting.pictures import image_of, tile
    side, channels, nfe = saved.shape.resolution, saved.shape.channels, len(saved.sampler.levels)
    total, parts = panel_size((side, side, channels)), []
    with context.counting("samples for the card", total) as advance:
        for images in images_of(context, network, saved, saved.sampler, count=total, nfe=nfe, seed=SEED):
            parts.append(images)
            advance(len(images))
    image_of(tile(np.concatenate(parts))).save(path, "PNG")
    classes = ", classes in turn" if saved.conditional else ""
    made = f"couplet generate . --out grid.png --count {total} --nfe {nfe} --seed {SEED}"
    return f"The first {total} samples with seed {SEED}, NFE {nfe}{classes}, none left out: `{made}`."


def repeated(training: Training) -> dict[str, Any]:
    """A parameter file that trains with exactly these settings.

    What it measures with is the least that any data set allows: the training is what it repeats.
    """
    cell = training.cell
    runs = [training, *([training.frozen_run] if training.frozen_run else [])]
    data = Facts.of(cell.dataset, training.dataset)
    extractor = next(
        name for name in ("values", "inception") if not ExtractorConfig.parse({"kind": name}).misfit(data)
    )

    def named(section: str) -> dict[str, Any]:
        pairs = ((getattr(run.cell, section), getattr(run, section)) for run in reversed(runs))
        return {name: config.model_dump(mode="json") for name, config in pairs}

    content = {
        **cell.model_dump(),
        "extractor": extractor,
        "table1": {f"{key}s": [value] for key, value in cell},
        **{f"{section}s": named(section) for section in ("dataset", "kernel", "coupling", "recipe")},
        "train": training.train.model_dump(mode="json"),
        "select": {"split": "train"},
        "sample": {"nfe": [1]},
        "evaluate": {"metrics": {"fd": {}}},
    }
    assert Params.model_validate(content).training(cell) == training
    return content


def _places(saved: Saved) -> Iterator[str]:
    """Absolute paths in the settings of a model, which a reader of the file sees."""
    texts = (str(value) for _, value in leaves(saved.of.model_dump(mode="json")))
    yield from dict.fromkeys(text for text in texts if text.startswith(("/", "~")))
