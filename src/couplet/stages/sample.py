"""Stage `sample`: images from the selected snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from couplet import model
from couplet.data.archive import read_array
from couplet.errors import UserError
from couplet.files import read_json, replacing
from couplet.plan.stages import Settings
from couplet.process import Context
from couplet.provenance.record import Recorder, digests
from couplet.sampling import Drawn, samples_of


def samples_name(nfe: int) -> str:
    """File name of the samples of ``nfe`` evaluations."""
    return f"nfe{nfe}.npy"


def panels(folders: Mapping[str, Path], nfes: Iterable[int]) -> dict[str, dict[str, NDArray[np.uint8]]]:
    """The samples in ``folders``, which have a name each, by NFE and name, as they are drawn."""
    return {
        f"NFE {nfe}": {name: read_array(folder / samples_name(nfe)) for name, folder in folders.items()}
        for nfe in nfes
    }


def selected(selection: Path) -> dict[str, Any]:
    """Step and checkpoint that `couplet select` named in the file ``selection``."""
    content = read_json(selection)
    try:
        return {key: content["selected"][key] for key in ("step", "checkpoint")}
    except (KeyError, TypeError):
        raise UserError(f"{selection}: not a file of `couplet select`; run it again") from None


def run(context: Context, settings: Settings, *, train: Path, selection: Path, out: Path) -> str:
    """Write uint8 [n, h, w, c] arrays, one per NFE, to the folder ``out``, batch by batch.

    An array holds the sets of `sample.repeats` one after the other.
    """
    training, measurement = settings.training, settings.measurement
    reads = {"train": train, "select": selection}
    record = Recorder("sample", settings, out, context.device, reads=reads)
    checkpoint = train / "checkpoints" / selected(selection)["checkpoint"]
    network, saved = model.load(checkpoint, context.device)
    count, nfes = measurement.sample.samples * measurement.sample.repeats, measurement.sample.nfe
    drawn = read_json(selection).get("label_counts")
    options: dict[str, Any] = {} if drawn is None else {"labels": Drawn(drawn)}
    shape = (count, saved.shape.resolution, saved.shape.resolution, saved.shape.channels)
    with ExitStack() as stack:
        arrays = {}
        for nfe in nfes if context.ranks.first else ():
            path = stack.enter_context(replacing(out / samples_name(nfe)))
            arrays[nfe] = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        advance = stack.enter_context(context.counting(f"sample {training.cell}", count))
        drawing = samples_of(
            *(training, measurement, network, saved.shape),
            purpose="sample",
            count=count,
            nfe=nfes,
            ranks=context.ranks,
            **options,
        )
        start = 0
        for batch in drawing:
            size = len(batch[nfes[0]])
            for nfe, array in arrays.items():
                array[start : start + size] = batch[nfe]
            start += size
            advance(size)
        for array in arrays.values():
            array.flush()
    if context.ranks.first:
        record.write(
            cell=training.cell.model_dump(),
            inputs=digests(train / "config.json", checkpoint, selection),
            outputs=digests(*(out / samples_name(nfe) for nfe in nfes)),
        )
    return f"{count} images for each NFE of {', '.join(map(str, nfes))}"
