"""A page of made-up results: two couplings, two seeds, three snapshots, a missing cell."""

from types import SimpleNamespace

import numpy as np
import pytest

from couplet.reporting.results import Details, Group, Trained, results_page
from couplet.reporting.table import Column, Table

STEPS = (100, 200, 400)
LABELS = {"ot": "minibatch OT", "vae": "variational", "ve": "VE"}
NUMBERS = {"independent": (9.0, 11.0), "ot": (3.0, 5.0)}


def trained(coupling, seed):
    """A run whose images after step s are constant, at s / 2 plus a number of its own."""
    shift = 20 * [*NUMBERS].index(coupling) + 10 * seed
    value = NUMBERS[coupling][seed]
    return Trained(
        label=LABELS.get(coupling, coupling),
        seed=seed,
        loss={step: 100.0 / step + seed for step in range(1, 401)},
        distance={step: value * 400 / step for step in STEPS},
        shown={step: np.full((36, 8, 8, 1), step // 2 + shift, np.uint8) for step in STEPS},
        samples={nfe: np.full((40, 8, 8, 1), 50 * nfe + shift, np.uint8) for nfe in (1, 2)},
        selected=400,
    )


def row(coupling, mean="", std="", seeds="2", runs="", missing=""):
    names = {"dataset": "digits", "kernel": "ve", "coupling": coupling, "nfe": "1", "seeds": seeds}
    numbers = {
        "fd_x_mean": mean,
        "fd_x_std": std,
        "step_ms": "25",
        "step_ms_spread": "0.5",
        "timed_by": "a clock",
    }
    texts = ("-6.000", "-7.5", "-4.5", "2") if coupling == "ot" else ("", "", "", "")
    versus = dict(zip(("", "_low", "_high", "_pairs"), texts, strict=True))
    numbers |= {f"fd_x_minus_independent{part}": text for part, text in versus.items()}
    return {**names, **numbers, "missing": missing, "extractor": "x", "runs": runs}


@pytest.fixture(scope="session")
def results():
    """The page's text, with what it is made of."""
    columns = [
        Column("data set", "dataset"),
        *(Column(name, name) for name in ("kernel", "coupling")),
        *(Column("NFE", "nfe"), Column("seeds", "seeds"), Column("missing", "missing")),
        Column("Fréchet distance ↓ (x)", "fd_x_mean", "fd_x_std"),
        Column(
            "minus independent",
            "fd_x_minus_independent",
            interval=tuple(f"fd_x_minus_independent_{part}" for part in ("low", "high", "pairs")),
        ),
        Column("step (ms)", "step_ms", "step_ms_spread"),
        *(Column("features", "extractor"), Column("", "timed_by"), Column("", "runs")),
    ]
    rows = [
        row("independent", "10.000", "1.414", runs="run-i0 run-i1"),
        row("ot", "4.000", "1.414", runs="run-o0 run-o1"),
        row("vae", seeds="0 of 1", missing="seed 0: not trained"),
    ]
    details = [
        Details(
            settings={"coupling.kind": f'"{each["coupling"]}"', "recipe.steps": "400"},
            numbers={
                name: {"fd_x": value}
                for name, value in zip(each["runs"].split(), NUMBERS.get(each["coupling"], ()), strict=True)
            },
            origin=[("run", f"made-{name}") for name in each["runs"].split()],
        )
        for each in rows
    ]
    group = Group(
        title="",
        distance="distance to <made-up> images",
        real=np.full((36, 8, 8, 1), 250, np.uint8),
        runs=[trained(coupling, seed) for coupling in NUMBERS for seed in (0, 1)],
    )
    text = results_page(
        "<mine>",
        Table(columns, rows),
        details,
        [group],
        labels=LABELS,
        missing=["digits-ict-ve-vae-s0, x: not trained"],
        why="couplet why 'results/my table.csv' --row",
    )
    return SimpleNamespace(text=text, rows=rows, details=details, group=group)
