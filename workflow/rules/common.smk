# Reads and checks the parameters once; everything else here is names and paths.
import sys
from pathlib import Path

from couplet.config import read_params
from couplet.config.layout import Layout
from couplet.config.sources import source_files
from couplet.errors import UserError


wildcard_constraints:
    data="[^/]+",
    extractor="[^/]+",
    run="[^/]+",
    eval="eval-[0-9a-f]+",


# `snakemake --config params=other.yaml` takes another file.
PARAMS_FILE = Path(config.get("params", "params.yaml"))
try:
    PARAMS = read_params(PARAMS_FILE)
except UserError as error:
    print(f"couplet: {error}", file=sys.stderr)
    sys.exit(2)

LAYOUT = Layout(PARAMS, Path("results"))
CELLS = {LAYOUT.run(cell).name: cell for cell in PARAMS.table1.cells()}
DATASETS = {LAYOUT.data(name).name: name for name in PARAMS.table1.datasets}
EXTRACTORS = {LAYOUT.features(name).name: name for name in PARAMS.table1.datasets}
SAMPLES = [f"samples/nfe{nfe}.npy" for nfe in PARAMS.sample.nfe]


def card_of_run(wildcards):
    return LAYOUT.data(CELLS[wildcards.run].dataset) / "card.json"


def card_of_extractor(wildcards):
    return LAYOUT.data(EXTRACTORS[wildcards.extractor]) / "card.json"


def extractor_of_run(wildcards):
    return LAYOUT.features(CELLS[wildcards.run].dataset) / "extractor.safetensors"


def reference_of_run(split):
    return lambda wildcards: (
        LAYOUT.reference(CELLS[wildcards.run].dataset) / f"{split}.safetensors"
    )


def flags_of_run(wildcards):
    return CELLS[wildcards.run].flags


def results_of_grid(_):
    """Every file that the table is made from."""
    for cell in CELLS.values():
        folder = LAYOUT.evaluation(cell)
        yield LAYOUT.train(cell) / "record.json"
        yield from (
            folder / name for name in ("selection.json", "evaluation.json", *SAMPLES)
        )
    for dataset in DATASETS.values():
        yield LAYOUT.data(dataset) / "card.json"


def table_figures():
    """Two figures per data set × recipe × kernel."""
    groups = {(cell.dataset, cell.recipe, cell.kernel): None for cell in CELLS.values()}
    return [
        f"results/figures/table1-{'-'.join(group)}-{figure}.png"
        for group in groups
        for figure in ("samples", "distance")
    ]
