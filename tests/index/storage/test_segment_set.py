from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from dots import gallery

import index.storage.open_segments
import index.storage.segment_set
from index import ImageIndex, IndexSettings
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


def test_more_segments_than_open_files(tmp_path, dot_model_folder, work):
    settings = IndexSettings.model_validate({"store": {"segment_images": 1}})
    place, photos = tmp_path / "my.index", tmp_path / "photos"
    ImageIndex.create(place, str(dot_model_folder), settings=settings).close()
    gallery(photos, 40)
    few = ("--files", 36)
    assert work("add", place, photos, *few)[1]["added"] == 40
    assert len(list((place / "segments").iterdir())) == 40
    hits = work("query", place, photos / "005.png", *few)[1]["hits"]
    assert hits[0]["id"] == "005.png"
    assert work("check", place, *few)[1] == {"problems": [], "notes": []}
    assert work("remove", place, "005.png", *few)[1] == {"removed": 1}
    assert work("compact", place, *few)[1]["freed"] > 0
    assert work("check", place, *few)[1] == {"problems": [], "notes": []}


def test_a_segment_beyond_the_limit_that_was_replaced_meanwhile_is_said(
    images, photos, reopen, monkeypatch
):
    monkeypatch.setattr(index.storage.open_segments, "max_open_segments", lambda: 1)
    reader = reopen(images.path)
    assert reader.query(photos / "005.png", k=1, rerank=3)[0].id == "005.png"
    assert len(index.storage.open_segments.OPEN) == 1
    with ImageIndex.open(images.path) as writer:
        writer.use(reader.extractor)
        writer.remove(["000.png"])
        writer.compact()
    with pytest.raises(SegmentError, match=r"a compaction elsewhere.*open the index anew"):
        reader.query(photos / "005.png", k=12, rerank=12)
    reader.refresh()
    assert reader.query(photos / "005.png", k=12, rerank=12)[0].id == "005.png"


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
