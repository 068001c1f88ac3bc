import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from dots import contents, dots, gallery
from PIL import Image

from delg.errors import UsageError
from index.storage.catalog_tables import ImageRow
from index.storage.store import Store


def row_of(folder: Path, image_id: str) -> ImageRow:
    store = Store(folder)
    row = store.catalog.by_id(image_id)
    store.close()
    assert row is not None
    return row


def counts(report) -> tuple[int, int, int, int, int]:
    return (
        report.added,
        report.updated,
        report.unchanged,
        len(report.failed),
        len(report.vanished),
    )


def touch(path: Path) -> None:
    """Give a file another modification time."""
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 5_000_000_000))


def test_all_photos_of_a_folder_are_added_under_their_relative_paths(make_index, model, tmp_path):
    dots(1).save(tmp_path / "p" / "b.png")
    dots(2).save(tmp_path / "p" / "deep" / "er" / "ä.png")
    (tmp_path / "p" / "notes.txt").write_text("no photo")
    images = make_index()
    report = images.add(tmp_path / "p")
    assert counts(report) == (2, 0, 0, 0, 0)
    assert model.extracted == 2 and len(images) == 2
    row = row_of(images.path, "deep/er/ä.png")
    assert row.path == str(tmp_path / "p" / "deep" / "er" / "ä.png")
    assert (row.width, row.height, row.label) == (160, 120, None)
    assert set(contents(images.path)) == {"b.png", "deep/er/ä.png"}


def test_unchanged_photos_are_not_even_opened(make_index, model, photos, monkeypatch):
    images = make_index()
    images.add(photos)
    before = contents(images.path)
    opened = []
    path_open, read = Path.open, Path.read_bytes
    monkeypatch.setattr(
        Path, "open", lambda self, *a, **n: (opened.append(self), path_open(self, *a, **n))[1]
    )
    monkeypatch.setattr(Path, "read_bytes", lambda self: (opened.append(self), read(self))[1])
    report = images.add(photos)
    assert counts(report) == (0, 0, 12, 0, 0)
    assert not [path for path in opened if path.suffix == ".png"]
    assert model.extracted == 12
    assert contents(images.path) == before


def test_touched_photos_with_the_same_bytes_are_not_extracted_again(make_index, model, photos):
    images = make_index()
    images.add(photos)
    row = row_of(images.path, "003.png")
    touch(photos / "003.png")
    assert counts(images.add(photos)) == (0, 0, 12, 0, 0)
    assert model.extracted == 12
    after = row_of(images.path, "003.png")
    assert after.row == row.row
    assert after.mtime_ns == (photos / "003.png").stat().st_mtime_ns != row.mtime_ns


def test_changed_photos_are_replaced_under_a_new_row(make_index, model, photos):
    images = make_index()
    images.add(photos)
    rows = {name: row_of(images.path, name).row for name in ("003.png", "004.png")}
    dots(103).save(photos / "003.png")
    assert counts(images.add(photos)) == (0, 1, 11, 0, 0)
    assert model.extracted == 13 and len(images) == 12
    assert row_of(images.path, "003.png").row > max(rows.values())
    assert row_of(images.path, "004.png").row == rows["004.png"]
    assert images.query(dots(103).pixels(), k=1)[0].id == "003.png"
    assert "003.png" not in [hit.id for hit in images.query(dots(3).pixels()) if hit.verified]


def test_a_photo_changed_to_one_of_equal_size_is_noticed_by_its_time(make_index, tmp_path):
    path = tmp_path / "p" / "a.bmp"
    path.parent.mkdir()
    Image.fromarray(dots(1).pixels()).save(path, "BMP")
    size = path.stat().st_size
    images = make_index()
    images.add(path.parent)
    Image.fromarray(dots(2).pixels()).save(path, "BMP")
    touch(path)
    assert path.stat().st_size == size
    assert counts(images.add(path.parent)) == (0, 1, 0, 0, 0)


def test_new_photos_are_added_and_nothing_twice(make_index, model, photos):
    images = make_index()
    images.add(photos)
    gallery(photos, 3, first=50)
    assert counts(images.add(photos)) == (3, 0, 12, 0, 0)
    assert counts(images.add([photos, photos / "000.png", str(photos)])) == (0, 0, 15, 0, 0)
    assert model.extracted == 15 and len(images) == 15


