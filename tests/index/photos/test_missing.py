"""Photos that are gone, unreachable, moved, or called by another form of their name."""

import errno
import os
import shutil
import sqlite3
import unicodedata

import pytest
from closed import close
from dots import contents, dots, gallery

from delg.errors import UsageError
from delg.images.scan import Photo
from index.labels import GivenLabels, Label
from index.photos.missing import source_of
from index.storage.catalog_tables import ImageRow

E_ACUTE, E_TWO_SIGNS = "\u00e9", unicodedata.normalize("NFD", "\u00e9")


def test_the_source_of_a_photo_is_its_path_without_its_id():
    def source(image_id, path):
        return source_of(ImageRow(image_id, path, 0, 0, ""))

    assert source("a/b.jpg", "/disk/photos/a/b.jpg") == "/disk/photos"
    assert source("my/a/b.jpg", "/disk/photos/a/b.jpg") == "/disk/photos"
    assert source(E_ACUTE, f"/disk/{E_TWO_SIGNS}") == "/disk"
    assert source("free", "/disk/b.jpg") == "/disk"


def test_a_disk_that_is_not_mounted_does_not_empty_the_index(make_index, photos, tmp_path):
    images = make_index()
    gallery(tmp_path / "stays", 2, first=50)
    images.add(photos)
    images.add(tmp_path / "stays", prefix="stays/")
    (tmp_path / "stays" / "050.png").unlink()
    shutil.rmtree(photos)
    for mount_point in (False, True):
        if mount_point:
            photos.mkdir()
        with pytest.raises(UsageError, match=f"12 of 12 photos of {photos} are gone.*--force"):
            images.remove_vanished()
        assert len(images) == 14
    assert len(images.remove_vanished(dry_run=True)) == 13 and len(images) == 14
    report = images.add(photos)
    assert [(loss.gone, loss.photos) for loss in report.losses] == [(12, 12)]
    assert len(images.remove_vanished(force=True)) == 13 and len(images) == 1


def test_a_disk_of_few_of_the_photos_that_is_not_mounted_is_a_question_too(make_index, photos):
    images = make_index()
    gallery(photos / "disk" / "deep", 3, first=50)
    gallery(photos / "folder", 3, first=60)
    images.add(photos)
    shutil.rmtree(photos / "disk" / "deep")
    shutil.rmtree(photos / "folder")
    # The mount point is there and empty; a folder that was deleted is not there.
    with pytest.raises(UsageError, match=f"3 of 3 photos of {photos / 'disk'} are gone;? ?.*force"):
        images.remove_vanished()
    assert [loss.source for loss in images.add(photos).losses] == [str(photos / "disk")]
    (photos / "disk").rmdir()
    assert len(images.remove_vanished()) == 6


def test_most_photos_gone_is_a_question_and_fewer_are_not(make_index, photos):
    images = make_index()
    images.add(photos)
    for number in range(6):
        (photos / f"{number:03d}.png").unlink()
    assert len(images.remove_vanished()) == 6
    for number in range(6, 10):
        (photos / f"{number:03d}.png").unlink()
    with pytest.raises(UsageError, match="4 of 6"):
        images.remove_vanished()


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE])
def test_what_cannot_be_looked_at_has_not_vanished(make_index, tmp_path, monkeypatch, number):
    source = tmp_path / "photos"
    gallery(source, 3)
    gallery(source / "closed", 4, first=10)
    images = make_index()
    images.add(source)
    before = contents(images.path)
    with monkeypatch.context() as patch:
        close(patch, source / "closed", number)
        report = images.add(source)
        assert (report.unchanged, report.vanished) == (3, [])
        assert [failure.path for failure in report.failed] == [str(source / "closed")]
        assert list(report.unreachable) == [f"closed/{n:03d}.png" for n in range(10, 14)]
        assert images.remove_vanished(force=True) == []
    assert contents(images.path) == before
    assert images.add(source).unchanged == 7


def test_renamed_and_moved_photos_keep_rows_and_labels(make_index, model, photos):
    images = make_index()
    images.add(photos, GivenLabels({"003.png": Label("dog"), "004.png": Label("cat")}))
    rows = {name: images.image(name).row for name in ("003.png", "004.png")}
    (photos / "003.png").rename(photos / "rex.png")
    (photos / "pets").mkdir()
    (photos / "004.png").rename(photos / "pets" / "004.png")
    report = images.add(photos)
    assert report.moved == {"003.png": "rex.png", "004.png": "pets/004.png"}
    assert (report.added, report.unchanged, report.vanished) == (0, 10, [])
    assert model.extracted == 12 and len(images) == 12
    for former, present, label in (
        ("003.png", "rex.png", "dog"),
        ("004.png", "pets/004.png", "cat"),
    ):
        image = images.image(present)
        assert (image.row, image.label, image.path) == (
            rows[former],
            label,
            str(photos / present),
        )
        assert images.image(former) is None
    hits = [hit.id for hit in images.query(dots(3).pixels(), k=12) if hit.verified]
    assert hits == ["rex.png"]
    assert images.check().problems == []
    images.remove(["000.png"])
    images.compact()
    assert images.check().problems == [] and images.add(photos).added == 1


