"""The page that collects the studies: what each paper says, and what these trainings show."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

PAPERS = {
    "iCT": "iCT — Improved techniques for training consistency models",
    "VCT": "VCT — Training consistency models with variational noise coupling",
    "GC": "GC — Improving consistency models with generator-augmented flows",
    "couplet": "Beyond the papers",
}
"""Headings, in the page's order, by the name in a study."""

VERDICTS = ("shown", "not shown", "opposite", "no claim")
"""What the seeds say of a statement."""


def page(entries: Sequence[Mapping[str, Any]], title: str) -> str:
    """A page of its own: pictures are part of it, and it needs no script and no network.

    Args:
        entries: in the page's order within their paper; each with

            - ``name``, ``paper`` (a key of PAPERS), ``result``, ``title``, ``claim``, ``source``, ``note``;
            - ``statements``: of ``text`` and ``verdict`` (one of VERDICTS);
            - ``measured`` (extractor and seeds), ``budget``, ``target`` (the command that makes it);
            - ``svg``: the figure's text; ``links``: paths of ``csv``, ``svg`` and ``png`` from the page;
            - ``table``: ``columns``, and ``rows`` of as many texts.
        title: the page's heading.

    Raises:
        ValueError: a paper or a verdict is none of those, or a name is there twice.
        KeyError, jinja2.UndefinedError: an entry lacks a key.
    """
    names = [entry["name"] for entry in entries]
    for entry in entries:
        name = entry["name"]
        if names.count(name) > 1:
            raise ValueError(f"{name}: is there twice")
        if entry["paper"] not in PAPERS:
            raise ValueError(f"{name}: paper = {entry['paper']!r} is none of {', '.join(PAPERS)}")
        for statement in entry["statements"]:
            if statement["verdict"] not in VERDICTS:
                raise ValueError(
                    f"{name}: verdict = {statement['verdict']!r} is none of {', '.join(VERDICTS)}"
                )
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["base64"] = lambda text: base64.b64encode(text.encode()).decode()
    groups = {
        heading: [{**entry, "counts": _counts([entry])} for entry in entries if entry["paper"] == paper]
        for paper, heading in PAPERS.items()
    }
    return environment.get_template("paper.html.j2").render(
        title=title,
        groups={heading: members for heading, members in groups.items() if members},
        totals=_counts(entries),
        verdicts=VERDICTS,
    )


def _counts(entries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Number of statements with each verdict."""
    found = [statement["verdict"] for entry in entries for statement in entry["statements"]]
    return {verdict: found.count(verdict) for verdict in VERDICTS}