def test_photos_that_cannot_be_used_are_recorded_with_their_reason(make_index, photos):
    (photos / "bad.png").write_bytes(b"not a photo")
    (photos / "cut.png").write_bytes((photos / "000.png").read_bytes()[:200])
    (photos / "empty.png").write_bytes(b"")
    images = make_index()
    report = images.add(photos)
    assert counts(report) == (12, 0, 0, 3, 0)
    reasons = {Path(failure.path).name: failure.reason for failure in report.failed}
    assert set(reasons) == {"bad.png", "cut.png", "empty.png"}
    assert "not an image" in reasons["bad.png"] and "empty" in reasons["empty.png"]
    assert images.failures() == reasons
    assert len(images) == 12 and images.info()["failed"] == 3
    assert not {"bad.png", "cut.png", "empty.png"} & {
        hit.id for hit in images.query(photos / "000.png", k=100)
    }


def test_photos_that_failed_are_tried_again(make_index, model, photos):
    (photos / "bad.png").write_bytes(b"not a photo")
    images = make_index()
    images.add(photos)
    report = images.add(photos)
    assert counts(report) == (0, 0, 12, 1, 0)
    assert list(images.failures()) == ["bad.png"]
    dots(77).save(photos / "bad.png")
    assert counts(images.add(photos)) == (1, 0, 12, 0, 0)
    assert images.failures() == {} and len(images) == 13
    assert model.extracted == 13
    assert images.query(dots(77).pixels(), k=1)[0].id == "bad.png"


def test_a_photo_that_was_good_and_broke_keeps_what_is_stored(make_index, photos):
    images = make_index()
    images.add(photos)
    before = contents(images.path)
    (photos / "003.png").write_bytes(b"broken now")
    report = images.add(photos)
    assert counts(report) == (0, 0, 11, 1, 0)
    assert Path(report.failed[0].path).name == "003.png"
    assert contents(images.path) == before
    assert images.query(dots(3).pixels(), k=1)[0].id == "003.png"
    # It is tried again each time, until it is mended.
    assert counts(images.add(photos)) == (0, 0, 11, 1, 0)
    dots(3).save(photos / "003.png")
    report = images.add(photos)
    assert report.failed == [] and report.updated + report.unchanged == 12


def test_photos_whose_file_is_gone_are_reported_and_kept(make_index, photos):
    images = make_index()
    images.add(photos)
    (photos / "003.png").unlink()
    (photos / "004.png").unlink()
    report = images.add(photos)
    assert report.vanished == ["003.png", "004.png"] == images.vanished()
    assert len(images) == 12
    assert images.query(dots(3).pixels(), k=1)[0].id == "003.png"
    assert images.remove(images.vanished()) == 2
    assert images.add(photos).vanished == []


def test_only_photos_below_the_sources_count_as_vanished(make_index, tmp_path):
    for name in ("one", "two"):
        dots(1).save(tmp_path / name / f"{name}.png")
        dots(2).save(tmp_path / name / "stays.png")
    images = make_index()
    images.add(tmp_path / "one")
    images.add(tmp_path / "two", prefix="two/")
    (tmp_path / "one" / "one.png").unlink()
    assert images.add(tmp_path / "two", prefix="two/").vanished == []
    assert images.add(tmp_path / "one").vanished == ["one.png"]


def test_a_gallery_that_moved_keeps_its_features(make_index, model, photos, tmp_path):
    images = make_index()
    images.add(photos)
    row = row_of(images.path, "000.png").row
    photos.rename(tmp_path / "elsewhere")
    assert counts(images.add(tmp_path / "elsewhere")) == (0, 0, 12, 0, 0)
    assert model.extracted == 12
    moved = row_of(images.path, "000.png")
    assert (moved.row, moved.path) == (row, str(tmp_path / "elsewhere" / "000.png"))
    assert images.vanished() == []


def test_a_gallery_that_moved_and_changed_is_extracted_where_it_changed(
    make_index, model, photos, tmp_path
):
    images = make_index()
    images.add(photos)
    photos.rename(tmp_path / "elsewhere")
    dots(103).save(tmp_path / "elsewhere" / "003.png")
    assert counts(images.add(tmp_path / "elsewhere")) == (0, 1, 11, 0, 0)
    assert model.extracted == 13


def test_a_link_to_the_gallery_is_the_gallery(make_index, model, photos, tmp_path):
    images = make_index()
    images.add(photos)
    (tmp_path / "link").symlink_to(photos)
    assert counts(images.add(tmp_path / "link")) == (0, 0, 12, 0, 0)
    assert model.extracted == 12


def test_another_photo_of_the_same_id_is_refused_and_the_first_one_stays(
    make_index, model, photos, tmp_path
):
    images = make_index()
    images.add(photos)
    before = contents(images.path)
    dots(500).save(tmp_path / "others" / "000.png")
    dots(501).save(tmp_path / "others" / "new.png")
    report = images.add(tmp_path / "others")
    assert counts(report) == (1, 0, 0, 1, 0)
    assert report.failed[0].path == str(tmp_path / "others" / "000.png")
    assert "belongs to" in report.failed[0].reason and "--prefix" in report.failed[0].reason
    assert {name: contents(images.path)[name] for name in before} == before


