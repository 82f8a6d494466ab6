"""Stage `features`: the extractor that a data set is measured with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from couplet.config import Params
from couplet.config.extractors import Classifier
from couplet.data import Archive
from couplet.files import sha256, write_json
from couplet.metrics.extractor import save_classifier, train_classifier

EXTRACTOR = "extractor.safetensors"


def features(params: Params, dataset: str, data: Path, out: Path) -> dict[str, Any]:
    """Trains the data set's classifier and writes it, with a card, to the folder ``out``.

    Raises:
        UserError: the archive is missing or damaged, or ``out`` cannot be written.
        TypeError: the extractor's configuration is of an unknown class.
    """
    config = params.features[dataset]
    if not isinstance(config, Classifier):
        raise TypeError(f"no feature extractor for {type(config).__name__}")
    archive = Archive(data)
    trained = train_classifier(config, archive.train, archive.test, len(archive.card.classes))
    save_classifier(out / EXTRACTOR, trained, config, archive.train)
    card = {
        "kind": config.kind,
        "sha256": sha256(out / EXTRACTOR),
        "test_accuracy": trained.test_accuracy,
        "data": dict(archive.card.files),
    }
    write_json(out / "card.json", card)
    return card