def test_renumbered_photos_take_their_labels_along(make_index, model, photos):
    images = make_index()
    images.add(photos, GivenLabels({f"{n:03d}.png": Label(str(n)) for n in range(12)}))
    for number in reversed(range(12)):
        (photos / f"{number:03d}.png").rename(photos / f"{number + 1:03d}.png")
    dots(99).save(photos / "000.png")
    report = images.add(photos)
    assert (report.added, len(report.moved), model.extracted) == (1, 12, 13)
    labels = {image_id: images.image(image_id).label for image_id in images.ids()}
    assert labels == {"000.png": None} | {f"{n + 1:03d}.png": str(n) for n in range(12)}
    assert images.check().problems == []


def test_a_photo_that_takes_the_place_of_another(make_index, model, photos):
    images = make_index()
    images.add(photos)
    (photos / "001.png").replace(photos / "002.png")
    report = images.add(photos)
    assert report.moved == {"001.png": "002.png"} and model.extracted == 12
    assert len(images) == 11 and images.check().problems == []
    assert images.query(dots(1).pixels(), k=1)[0].id == "002.png"
    assert not [hit for hit in images.query(dots(2).pixels()) if hit.verified]


def test_an_edited_photo_whose_original_was_kept_has_its_label_on_both(make_index, photos):
    images = make_index()
    images.add(photos, GivenLabels({"003.png": Label("dog")}))
    (photos / "003.png").rename(photos / "original.png")
    dots(103).save(photos / "003.png")
    images.add(photos)
    assert [images.image(name).label for name in ("003.png", "original.png")] == ["dog", "dog"]


def test_a_change_that_kept_size_and_time_is_noticed_on_request(make_index, photos):
    images = make_index()
    images.add(photos)
    path = photos / "003.png"
    stat = path.stat()
    other = bytearray(path.read_bytes())
    other[-1] ^= 1
    path.write_bytes(bytes(other))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert images.add(photos).unchanged == 12
    assert images.add(photos, reread=True).unchanged == 11


def test_an_index_is_told_where_its_photos_are_now(make_index, model, photos, tmp_path):
    images = make_index()
    images.add(photos)
    shutil.copytree(photos, tmp_path / "new" / "place")
    shutil.rmtree(photos)
    (tmp_path / "new" / "place" / "005.png").unlink()
    with pytest.raises(UsageError, match=f"they lay in {photos}"):
        images.relocate("/nowhere", tmp_path / "new")
    with pytest.raises(UsageError, match="no such folder"):
        images.relocate(photos, tmp_path / "absent")
    result = images.relocate(photos, tmp_path / "new" / "place")
    assert (result.moved, result.absent) == (12, ["005.png"]) and images.vanished() == ["005.png"]
    assert images.add(tmp_path / "new" / "place").unchanged == 11 and model.extracted == 12
    assert images.relocate(tmp_path / "new", "C:\\photos", force=True).moved == 12
    assert images.relocate("/", tmp_path, force=True).moved == 12


def test_one_name_in_two_unicode_forms_is_one_photo(make_index, model, tmp_path):
    source = tmp_path / "mac"
    dots(1).save(source / f"caf{E_TWO_SIGNS}" / f"{E_TWO_SIGNS}.png")
    composed, other = f"caf{E_ACUTE}/{E_ACUTE}.png", f"caf{E_TWO_SIGNS}/{E_TWO_SIGNS}.png"
    for labels in (GivenLabels({other: Label("x")}), GivenLabels({composed: Label("x")})):
        images = make_index(f"{len(list(tmp_path.iterdir()))}.index")
        report = images.add(source, labels)
        assert (report.added, report.unknown_labels) == (1, [])
        assert images.ids() == [composed] and images.image(other).label == "x"
    # The same folder, copied to a system that composes names.
    dots(1).save(tmp_path / "linux" / composed)
    assert images.add(tmp_path / "linux", prefix="").failed
    shutil.rmtree(source)
    report = images.add(tmp_path / "linux")
    assert (report.added, report.unchanged, report.vanished) == (0, 1, [])
    assert images.remove([other]) == 1 and len(images) == 0


def test_ids_of_older_indexes_are_composed_when_their_photos_are_added_again(
    make_index, reopen, tmp_path
):
    source = tmp_path / "mac"
    dots(1).save(source / f"{E_TWO_SIGNS}.png")
    images = make_index()
    images.add([Photo(f"{E_ACUTE}.png", source / f"{E_TWO_SIGNS}.png")])
    images.close()
    with sqlite3.connect(images.path / "catalog.sqlite") as db:
        db.execute("UPDATE images SET id = ?", (f"{E_TWO_SIGNS}.png",))
    db.close()
    with reopen(images.path) as reopened:
        assert reopened.image(f"{E_ACUTE}.png") is not None
        assert reopened.add(source).unchanged == 1
        assert reopened.ids() == [f"{E_ACUTE}.png"]
