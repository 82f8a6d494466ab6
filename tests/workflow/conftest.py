"""A clone of the repository with a tiny grid, to run the engines in."""

import pytest

from clones import clone_into


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return clone_into(tmp_path_factory.mktemp("clone") / "a clön")  # people's paths have spaces
