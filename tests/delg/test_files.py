"""Files are complete or absent, whatever goes wrong while they are written."""

import hashlib
import os
import threading
from pathlib import Path

import h5py
import pytest

from delg.errors import DelgError
from delg.files import atomic_write, file_sha256, write_bytes, write_text


def test_a_file_takes_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"before")
    with atomic_write(path) as temporary:
        with h5py.File(temporary, "w") as file:
            file["x"] = [1, 2]
        assert temporary.parent == tmp_path
        assert path.read_bytes() == b"before"
    with h5py.File(path) as file:
        assert list(file["x"]) == [1, 2]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_changes_nothing(tmp_path, error):
    path = tmp_path / "a"
    path.write_bytes(b"before")
    expected = DelgError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as raised, atomic_write(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    if expected is DelgError:
        assert str(raised.value) == f"{path}: cannot be written: No space left on device"
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_overwritten(tmp_path):
    (tmp_path / "a.tmp").write_bytes(b"longer than what comes now")
    with atomic_write(tmp_path / "a") as temporary:
        temporary.write_bytes(b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"new"}


def test_bytes_are_on_the_disk_before_the_name_is_and_the_name_before_the_return(
    tmp_path, monkeypatch
):
    steps = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(handle):
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")  # noqa: PTH112
        fsync(handle)

    def watched_replace(path, target):
        steps.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    write_text(tmp_path / "a", "ä")
    assert steps == ["file", "rename", "folder"]
    assert (tmp_path / "a").read_text("utf-8") == "ä"
    steps.clear()
    write_bytes(tmp_path / "a", b"b", durable=False)
    assert steps == ["rename"]


def test_many_threads_may_write_the_same_name(tmp_path):
    contents = [bytes([number]) * 50_000 for number in range(8)]
    threads = [
        threading.Thread(target=write_bytes, args=(tmp_path / "a", data)) for data in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_bytes() in contents
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["missing/a", "file/a", "nul\0byte", "folder", "n" * 256])
def test_a_path_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DelgError, match=r"cannot be written|not a usable path"):
        write_bytes(tmp_path / name, b"x")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder"}


def test_the_longest_name_of_the_file_system_can_be_written(tmp_path):
    write_bytes(tmp_path / ("n" * 255), b"x")


def test_sha256(tmp_path):
    data = os.urandom(3 << 20)
    (tmp_path / "a").write_bytes(data)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()
