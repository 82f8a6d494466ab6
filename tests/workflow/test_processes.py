"""Measuring in two processes gives the bytes of one."""

import pytest

from couplet.plan.stages import RECORD_SUFFIX


@pytest.fixture(scope="module")
def trained(clone):
    clone.edit(lambda params: params["sample"].update(samples=90, batch=40))
    clone.run("couplet", "prepare", "digits", "--out", "apart/data")
    clone.run("couplet", "features", "--data", "apart/data", "--out", "apart/features")
    clone.run("couplet", "train", "--data", "apart/data", "--out", "apart/train")
    return clone


def measured(clone, name, *options):
    """Everything that is measured on a run, by file name."""
    features, train = ("--features", "apart/features"), ("--train", "apart/train")
    out, reference = f"apart/{name}", ("--reference", f"apart/{name}/reference")
    chosen, samples = ("--selection", f"{out}/selection.json"), ("--samples", f"{out}/samples")
    for command in (
        ("reference", "--data", "apart/data", *features, "--out", f"{out}/reference"),
        ("select", *train, *features, *reference, "--out", f"{out}/selection.json"),
        ("sample", *train, *chosen, "--out", f"{out}/samples"),
        ("evaluate", *train, *chosen, *samples, *features, *reference, "--out", f"{out}/evaluation.json"),
    ):
        clone.run("couplet", *command, *options)
    folder = clone.root / out
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(RECORD_SUFFIX)  # of times
    }


@pytest.mark.slow
def test_every_stage_writes_the_same_bytes(trained):
    alone = measured(trained, "one")
    assert len(alone) == 8
    assert measured(trained, "two", "--processes", "2") == alone