def test_two_photos_of_one_id_in_one_go_are_a_conflict_too(make_index, tmp_path):
    for name in ("one", "two"):
        dots(len(name)).save(tmp_path / name / "same.png")
        dots(9).save(tmp_path / name / f"{name}.png")
    images = make_index()
    report = images.add([tmp_path / "one", tmp_path / "two"])
    assert counts(report) == (3, 0, 0, 1, 0)
    assert row_of(images.path, "same.png").path == str(tmp_path / "one" / "same.png")


def test_a_folder_and_a_folder_inside_it_are_counted_right(make_index, tmp_path):
    dots(1).save(tmp_path / "p" / "same.png")
    dots(2).save(tmp_path / "p" / "in" / "same.png")
    images = make_index()
    report = images.add([tmp_path / "p", tmp_path / "p" / "in"])
    # The second source gives p/in/same.png the id that p/same.png has; it is in already.
    assert len(images) == 2
    assert (report.added, len(report.failed)) == (2, 1)


def test_a_prefix_keeps_sources_apart(make_index, photos, tmp_path):
    images = make_index()
    images.add(photos)
    dots(500).save(tmp_path / "others" / "000.png")
    assert counts(images.add(tmp_path / "others", prefix="o/")) == (1, 0, 0, 0, 0)
    assert {"000.png", "o/000.png"} <= set(contents(images.path))
    assert counts(images.add(tmp_path / "others", prefix="o/")) == (0, 0, 1, 0, 0)


def test_labels_from_folders_and_their_prefix(make_index, tmp_path):
    dots(1).save(tmp_path / "p" / "tower" / "1.png")
    dots(2).save(tmp_path / "p" / "2.png")
    images = make_index()
    images.add(tmp_path / "p", labels="folders")
    images.add(tmp_path / "p", labels="folders", prefix="new-")
    result = {name: facts[1] for name, facts in contents(images.path).items()}
    assert result == {
        "tower/1.png": "tower",
        "2.png": None,
        "new-tower/1.png": "tower",
        "new-2.png": None,
    }


@pytest.fixture
def label_file(tmp_path):
    def write(*lines: str) -> str:
        path = tmp_path / "labels.csv"
        path.write_text("\n".join(("id,label,year", *lines)) + "\n")
        return str(path)

    return write


def test_labels_from_a_file_with_metadata(make_index, photos, label_file):
    images = make_index()
    report = images.add(photos, labels=label_file("000.png,tower,1889", "001.png,,", "x.png,y,z"))
    assert report.unknown_labels == ["x.png"]
    row = row_of(images.path, "000.png")
    assert (row.label, row.metadata) == ("tower", {"year": "1889"})
    assert row_of(images.path, "001.png").label is None
    hit = images.query(photos / "000.png", k=1)[0]
    assert (hit.label, hit.metadata) == ("tower", {"year": "1889"})


def test_other_labels_need_no_extraction(make_index, model, photos, label_file):
    images = make_index()
    images.add(photos, labels=label_file("000.png,tower,1889", "001.png,bridge,1900"))
    row = row_of(images.path, "000.png").row
    report = images.add(photos, labels=label_file("000.png,arch,1836"))
    assert counts(report) == (0, 0, 12, 0, 0) and model.extracted == 12
    changed = row_of(images.path, "000.png")
    assert (changed.label, changed.metadata, changed.row) == ("arch", {"year": "1836"}, row)
    # What the new file does not name keeps its label, as it does without a file.
    images.add(photos)
    assert row_of(images.path, "001.png").label == "bridge"
    assert images.query(photos / "000.png", k=1)[0].label == "arch"


def test_a_changed_photo_keeps_its_label(make_index, photos, label_file):
    images = make_index()
    images.add(photos, labels=label_file("000.png,tower,1889"))
    dots(100).save(photos / "000.png")
    assert images.add(photos).updated == 1
    row = row_of(images.path, "000.png")
    assert (row.label, row.metadata) == ("tower", {"year": "1889"})


def test_a_label_is_kept_for_a_photo_that_is_mended_later(make_index, photos, label_file):
    (photos / "bad.png").write_bytes(b"not a photo")
    images = make_index()
    images.add(photos, labels=label_file("bad.png,tower,1889"))
    dots(77).save(photos / "bad.png")
    images.add(photos)
    assert row_of(images.path, "bad.png").label == "tower"


def test_a_broken_label_file_stops_before_anything_is_done(make_index, model, photos, label_file):
    images = make_index()
    with pytest.raises(UsageError, match=r"labels\.csv, line 2"):
        images.add(photos, labels=label_file("000.png,tower"))
    assert len(images) == 0 and model.extracted == 0


