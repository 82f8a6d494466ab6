"""Digests of files and folders, and what is remembered of them."""

import json
import os

import pytest

from couplet.files import sha256
from couplet.plan import content
from couplet.plan.content import ABSENT, content_of


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once."""
    monkeypatch.setattr(content, "SETTLED", -(10**18))


def test_file_folder_and_nothing(tmp_path):
    file = tmp_path / "a"
    assert content_of(file) == ABSENT
    file.write_bytes(b"1")
    assert content_of(file) == sha256(file)
    folder = tmp_path / "folder"
    folder.mkdir()
    assert content_of(folder) == ABSENT
    (folder / "b").write_bytes(b"1")
    assert content_of(folder) not in (ABSENT, sha256(file))


def test_names_below_a_folder_count_and_its_own_does_not(tmp_path):
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    for folder, name in ((one, "a/b"), (two, "a/b"), (three, "a/c")):
        (folder / "a").mkdir(parents=True)
        (folder / name).write_bytes(b"1")
    assert content_of(one) == content_of(two) != content_of(three)


def test_linked_folders_count_and_loops_end(tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    for each in (folder, elsewhere):
        each.mkdir()
        (each / "a").write_bytes(b"1")
    (folder / "more").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    before = content_of(folder)
    (elsewhere / "a").write_bytes(b"2")
    assert content_of(folder) != before


@pytest.mark.parametrize("name", [".DS_Store", "._a", ".git/HEAD", "__MACOSX/a", "lock.mdb", "b/.thumb"])
def test_files_that_no_reader_opens_do_not_count(tmp_path, name):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/a").write_bytes(b"1")
    before = content_of(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"1")
    assert content_of(tmp_path) == before


def test_file_that_was_just_written_is_read_again(tmp_path, own_memory):
    """Within the resolution of times, a change of the same size may leave no trace in them."""
    file = tmp_path / "a"
    file.write_bytes(b"1")
    times = file.stat()
    before = content_of(file)
    assert not list(own_memory.rglob("content.json"))
    file.write_bytes(b"2")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert content_of(file) != before


@pytest.mark.usefixtures("settled")
def test_settled_file_is_read_once(tmp_path, own_memory):
    file = tmp_path / "a"
    file.write_bytes(b"1")
    digest = content_of(file)
    memory = own_memory / "couplet/content.json"
    remembered = json.loads(memory.read_text())
    assert remembered[str(file)]["digest"] == digest
    memory.write_text(json.dumps({str(file): {**remembered[str(file)], "digest": "remembered"}}))
    assert content_of(file) == "remembered"
    file.write_bytes(b"22")
    assert content_of(file) == sha256(file)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"/": 3}'])
def test_damaged_memory_is_ignored(tmp_path, own_memory, text):
    file, memory = tmp_path / "a", own_memory / "couplet/content.json"
    file.write_bytes(b"1")
    memory.parent.mkdir()
    memory.write_text(text)
    assert content_of(file) == sha256(file)
    assert json.loads(memory.read_text())[str(file)]["digest"] == sha256(file)
