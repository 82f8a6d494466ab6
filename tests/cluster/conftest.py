"""Slurm clusters on this machine; skipped where there can be none.

A run takes a minute and mostly waits, so the runs of all tests that were chosen go on side by side.
"""

import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import loopback
import pytest
from sites import Site, running

from clones import clone_into


@pytest.fixture(scope="session")
def cluster():
    """The cluster that most runs share."""
    plugin = find_spec("snakemake_executor_plugin_slurm")
    if reason := loopback.missing() or (
        None if plugin else "no snakemake-executor-plugin-slurm is installed"
    ):
        pytest.skip(f"no Slurm to test on: {reason}")
    with running() as made:
        yield made


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A clone whose grid has one cell and its data set."""

    def one(params):
        params["table1"].update(couplings=["independent"])
        params["time"] = {"rounds": 0}

    clone = clone_into(tmp_path_factory.mktemp("clone") / "a clön")
    clone.edit(one)
    clone.run("snakemake", "--cores", "2", "--until", "prepare", "results/table1.csv")
    return clone.root


@pytest.fixture(scope="session")
def runs(request, cluster, prepared, tmp_path_factory):
    """The runs of all tests that were chosen, which go on side by side."""

    def site(name, cluster=cluster):
        root = tmp_path_factory.mktemp(name) / "a clön"
        shutil.copytree(prepared, root, symlinks=True)
        return Site(root, cluster)

    with ThreadPoolExecutor(5) as pool:
        functions = {getattr(item.function, "begun_by", None): None for item in request.session.items}
        yield {each: pool.submit(each, site) for each in functions if each}


@pytest.fixture
def ended(request, runs):
    """What the function returns that makes the runs of this test."""
    return runs[request.function.begun_by].result()