@pytest.mark.parametrize("kind", ["list", "generator", "text", "path", "single photo"])
def test_sources_may_be_given_in_several_ways(make_index, photos, kind):
    images = make_index()
    given = {
        "list": [photos],
        "generator": (path for path in sorted(photos.iterdir())),
        "text": str(photos),
        "path": photos,
        "single photo": photos / "000.png",
    }[kind]
    report = images.add(given)
    assert report.added == (1 if kind == "single photo" else 12)
    assert row_of(images.path, "000.png").path == str(photos / "000.png")


def test_several_sources_are_one(make_index, photos, tmp_path):
    gallery(tmp_path / "more", 2, first=100)
    extra = dots(200).save(tmp_path / "extra.png")
    images = make_index()
    assert images.add([photos, tmp_path / "more", extra]).added == 15


def test_a_source_that_does_not_exist_stops_before_anything_is_done(make_index, model, photos):
    images = make_index()
    with pytest.raises(UsageError, match="nowhere: no such folder or file"):
        images.add([photos, photos / "nowhere"])
    assert len(images) == 0 and model.extracted == 0


def test_an_empty_folder_adds_nothing(make_index, tmp_path):
    (tmp_path / "empty").mkdir()
    images = make_index()
    assert counts(images.add(tmp_path / "empty")) == (0, 0, 0, 0, 0)
    assert images.check().problems == []


def test_sources_relative_to_the_working_folder_are_found_from_elsewhere(
    make_index, model, photos, tmp_path, monkeypatch
):
    images = make_index()
    monkeypatch.chdir(tmp_path)
    images.add("photos")
    monkeypatch.chdir("/")
    assert images.vanished() == []
    assert counts(images.add(photos)) == (0, 0, 12, 0, 0)
    assert model.extracted == 12


@pytest.mark.parametrize("segment_images", [1, 5, 12, 13, 100])
def test_batches_are_committed_as_they_fill(make_index, photos, segment_images):
    (photos / "bad.png").write_bytes(b"not a photo")
    images = make_index(store={"segment_images": segment_images})
    reports = []

    def watch(done: int, total: int, failed: int) -> None:
        store = Store(images.path)
        reports.append(
            (done, total, failed, store.catalog.count("ok") + store.catalog.count("failed"))
        )
        store.close()

    images.add(photos, progress=watch)
    assert [entry[:2] for entry in reports] == [(n, 13) for n in range(1, 14)]
    assert reports[-1][2] == 1
    # Each report comes before its own photo's batch is committed, and no later than the batch
    # after it.
    for done, _, _, committed in reports:
        full = (done - 1) // segment_images * segment_images
        assert committed in (full, max(0, full - segment_images))
    assert len(images) == 12


def test_a_slow_batch_is_committed_after_a_time(make_index, photos, model):
    model.pause = 0.02
    images = make_index(store={"segment_seconds": 0.05})
    images.add(photos)
    assert images.info()["segments"] > 1 and len(images) == 12


def test_a_photo_that_disappears_while_it_is_added_is_a_failure(make_index, photos):
    images = make_index(store={"segment_images": 1})

    def remove_one(done: int, total: int, failed: int) -> None:
        (photos / "011.png").unlink(missing_ok=True)

    report = images.add(photos, progress=remove_one)
    assert counts(report)[:4] == (11, 0, 0, 1)
    assert "no such file" in images.failures()["011.png"].lower()


def test_an_interruption_keeps_the_batches_that_were_committed(make_index, model, photos, reopen):
    images = make_index(store={"segment_images": 4})

    def interrupt(done: int, total: int, failed: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        images.add(photos, progress=interrupt)
    reopened = reopen(images.path)
    assert len(reopened) == 8
    assert counts(reopened.add(photos)) == (4, 0, 8, 0, 0)


def test_two_files_of_the_same_bytes_are_two_images(make_index, photos):
    shutil.copy(photos / "000.png", photos / "copy.png")
    images = make_index()
    assert images.add(photos).added == 13
    hits = images.query(photos / "000.png", k=2)
    assert [hit.id for hit in hits] == ["000.png", "copy.png"]
    np.testing.assert_allclose(hits[0].score, hits[1].score)


def test_a_photo_without_any_feature_is_an_image_like_others(make_index, tmp_path):
    dots(0, count=0).save(tmp_path / "p" / "blank.png")
    dots(1).save(tmp_path / "p" / "dots.png")
    images = make_index()
    assert images.add(tmp_path / "p").added == 2
    assert images.check().problems == []
    result = images.query(tmp_path / "p" / "blank.png")
    assert result[0].id == "blank.png" and result[0].inliers == 0
