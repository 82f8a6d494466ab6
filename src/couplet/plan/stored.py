"""Settings that the outputs of stages carry with them."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from couplet.config.base import Invalid
from couplet.config.cells import Training
from couplet.config.datasets import DatasetConfig
from couplet.config.extractors import ExtractorConfig
from couplet.errors import UserError
from couplet.files import read_json
from couplet.plan.stages import record_of


def training_in(train: Path) -> Training:
    """The settings of a run.

    Raises:
        UserError: the folder holds no readable config.json.
    """
    path = train / "config.json"
    content = read_json(path)
    try:
        return Training.model_validate(content)
    except (ValidationError, Invalid):
        raise UserError(f"{path}: not written by this version of `couplet train`") from None


def dataset_in(data: Path) -> DatasetConfig:
    """The settings of a prepared data set.

    Raises:
        UserError: the folder has no record of `couplet prepare`.
    """
    path = record_of("prepare", data)
    content = read_json(path)
    try:
        return DatasetConfig.parse(content["config"])
    except (KeyError, TypeError, ValidationError, Invalid):
        raise UserError(f"{path}: not a record of this version of `couplet prepare`; run it again") from None


def extractor_in(features: Path) -> ExtractorConfig:
    """The settings of an extractor made ready.

    Raises:
        UserError: the folder holds no card of `couplet features`.
    """
    path = features / "card.json"
    content = read_json(path)
    try:
        return ExtractorConfig.parse(content["config"])
    except (KeyError, TypeError, ValidationError, Invalid):
        raise UserError(f"{path}: not a card of `couplet features`; run it again") from None
