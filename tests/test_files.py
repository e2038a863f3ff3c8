"""Files are written whole or not at all, and a damaged one is named."""

import errno
import fcntl
import multiprocessing
import threading
import time

import pytest

from nanolab import files
from nanolab.errors import UserError


def test_an_atomic_write_replaces_the_content_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    files.write_atomic(path, "one")
    files.write_atomic(path, b"two")
    assert path.read_bytes() == b"two" and [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_write_that_fails_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    monkeypatch.setattr(
        files.os, "fsync", lambda number: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        files.write_json(path, {"a": 2})
    assert files.read_json(path) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_missing_and_truncated_json_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no file .*absent\.json"):
        files.read_json(tmp_path / "absent.json")
    (tmp_path / "cut.json").write_text('{"a": 1, "b"')
    with pytest.raises(UserError, match=r"cut\.json is not valid JSON"):
        files.read_json(tmp_path / "cut.json")


def test_sha256_of_known_texts(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert (
        files.sha256_file(tmp_path / "a")
        == files.sha256_text("abc")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "weights").write_bytes(b"12345678")
    files.mark_complete(tmp_path, ["weights"], step=3)
    return tmp_path


def test_a_complete_folder_gives_its_facts(checkpoint):
    assert files.is_complete(checkpoint) and files.verify_complete(checkpoint) == {"step": 3}


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "weights is missing"),
        (b"1234", "weights is truncated: 4 bytes, expected 8"),
        (b"12345679", "weights was altered"),
    ],
)
def test_a_damaged_file_is_named(checkpoint, content, words):
    (checkpoint / "weights").unlink()
    if content is not None:
        (checkpoint / "weights").write_bytes(content)
    with pytest.raises(UserError, match=words):
        files.verify_complete(checkpoint)


@pytest.mark.parametrize(
    "marker",
    [
        "[]",
        "{}",
        '{"files": []}',
        '{"files": {"weights": 8}}',
        '{"files": {"weights": {"bytes": 8}}}',
    ],
)
def test_a_marker_that_names_no_parts_is_one_line_with_the_way_out(checkpoint, marker):
    (checkpoint / files.COMPLETE).write_text(marker)
    with pytest.raises(UserError, match=r"COMPLETE\.json does not say .*: remove .*, then run"):
        files.verify_complete(checkpoint)


def test_a_folder_without_its_marker_is_not_complete(checkpoint):
    (checkpoint / files.COMPLETE).unlink()
    assert not files.is_complete(checkpoint)
    with pytest.raises(UserError, match="is not complete"):
        files.verify_complete(checkpoint)


def test_errors_in_a_circle_or_a_group_are_looked_at_once(tmp_path, monkeypatch):
    """An error raised from itself had the search for a full disk run for ever."""
    monkeypatch.setattr(files, "MLRUNS", tmp_path)
    error, other = ValueError("one"), ValueError("two")
    error.__cause__, error.__context__, other.__context__ = error, other, error
    assert list(files.causes(error)) == [error, other] and not files.is_full(error)
    full = ExceptionGroup("more", [OSError(28, "No space left on device")])
    group = ExceptionGroup("several", [error, full])
    assert files.is_full(group) and files.last_line(group) == "ValueError: one"
    assert str(files.mistake_of(group)).startswith(files.FULL)
    denied = PermissionError(13, "Permission denied", "/a/b")
    assert "/a/b may not be used (Permission denied): change" in str(files.mistake_of(denied))
    read_only = PermissionError(errno.EROFS, "Read-only file system", "/a/b")
    assert "system): its disk is mounted for reading" in str(files.mistake_of(read_only))
    assert files.mistake_of(ValueError("x")) is None


def test_what_an_atomic_write_leaves_outlasts_a_power_cut(tmp_path, monkeypatch):
    """The file's bytes are on the disk before its name is, and its name before the call returns."""
    synced, real = [], files.os.fsync

    def fsync(number):
        synced.append(files.os.path.isdir(f"/proc/self/fd/{number}"))
        real(number)

    monkeypatch.setattr(files.os, "fsync", fsync)
    files.write_atomic(tmp_path / "a.txt", "one")
    assert synced == [False, True]


def hold(path, held):
    with files.file_lock(path) as announce:
        announce("holder")
        held.set()
        time.sleep(60)


def test_a_lock_tells_its_holder_and_is_freed_when_the_holder_is_killed(tmp_path):
    held = multiprocessing.get_context("spawn").Event()
    process = multiprocessing.get_context("spawn").Process(
        target=hold, args=(tmp_path / "lock", held)
    )
    process.start()
    assert held.wait(30)
    with pytest.raises(BlockingIOError), files.file_lock(tmp_path / "lock", wait=0):
        pass
    assert (tmp_path / "lock").read_text() == "holder"
    process.kill()
    process.join()
    with files.file_lock(tmp_path / "lock", wait=0):
        pass


def test_looking_at_a_lock_keeps_nobody_from_taking_it(tmp_path):
    path = tmp_path / ".lock"
    assert not files.is_locked(path) and not path.exists()
    with files.file_lock(path):
        assert files.is_locked(path)
        with pytest.raises(BlockingIOError), files.file_lock(path, wait=0):
            pass
    assert not files.is_locked(path)
    with open(path) as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        threading.Timer(0.03, fcntl.flock, (look, fcntl.LOCK_UN)).start()
        with files.file_lock(path, wait=0):
            pass


def test_a_results_folder_that_is_a_link_to_nothing_is_a_persons_mistake(tmp_path, monkeypatch):
    link = tmp_path / "results"
    link.symlink_to(tmp_path / "unmounted")
    monkeypatch.setattr(files, "MLRUNS", link / "mine")
    with pytest.raises(UserError, match=f"{link} is a link to nothing: mend it, or set NANOLAB_ML"):
        files.check_mlruns()


def test_an_error_that_cannot_say_itself_still_ends_in_a_line():
    class Mute(RuntimeError):
        def __str__(self):
            raise ValueError("no words")

    line = "Mute: (its words cannot be read: ValueError)"
    assert files.last_line(Mute()) == line and not files.is_full(Mute())
    assert files.mistake_of(Mute()) is None
