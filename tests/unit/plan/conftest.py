"""What the tests of plans share: remembered digests of their own."""

import pytest


@pytest.fixture(autouse=True)
def own_memory(tmp_path_factory, monkeypatch):
    """The folder in which digests of files are remembered, of this test alone."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder
