"""Files appear whole or not at all."""

import hashlib

import pytest

from couplet.errors import UserError
from couplet.files import read_json, replacing, sha256, write_json


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def refused(path):
    """Expects one UserError of one line that names ``path``."""
    return pytest.raises(UserError, match=rf"^{path}: [^\n]+$")


def test_file_appears_after_the_block_only(tmp_path):
    path = tmp_path / "deep" / "er" / "file"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == ["file"]


def test_old_file_is_replaced(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, UserError])
@pytest.mark.parametrize("old", ["old", None])
def test_failure_leaves_nothing_and_keeps_the_old_file(tmp_path, old, error):
    path = tmp_path / "file"
    if old:
        path.write_text(old)

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == (["file"] if old else [])
    assert not old or path.read_text() == old


def test_failure_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="early"), replacing(tmp_path / "file"):
        raise ValueError("early")
    assert names(tmp_path) == []


def test_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "below.json"
    with refused(path):
        write_json(path, 1)
    assert names(tmp_path) == ["file"]


def test_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "deep" / "below.json"
    with refused(path):
        write_json(path, 1)


def test_folder_in_the_place_of_the_file_is_refused(tmp_path):
    path = tmp_path / "taken"
    path.mkdir()
    with refused(path):
        write_json(path, 1)
    assert names(tmp_path) == ["taken"]


def test_unwritable_folder_is_refused(tmp_path, monkeypatch):
    def denied(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.write_text", denied)
    path = tmp_path / "file.json"
    with pytest.raises(UserError, match="Permission denied") as caught:
        write_json(path, 1)
    assert str(path) in str(caught.value)
    assert names(tmp_path) == []


def test_full_disk_is_refused_and_keeps_the_old_file(tmp_path, full_disk):
    path = tmp_path / "file.json"
    write_json(path, "old")
    with full_disk(), refused(path):
        write_json(path, list(range(10_000)))
    assert read_json(path) == "old"
    assert names(tmp_path) == ["file.json"]


def test_json_round_trip_in_reproducible_bytes(tmp_path):
    content = {"b": [1, 2.5, None, True], "a": {"ü": "x"}}
    write_json(tmp_path / "one.json", content)
    write_json(tmp_path / "two.json", dict(reversed(content.items())))
    assert read_json(tmp_path / "one.json") == content
    text = (tmp_path / "one.json").read_bytes()
    assert text == (tmp_path / "two.json").read_bytes()
    assert text.endswith(b"\n")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\xfa", b"[1,]"])
def test_what_is_not_json_is_refused(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with refused(path):
        read_json(path)


@pytest.mark.parametrize("read", [read_json, sha256])
def test_what_cannot_be_read_is_refused(tmp_path, read):
    for path in (tmp_path / "absent", tmp_path):
        with refused(path):
            read(path)


def test_sha256(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 100_000)
    assert sha256(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_folder_replaces_a_folder_and_a_file_does_not(tmp_path):
    path = tmp_path / "x"
    for name in ("first", "second"):
        with replacing(path) as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert [file.name for file in path.iterdir()] == ["second"]
    with pytest.raises(UserError, match="cannot be written"), replacing(path) as temporary:
        temporary.touch()
    assert [file.name for file in path.iterdir()] == ["second"]
    assert [*tmp_path.iterdir()] == [path]


def test_a_failed_block_leaves_no_folder(tmp_path):
    def fails():
        with replacing(tmp_path / "x") as temporary:
            temporary.mkdir()
            (temporary / "file").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert [*tmp_path.iterdir()] == []
