"""Stages as functions of a few arguments, for tests of the rooms below them."""

from pathlib import Path

from couplet.config.datasets import DigitsConfig
from couplet.data.archive import Archive, Card
from couplet.files import read_json
from couplet.metrics.extractor.base import CARD
from couplet.plan.stages import Settings, dataset_in, extractor_in, record_of
from couplet.process import Context
from couplet.provenance.record import Recorder, archive_digests
from couplet.stages import features as features_stage
from couplet.stages import prepare as prepare_stage
from couplet.stages import reference as reference_stage


def prepare(name, config, *, out, raw=Path("raw"), workers=1) -> Card:
    """The card of a data set that stage `prepare` wrote."""
    prepare_stage.run(Context(), Settings(config), name=name, out=out, raw=raw, workers=workers)
    return Archive(out).card


def recorded(data: Path) -> Path:
    """An archive with a record, as of digits, if it has none."""
    if not record_of("prepare", data).exists():
        config = DigitsConfig()
        record = Recorder("prepare", Settings(config), data, Context().device, reads={})
        digests = archive_digests(Archive(data))
        record.write(config=config.model_dump(mode="json"), inputs={}, outputs=digests)
    return data


def features(config, data, out):
    """The card of an extractor that stage `features` made ready."""
    settings = Settings(dataset_in(recorded(data)), config)
    features_stage.run(Context(), settings, data=data, out=out)
    return read_json(out / CARD)


def reference(data, folder, out, show=None):
    """Run stage `reference`."""
    context = Context() if show is None else Context(show=show)
    settings = Settings(dataset_in(data), extractor_in(folder))
    reference_stage.run(context, settings, data=data, features=folder, out=out)
