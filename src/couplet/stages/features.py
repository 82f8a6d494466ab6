"""Stage `features`: an extractor for a data set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from torch.optim.optimizer import register_optimizer_step_post_hook

from couplet.config.extractors import ExtractorConfig
from couplet.config.variants import build, implementation
from couplet.data.archive import ARRAYS, Archive
from couplet.errors import UserError
from couplet.files import write_json
from couplet.metrics.extractor.base import CARD
from couplet.plan.stages import Settings
from couplet.process import Context
from couplet.provenance.record import Recorder, archive_digests, digests


@contextmanager
def _steps_shown(context: Context, config: ExtractorConfig) -> Iterator[None]:
    """Show the optimiser's steps inside the block, for an extractor that is trained.

    Counted from outside, so that the code that decides features does not know of it.
    """
    if (steps := getattr(config, "steps", None)) is None:
        yield
        return
    done = count(1)
    with context.show(f"features: {config.kind}", steps) as update:
        hook = register_optimizer_step_post_hook(lambda *given: update(next(done), "steps"))
        try:
            yield
        finally:
            hook.remove()


def run(context: Context, settings: Settings, *, data: Path, out: Path) -> str:
    """Write an extractor's card, and the weights that it learnt, to ``out``.

    Published weights are found or downloaded, and checked, but not copied: the card pins their digest.
    """
    if (out / ARRAYS[0]).exists():
        raise UserError(f"{out}: holds a prepared data set; choose another folder")
    config, archive = settings.extractor, Archive(data)
    record = Recorder("features", settings, out, context.device, reads={"prepare": data})
    with _steps_shown(context, config):
        learnt = implementation(config).make(config, archive, out)
    extractor = build(config, out, context.device)
    names = {"kind": config.kind, "name": extractor.name, "sha256": extractor.digest}
    write_json(out / CARD, {**learnt, **names, "config": dict(config)})
    record.write(inputs=archive_digests(archive), outputs=digests(out))
    if (accuracy := learnt.get("test_accuracy")) is None:
        return extractor.name
    return f"{extractor.name}, {accuracy:.1%} of test images classified correctly"
