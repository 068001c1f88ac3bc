"""An index that follows a folder."""

from __future__ import annotations

import threading

import pytest
from dots import dots, gallery

from delg.errors import UsageError
from index.photos.watch import watch

pytest.importorskip("watchdog")


def test_changes_are_told_once_they_rest(tmp_path):
    stop, told = threading.Event(), threading.Semaphore(0)
    thread = threading.Thread(target=watch, args=([tmp_path], told.release, 0.2, stop))
    thread.start()
    try:
        assert told.acquire(timeout=60)
        (tmp_path / "sub").mkdir()
        for number in range(3):
            dots(number).save(tmp_path / f"{number}.png")
        assert told.acquire(timeout=60)
        # Folders that are made meanwhile are followed as well.
        dots(9).save(tmp_path / "sub" / "9.png")
        assert told.acquire(timeout=60)
    finally:
        stop.set()
        thread.join()


def test_what_is_no_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        watch([tmp_path / "nothing"], lambda: None, 1, threading.Event())


def test_the_command_adds_what_is_there_first(make_index, tmp_path, run, monkeypatch, model):
    gallery(tmp_path / "photos", 3)
    images = make_index()
    folder = images.path
    images.add(tmp_path / "photos")
    images.close()

    def interrupted(folders, changed, *rest: object) -> None:
        changed()
        raise KeyboardInterrupt

    monkeypatch.setattr("index.photos.watch.watch", interrupted)
    (tmp_path / "photos" / "001.png").unlink()
    done = run("index", "watch", tmp_path / "photos", "--index", folder, "--remove", "--model",
               model.folder)  # fmt: skip
    assert done.returncode == 0 and "1 removed; 2 photos in" in done.stdout, done.stderr
