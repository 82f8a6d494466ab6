"""`couplet run`: all stages of one cell, into one folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from couplet.config import Params
from couplet.data.archive import read_array
from couplet.live import Sink, watched
from couplet.progress import counting, training_progress
from couplet.reporting.figures import sample_grids
from couplet.stages.evaluate import evaluate, images_to_evaluate
from couplet.stages.features import features
from couplet.stages.prepare import prepare
from couplet.stages.reference import images_of, reference
from couplet.stages.sample import sample, samples_name
from couplet.stages.select import images_to_select, select
from couplet.stages.train import NO_SIGNALS, Signals, lent, train


def run_cell(
    params: Params,
    out: Path,
    device: torch.device,
    say: Callable[[str], None],
    signals: Signals = NO_SIGNALS,
    sinks: Sequence[Sink] = (),
    *,
    accept_code: bool = False,
) -> None:
    """Every stage of the experiment that ``params`` name, into ``out``, and a picture of samples.

    A signal of ``signals`` stops the training after a whole step; ``sinks`` show it while it goes on.
    ``accept_code`` as for :func:`train`.

    Raises:
        Stopped: a signal came; the state is saved.
        UserError: a stage met bad input, or ``out`` cannot be written.
    """
    cell = params.experiment
    settings, measurement = params.training(cell), params.measurement(cell)
    data, extractor, statistics = out / "data", out / "features", out / "reference"
    trained, measured = out / "train", out / "eval"
    selection, samples = measured / "selection.json", measured / "samples"
    prepare(cell.dataset, settings.dataset, out=data, raw=Path(params.raw), workers=1, counting=counting)
    features(measurement.features, data, extractor, device)
    with counting(f"{data}: reference", images_of(data)) as advance:
        reference(data, extractor, statistics, device, advance)
    frozen = None
    if lender := params.pretrained(cell):
        frozen = out / "pretrained"
        needed = params.training(lender[0])
        with training_progress(str(needed.cell), needed.recipe.steps) as progress:
            train(needed, data, frozen, device, progress, say, signals, accept_code=accept_code)
    with (
        training_progress(str(cell), settings.recipe.steps) as progress,
        watched(progress, trained, sinks, device, say) as report,
    ):
        predictor = lent(params, cell, frozen)
        train(
            *(settings, data, trained, device, report, say, signals),
            frozen=predictor,
            accept_code=accept_code,
        )
    with counting(f"{cell}: select", images_to_select(settings, measurement)) as advance:
        select(settings, measurement, trained, extractor, statistics, selection, device, advance)
    with counting(f"{cell}: sample", measurement.sample.samples) as advance:
        sample(settings, measurement, trained, selection, samples, device, advance)
    with counting(f"{cell}: evaluate", images_to_evaluate(measurement)) as advance:
        evaluate(
            settings,
            measurement,
            trained,
            selection,
            samples,
            extractor,
            statistics,
            measured,
            device,
            advance,
        )
    panels = {
        f"NFE {nfe}": {cell.coupling: read_array(samples / samples_name(nfe))}
        for nfe in measurement.sample.nfe
    }
    sample_grids(out / "samples.png", panels)
