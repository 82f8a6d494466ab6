"""HTML pages: templates, and the page of all studies with the papers' claims."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from couplet.config.study import PAPERS
from couplet.reporting.intervals import VERDICTS

LEAD = (
    "The claims of the papers next to the results of these runs. Marks are means over training seeds, bars "
    "and bands their sample standard deviation; a single seed has none. Runs of one seed have the same "
    "initial weights, images and noise, so a statement is about the difference within seeds: shown if its "
    "interval (Student's) lies below zero, opposite if above, not shown if it contains zero. The intervals "
    "of a study hold at once with 95 % probability (Bonferroni), so one study in twenty may err by chance."
)


OPENING = "Couplings, each from the same seeds"
"""Heading of what opens the page, before its contents: the studies of order 0."""


def render(template: str, **content: Any) -> str:
    """The page that a ``template`` of this folder makes of ``content``; it refers to no other file.

    Raises:
        jinja2.UndefinedError: a part of ``content`` lacks a key.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["base64"] = lambda text: base64.b64encode(text.encode()).decode()
    return environment.get_template(template).render(content)


def page(entries: Sequence[Mapping[str, Any]], title: str) -> str:
    """The page of studies, with their pictures inside.

    The entries are in the page's order within their paper; those of order 0 come first, then the contents,
    then all others. Each has

    - ``name``, ``order``, ``paper`` (a key of PAPERS), ``result``;
    - ``title``, ``claim``, ``source``, ``note``;
    - ``statements``: of ``text`` and ``verdict`` (one of VERDICTS);
    - ``measured`` (extractor and seeds), ``budget``, ``target`` (the command that makes it);
    - ``svg``: the figure's text; ``samples``: a picture above it, PNG in base 64, or blank;
    - ``links``: paths of ``csv``, ``svg`` and ``png`` from the page;
    - ``table``: ``columns``, and ``rows`` of as many texts.

    Raises:
        ValueError: a paper or a verdict is unknown, or a name is there twice.
        KeyError, jinja2.UndefinedError: an entry lacks a key.
    """
    for name, count in Counter(entry["name"] for entry in entries).items():
        if count > 1:
            raise ValueError(f"{name}: is there twice")
    for entry in entries:
        given = [
            ("paper", entry["paper"], PAPERS),
            *(("verdict", each, VERDICTS) for each in _verdicts([entry])),
        ]
        for key, value, allowed in given:
            if value not in allowed:
                raise ValueError(f"{entry['name']}: {key} = {value!r} is none of {', '.join(allowed)}")
    counted = [{**entry, "counts": _counts([entry])} for entry in entries]
    opening = [entry for entry in counted if entry["order"] == 0]
    papers: dict[str, list[dict[str, Any]]] = {}
    for key, heading in PAPERS.items():
        if found := [entry for entry in counted if entry["paper"] == key and entry["order"] > 0]:
            papers[heading] = found
    return render(
        "page.html.j2",
        title=title,
        lead=LEAD,
        opening={OPENING: opening} if opening else {},
        papers=papers,
        totals=_counts(entries),
        verdicts=VERDICTS,
    )


def _verdicts(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    return [statement["verdict"] for entry in entries for statement in entry["statements"]]


def _counts(entries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    counts = Counter(_verdicts(entries))
    return {verdict: counts[verdict] for verdict in VERDICTS}
