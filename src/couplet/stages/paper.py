"""Stage `paper`: all figures with their captions as one page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from couplet.errors import UserError
from couplet.files import read_json, replacing, reported
from couplet.plan.stages import beside
from couplet.plan.summaries import page_key
from couplet.provenance.record import SummaryRecorder, digests, read_record
from couplet.reporting.page import page

ADVICE = "give .json files that `couplet figure` wrote"
TITLE = "Results of iCT, GC and VCT, and beyond"


def run(captions: Sequence[Path], out: Path, rebuild: str) -> str:
    """Write the page ``out`` and its record.

    Args:
        captions: .json files of `couplet figure`, next to their pictures.
        out: the page; it links the figures' CSV, SVG and PNG files relative to itself.
        rebuild: the command that makes a figure, with ``{name}`` for its name.
    """
    keys = [str(read_record(beside(path), ADVICE).content["key"]) for path in captions]
    record = SummaryRecorder("paper", {}, out, page_key(keys))
    entries = sorted((_entry(path, out, rebuild) for path in captions), key=lambda entry: entry["order"])
    with replacing(out) as temporary:
        temporary.write_text(page(entries, TITLE))
    pictures = [path.with_suffix(".svg") for path in captions]
    record.write(inputs=digests(*captions, *pictures), outputs=digests(out))
    return f"{len(entries)} figures"


def _entry(path: Path, out: Path, rebuild: str) -> dict[str, Any]:
    caption = read_json(path)
    if not isinstance(caption, dict) or "statements" not in caption:
        raise UserError(f"{path}: not a caption that `couplet figure` wrote; run it again")
    picture = path.with_suffix(".svg")
    with reported(picture, "read"):
        svg = picture.read_text()
    suffixes = ("csv", "svg", "png")
    links = {suffix: os.path.relpath(path.with_suffix(f".{suffix}"), out.parent) for suffix in suffixes}
    return {**caption, "svg": svg, "links": links, "target": rebuild.format(name=caption["name"])}
