"""The table of published models: what their authors report beside what is measured here."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from couplet.config.metrics import described, words
from couplet.config.published import PublishedList, PublishedModel, Reported
from couplet.errors import UserError
from couplet.files import read_json, replacing
from couplet.plan.published import named, table_key
from couplet.provenance.record import SummaryRecorder, digests
from couplet.reporting import markdown

HEADINGS = {
    "model": "model",
    "method": "method",
    "dataset": "data set",
    "nfe": "NFE",
    "metric": "number",
    "features": "features",
    "published": "published",
    "measured": "measured",
    "difference": "measured minus published",
    "protocol": "protocol",
    "note": "note",
    "source": "source",
}
"""Columns of the table with their headings; the CSV also has `score`, the file of the measured number."""


def run(listed: PublishedList, scores: Sequence[Path], out: Path) -> str:
    """Write the table ``out`` (CSV), also as .md, and its record.

    Args:
        listed: the models.
        scores: files of `couplet score`, in folders that :func:`couplet.plan.published.measured_name` named.

    Raises:
        UserError: a score is missing, damaged, or of a model that is not listed.
    """
    places = {named(path.parent.name): path for path in scores}
    if unknown := sorted({name for name, _ in places} - {*listed.models}):
        raise UserError(f"{unknown[0]}: a score of no listed model; give the scores of one list")
    record = SummaryRecorder("published", listed.model_dump(mode="json"), out, table_key(listed, scores))
    rows = [
        {"model": name, **_row(model, reported, places.get((name, reported.nfe)), out.parent)}
        for name, model in listed.models.items()
        for reported in model.reported
    ]
    text = StringIO()
    writer = csv.DictWriter(text, [*HEADINGS, "score"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    shown = ([row[column] for column in HEADINGS] for row in rows)
    for path, content in (
        (out, text.getvalue()),
        (out.with_suffix(".md"), markdown.table([*HEADINGS.values()], shown)),
    ):
        with replacing(path) as temporary:
            temporary.write_text(content)
    record.write(inputs=digests(*scores), outputs=digests(out, out.with_suffix(".md")))
    return f"{len(rows)} rows, {len(scores)} of them measured"


def _row(model: PublishedModel, reported: Reported, score: Path | None, folder: Path) -> dict[str, str]:
    """A row of the table, all of its values as texts."""
    number = None if score is None else _number(score, model)
    measured, protocol = (None, {}) if number is None else (number["value"], number["protocol"])
    printed = described(model.metric)
    texts = [f"published: {model.protocol}", *([f"measured: {words(protocol)}"] if protocol else [])]
    if model.differs:
        texts.append(f"they differ: {model.differs}")
    unmeasured = f"not measured: {model.missing or 'no score is given'}" if score is None else ""
    difference = ""
    if measured is not None and reported.value is not None and not model.differs:
        difference = printed.text(measured - reported.value, signed=True)
    return {
        "method": model.method,
        "dataset": model.dataset or "",
        "nfe": str(reported.nfe),
        "metric": model.metric,
        "features": model.extractor,
        "published": "" if reported.value is None else f"{reported.value:g}",
        "measured": "" if measured is None else printed.text(measured),
        "difference": difference,
        "protocol": "; ".join(texts),
        "note": "; ".join(filter(None, [unmeasured, model.note])),
        "source": model.source,
        "score": "" if score is None else os.path.relpath(score, folder),
    }


def _number(score: Path, model: PublishedModel) -> Mapping[str, Any]:
    """The measured number of the reported metric."""
    try:
        return next(each for each in read_json(score)["numbers"] if each["metric"] == model.metric)
    except (KeyError, TypeError, StopIteration):
        raise UserError(f"{score}: has no {model.metric}; run `couplet score` again") from None
