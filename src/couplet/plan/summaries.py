"""Tables, figures and the page: summaries of many cells, under names of their own.

Their names carry no key, so their records do: a summary is current if its record has the key that the present
settings, results and code give.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from couplet.config.base import Invalid
from couplet.config.cells import Cell
from couplet.config.params import Params
from couplet.config.study import Study
from couplet.config.variants import name_of, variants_in
from couplet.errors import UserError
from couplet.files import sha256
from couplet.plan.code import PACKAGE, definitions
from couplet.plan.layout import Layout, shown_by
from couplet.plan.stages import RUN, STAGES, beside, digest, record_of

TABLE = (
    "couplet.reporting.table:table",
    "couplet.reporting.results:results_page",
    "couplet.reporting.pictures:sample_grids",
    "couplet.figures.marks:distance_curves",
)
FIGURE = ("couplet.figures.base:Cells",)
PAGE = ("couplet.reporting.page:page",)
"""Definitions that decide a summary, besides those of variants."""

TABLE_FILES = (
    "reporting/couplet.mplstyle",
    "reporting/results.css",
    "reporting/results.html.j2",
    "reporting/results.js",
    "reporting/published.csv",
    "reporting/published.json",
)

FIGURE_FILES = ("reporting/couplet.mplstyle",)
PAGE_FILES = ("reporting/page.html.j2",)
"""Files of the package that decide a summary."""

SMALL = {".json", ".csv", ".svg"}
"""Suffixes of files that are read to see whether a summary is current; arrays and weights are not."""


def table_files(layout: Layout, part: str = "") -> list[Path]:
    """The files from which a table is made; Invalid if no cell's name begins with ``part``."""
    measured = layout.params.measured(part)
    shown = dict.fromkeys(shown_by(layout.output("select", *pair)) for pair in measured)
    return [*_files(layout, measured, RUN), *_times(layout, part), *shown]


def _files(layout: Layout, measured: Iterable[tuple[Cell, str]], stages: Iterable[str]) -> list[Path]:
    """Cards of data, numbers and pictures of cells, and the records of ``stages``."""
    files: dict[Path, None] = {}
    for cell, name in measured:
        outputs = {stage: layout.output(stage, cell, name) for stage in stages}
        results = [path for stage, path in outputs.items() if "train" in STAGES[stage].reads]
        records = [record_of(stage, path) for stage, path in outputs.items()]
        files |= dict.fromkeys([outputs["prepare"] / "card.json", *results, *records])
    return list(files)


def _times(layout: Layout, part: str = "") -> list[Path]:
    """The measurements of the time of steps and their records."""
    paths = [layout.times(name) for name in layout.timed(part)]
    return [*paths, *map(beside, paths)]


def table_facts(params: Params, part: str = "") -> dict[str, Any]:
    """Facts about a table for the captions of Snakemake's report."""
    measured = params.measured(part)
    trainings = {cell.name: params.training(cell) for cell, _ in measured}
    seeds = Counter(cell.name for cell in params.cells(part)).values()
    kinds = {params.extractor_named(extractor).kind for _, extractor in measured}
    kid: Any = params.evaluate.metrics.get("kid")
    return {
        "scale": params.scale or "as written",
        "seeds": " to ".join(map(str, sorted({min(seeds), max(seeds)}))),
        "extractors": sorted({extractor for _, extractor in measured}),
        "inception": "inception" in kinds,
        "budgets": sorted(
            {(t.cell.dataset, t.cell.recipe, t.recipe.steps, t.recipe.batch) for t in trainings.values()}
        ),
        "select": (params.select.samples, params.select.split, params.select.nfe),
        "samples": params.sample.samples,
        "kid": (kid.subsets, kid.subset_size) if kid else None,
    }


def table_key(layout: Layout, part: str = "") -> str:
    """Changes with the cells of a table, with what they were made from and with the table's code."""
    params = layout.params
    # The folder's name stands for every setting that decides the numbers.
    rows = [layout.output("evaluate", *measured).as_posix() for measured in params.measured(part)]
    rows += [path.as_posix() for path in _times(layout, part)]
    return digest([rows, params.scale, definitions(*TABLE), _contents(TABLE_FILES)])


def selected(params: Params) -> list[tuple[Cell, str]]:
    """The cells, each with the extractor in whose features its snapshot is selected; figures show these."""
    return [(cell, params.selector(cell)) for cell in params.cells()]


def study_of(layout: Layout) -> Study:
    """The study of a parameter file; Invalid if it has none."""
    if layout.params.study is None:
        raise Invalid(("study",), None, "this key is required for a figure")
    return layout.params.study


def figure_files(layout: Layout) -> list[Path]:
    """The files from which a study's figure is made; Invalid if there is no `study`."""
    study, params = study_of(layout), layout.params
    times = _times(layout) if study.figure.timed else []
    if study.needs == "evaluate":
        return _files(layout, selected(params), RUN) + times
    if study.needs == "select":
        unread = ("sample", "evaluate")
        return _files(layout, selected(params), [stage for stage in RUN if stage not in unread]) + times
    pairs = [(cell, study.needs) for cell in params.cells()]
    return _files(layout, pairs, ["prepare", "train", "probe"]) + times


def figure_key(layout: Layout) -> str:
    """Changes with the study, with what its figure is made from and with the figure's code."""
    study = study_of(layout)
    names = [file.as_posix() for file in figure_files(layout)]
    kinds = {name_of(variant) for variant in variants_in(study)}
    code = definitions(*FIGURE, *sorted(kinds))
    settings = study.model_dump(mode="json")
    return digest([settings, names, layout.params.scale, code, _contents(FIGURE_FILES)])


def page_key(figures: Iterable[str]) -> str:
    """Changes with the keys of the figures on a page and with the page's code."""
    return digest([sorted(figures), definitions(*PAGE), _contents(PAGE_FILES)])


def is_current(summary: Path, key: str) -> bool:
    """Whether a summary has this key, and is made from the present files of the cells, by its record."""
    record = beside(summary)
    try:
        content = json.loads(record.read_text())
        small = {name: sha for name, sha in content["inputs"].items() if Path(name).suffix in SMALL}
        files = {**small, **content["outputs"]}
        return content["key"] == key and all(sha256(record.parent / name) == files[name] for name in files)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, UserError):
        return False


def _contents(names: tuple[str, ...]) -> dict[str, str]:
    return {name: sha256(PACKAGE / name) for name in names}
