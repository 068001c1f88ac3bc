from __future__ import annotations

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

import index.storage.segment_set
from index import ImageIndex
from index.storage.segments import SegmentError, segment_path


@pytest.fixture
def images(make_index, photos) -> ImageIndex:
    """An index of 12 photos in three segments."""
    images = make_index(store={"segment_images": 4})
    images.add(photos)
    images.close()
    return images


@pytest.fixture
def read_segments(monkeypatch) -> list[str]:
    """Names of the segments that are read."""
    names: list[str] = []
    segment_class = index.storage.segment_set.Segment

    def read(path, *rest):
        names.append(path.name)
        return segment_class(path, *rest)

    monkeypatch.setattr(index.storage.segment_set, "Segment", read)
    return names


def test_opening_reads_no_segment_and_a_query_only_those_it_needs(
    images, photos, reopen, read_segments
):
    reader = reopen(images.path)
    assert len(reader) == 12 and read_segments == []
    assert reader.query(photos / "005.png", k=1, rerank=1, orientations="1")[0].id == "005.png"
    assert read_segments == ["000002.h5"]


def test_a_refresh_keeps_what_has_been_read(images, photos, reopen, read_segments):
    reader = reopen(images.path)
    reader.query(photos / "005.png", k=1, rerank=1, orientations="1")
    reader.refresh()
    reader.query(photos / "005.png", k=1, rerank=1, orientations="1")
    assert read_segments == ["000002.h5"]


def test_a_process_that_may_hold_no_more_files_reads_them_by_their_path(
    images, photos, reopen, monkeypatch
):
    class Full:
        ACCESS_READ = 0

        @staticmethod
        def mmap(*_, **__):
            raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(index.storage.segment_set, "mmap", Full)
    reader = reopen(images.path)
    assert reader.unreadable_segments() == []
    assert reader.query(photos / "005.png", k=1, rerank=1)[0].id == "005.png"


@pytest.mark.parametrize("damage", ["short", "garbage", "empty", "gone"])
def test_what_cannot_be_a_segment_is_lost_from_the_start(images, reopen, damage):
    path = segment_path(images.path, 2)
    if damage == "short":
        os.truncate(path, path.stat().st_size - 1)
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"garbage" * (10_000 if damage == "garbage" else 0))
    lost = reopen(images.path).unreadable_segments()
    assert len(lost) == 1 and "000002.h5" in lost[0]


def test_damage_inside_is_a_clear_error_when_it_is_met_and_the_next_add_mends_it(
    images, photos, reopen
):
    path = segment_path(images.path, 2)
    data = bytearray(path.read_bytes())
    data[8:2000] = bytes(1992)
    path.write_bytes(data)
    reader = reopen(images.path)
    with pytest.raises(SegmentError, match=r"000002\.h5: not a readable segment"):
        reader.query(photos / "005.png", k=1, rerank=1)
    report = reader.add(photos)
    assert (report.updated, report.unchanged) == (4, 8)
    assert reader.query(photos / "005.png", k=1, rerank=1)[0].id == "005.png"


def test_a_query_from_the_shell_does_not_load_tensorflow(real_index, real_photos):
    code = """
import sys
from delg.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
assert not {"tensorflow", "keras", "skimage", "matplotlib"} & set(sys.modules)
"""
    words = ["query", str(real_photos / "cat.jpg"), "--index", str(real_index.path)]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cat.jpg" in done.stdout


def test_numbers_in_a_held_segment_cannot_be_changed(images, reopen):
    segment = reopen(images.path)._store.segments[1]
    with pytest.raises(ValueError, match="read-only"):
        segment.sizes[0] = 0
    assert isinstance(segment.global_descriptors([0]), np.ndarray)
