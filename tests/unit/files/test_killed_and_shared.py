"""Files that other processes leave and hold."""

import errno
import fcntl

import pytest

from couplet import files
from couplet.errors import UserError
from couplet.files import append, locked, remove_temporary, replacing


def test_lock_of_another_process_is_refused_until_it_is_dead(tmp_path, hold):
    path = tmp_path / "deep/run.lock"
    with hold(path) as holder:
        for _ in range(2):
            with pytest.raises(UserError) as caught, locked(path, print):
                pass
            message = str(caught.value)
            assert message.startswith(f"{path}: process {holder.pid} on ")
            assert message.endswith(" is at work; wait for it or choose another folder")
    assert path.exists()
    with locked(path, print):
        pass
    assert not path.exists()


def test_lock_is_let_go_after_a_failure(tmp_path):
    path = tmp_path / "run.lock"

    def fail():
        with locked(path, print):
            assert path.exists()
            raise ValueError("in between")

    with pytest.raises(ValueError, match="in between"):
        fail()
    assert not path.exists()


def test_lock_on_a_file_that_its_holder_removed_meanwhile_does_not_count(tmp_path, monkeypatch):
    path, flock, calls = tmp_path / "run.lock", fcntl.flock, []

    def held_up(file, flags):
        calls.append(flags)
        if len(calls) == 1:
            path.unlink()
        return flock(file, flags)

    monkeypatch.setattr(fcntl, "flock", held_up)
    with locked(path, print):
        assert path.read_text().startswith("process ")
    assert len(calls) > 2


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_disk_without_locks_is_reported_and_used(tmp_path, monkeypatch, error):
    def unknown(file, flags):
        raise OSError(error, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    path, lines = tmp_path / "run.lock", []
    with locked(path, lines.append):
        pass
    assert lines == [f"{path}: this disk has no locks; make sure that no other process works here"]
    assert not path.exists()


def test_lock_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file/run.lock"
    with pytest.raises(UserError, match=rf"^{path}: cannot be written \("), locked(path, print):
        pass


def test_file_reaches_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    path, synced = tmp_path / "file", []
    monkeypatch.setattr(files, "_sync", lambda synced_path: synced.append((synced_path, path.exists())))
    with replacing(path) as temporary:
        temporary.write_text("x")
    assert synced == [(temporary, False), (tmp_path, True)]


def test_append_adds_and_names_a_full_disk(tmp_path, full_disk):
    path = tmp_path / "file"
    append(path, "a\n")
    append(path, "b\n")
    assert path.read_text() == "a\nb\n"
    with full_disk(), pytest.raises(UserError, match=rf"^{path}: cannot be written \(File too large\)"):
        append(path, "c" * 20_000)


def test_only_temporary_files_are_removed(tmp_path):
    for name in ("deep/.a.json.12.tmp", ".b.12.tmp", ".hidden", "c.tmp", "d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    remove_temporary(tmp_path)
    remove_temporary(tmp_path / "absent")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [".hidden", "c.tmp", "d"]
