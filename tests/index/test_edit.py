"""Removed images come back until a compaction; edits and removals are logged."""

from __future__ import annotations

import json
import sqlite3

import pytest
from dots import DotModel, contents, dots, gallery

from delg.errors import UsageError
from index import ImageIndex
from index.labels import GivenLabels, Label
from index.storage.catalog import CatalogError


@pytest.fixture
def images(make_index, tmp_path):
    gallery(tmp_path / "photos", 12)
    images = make_index()
    images.add(tmp_path / "photos", GivenLabels({"004.png": Label("four", {"room": "1"})}))
    return images


def reopened(images: ImageIndex, model: DotModel) -> ImageIndex:
    other = ImageIndex.open(images.path)
    other.use(model)
    return other


def test_a_removed_image_comes_back_as_it_was(images, model):
    before = contents(images.path)
    images.remove(["004.png", "005.png"])
    assert [image.id for image, _ in images.trash()] == ["005.png", "004.png"]
    assert "004.png" not in {hit.id for hit in images.query(dots(4).pixels())}
    again = reopened(images, model)
    assert again.restore(["004.png"]) == ["004.png"]
    assert again.query(dots(4).pixels())[0].id == "004.png" and len(again) == 11
    assert reopened(images, model).query(dots(4).pixels())[0].label == "four"
    again.restore(["005.png"])
    assert contents(images.path) == before and again.check().problems == []
    assert again.trash() == []


def test_compaction_removes_for_good(images):
    images.remove(["004.png"])
    images.compact()
    assert images.trash() == [] and images.check().problems == []
    with pytest.raises(UsageError, match="not in the trash"):
        images.restore(["004.png"])


def test_adding_photos_one_by_one_keeps_what_can_be_restored(images, tmp_path):
    images.remove(["004.png"])
    # Small segments are joined meanwhile.
    for number in range(40, 60):
        images.add(dots(number).save(tmp_path / "more" / f"{number}.png"))
    images.restore(["004.png"])
    assert images.query(dots(4).pixels())[0].id == "004.png"
    assert images.check().problems == []


def test_what_cannot_be_restored_is_named_and_nothing_is(images, tmp_path):
    images.remove(["004.png", "005.png"])
    images.add(tmp_path / "photos" / "005.png")
    for ids, said in (
        (["004.png", "nothing"], "nothing: not in the trash"),
        (["004.png", "005.png"], r"005\.png: another image"),
    ):
        with pytest.raises(UsageError, match=said):
            images.restore(ids)
    assert "004.png" not in images.ids()


def test_a_failed_photo_can_be_removed_and_restored(images, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no photo")
    images.add(tmp_path / "bad.png")
    images.remove(["bad.png"])
    assert images.failures() == {}
    images.restore(["bad.png"])
    assert list(images.failures()) == ["bad.png"]


def test_labels_and_metadata_are_edited_and_every_change_is_logged(images):
    images.edit(["004.png", "005.png"], "new", {"room": None, "artist": "V"})
    assert images.query(dots(4).pixels())[0].label == "new"
    row = images.image("004.png")
    assert (row.label, row.metadata) == ("new", {"artist": "V"})
    images.edit(["004.png"], label="")
    images.edit(["004.png"], label="", metadata={"artist": "V"})
    assert images.image("004.png").label is None
    images.remove(["004.png"])
    images.restore(["004.png"])
    log = images.changes()
    actions = [(change.action, change.id) for change in log]
    assert actions == [
        ("restore", "004.png"), ("remove", "004.png"), ("edit", "004.png"),
        ("edit", "005.png"), ("edit", "004.png"),
    ]  # fmt: skip
    assert log[-1].before == {"label": "four", "metadata": {"room": "1"}}
    assert log[-1].after == {"label": "new", "metadata": {"artist": "V"}} and log[-1].at
    with pytest.raises(UsageError, match="no image"):
        images.edit(["004.png", "nothing"], "x")
    assert images.changes(2, 1) == log[1:3] and images.changes(9, 4) == log[4:]
    assert images.last_changes(["004.png", "005.png", "006.png"]) == {
        "004.png": log[0],
        "005.png": log[3],
    }
    assert [row.id for row, _ in images.trash(1, 1)] == [] and images.count_trash() == 0
    # Of the log, undo reads the last change of the image, whatever else is in it.
    with sqlite3.connect(images.path / "catalog.sqlite") as db:
        db.execute("UPDATE changes SET before = 'damaged' WHERE number < 3")
    assert images.undo("004.png").action == "restore" and images.count_trash() == 1
    with pytest.raises(CatalogError, match="log of changes is damaged"):
        images.undo("005.png")


def test_a_kill_between_removal_and_shortlist_loses_nothing(images, model, monkeypatch):
    def killed(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("index.storage.store.Store.save_ann_index", killed)
    with pytest.raises(KeyboardInterrupt):
        images.remove(["004.png"])
    monkeypatch.undo()
    again = reopened(images, model)
    assert "004.png" not in {hit.id for hit in again.query(dots(4).pixels())}
    again.restore(["004.png"])
    assert again.query(dots(4).pixels())[0].id == "004.png"


def test_a_trash_from_a_stranger_is_checked(images):
    images.remove(["004.png"])
    with images._store.catalog.write() as db:
        db.execute("UPDATE trash SET image = ?", (json.dumps({"id": "004.png"}),))
    with pytest.raises(Exception, match="damaged"):
        images.restore(["004.png"])


def test_the_commands(images, run, tmp_path):
    index = ("--index", images.path)
    images.close()
    assert (
        run("index", "edit", "004.png", "--set", "room=7", "--label", "x", *index).returncode == 0
    )
    assert run("index", "remove", "004.png", *index).returncode == 0
    assert "004.png" in run("index", "trash", *index).stdout
    assert run("index", "restore", "004.png", *index).stdout == "1 image restored\n"
    assert "room=7" in run("index", "log", *index).stdout
    photo = tmp_path / "photos" / "005.png"
    assert run("index", "mark", photo, "004.png", "same", *index).returncode == 0
    assert "004.png" in run("index", "marks", *index).stdout
    words = ("--out", tmp_path / "truth.csv", "--queries", tmp_path / "photos")
    assert run("index", "marks", *index, *words).stdout.startswith("1 photo in ")
    assert (tmp_path / "truth.csv").read_text() == "query,relevant\n005.png,004.png\n"
    for wrong in (("edit", "004.png"), ("edit", "x", "--label", "y"), ("restore", "x"),
                  ("edit", "004.png", "--set", "room")):  # fmt: skip
        assert run("index", *wrong, *index).returncode == 2
