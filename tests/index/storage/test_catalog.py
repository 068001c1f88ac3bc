import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from delg.errors import UsageError
from index.storage.catalog import Catalog
from index.storage.catalog_rows import CatalogError, UnknownRowError
from index.storage.catalog_state import FILE
from index.storage.catalog_tables import (
    ImageRow,
    SegmentRow,
    delete_images,
    insert_segment,
    put_images,
)

SEGMENT = SegmentRow(1, 3, 1000, "ab")


def image(name: str, position: int = 0, **changes: object) -> ImageRow:
    values = {"id": name, "path": f"/photos/{name}", "size": 10, "mtime_ns": 5, "sha256": name}
    return ImageRow(**{**values, "segment": 1, "position": position, **changes})


@pytest.fixture
def folder(tmp_path) -> Path:
    """A catalog of three photos and one that failed."""
    Catalog.create(tmp_path, {"settings": "{}"})
    catalog = Catalog(tmp_path)
    with catalog.write() as db:
        insert_segment(db, SEGMENT)
        put_images(db, [image(name, place) for place, name in enumerate("abc")])
        broken = image("x", state="failed", reason="truncated", segment=None, position=None)
        put_images(db, [broken])
    catalog.close()
    return tmp_path


@pytest.fixture
def catalog(folder):
    catalog = Catalog(folder)
    yield catalog
    catalog.close()


def put(catalog: Catalog, *images: ImageRow) -> None:
    with catalog.write() as db:
        put_images(db, images)


def test_a_new_catalog_knows_its_facts_and_nothing_else(tmp_path):
    Catalog.create(tmp_path, {"settings": "{}", "model": "m"})
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    catalog = Catalog(tmp_path)
    assert catalog.meta("model") == "m" and catalog.meta("nothing") == ""
    assert catalog.generation == 0
    assert list(catalog.images()) == [] and catalog.segments() == []
    assert catalog.searchable().shape == (0, 3)
    assert catalog.next_segment() == 1


def test_everything_about_an_image_comes_back(catalog):
    full = image(
        "д/é.jpg", 7, width=640, height=480, label="塔", metadata={"year": "1872", "note": 'a"b'}
    )
    put(catalog, full)
    back = catalog.by_id("д/é.jpg")
    assert back == ImageRow(**{**vars(full), "row": back.row})
    assert catalog.by_row(back.row) == back
    assert back in list(catalog.images())


def test_a_failed_image_keeps_its_reason_and_is_not_searchable(catalog):
    assert catalog.by_id("x").reason == "truncated"
    assert [row.id for row in catalog.images("failed")] == ["x"]
    assert (catalog.count("ok"), catalog.count("failed")) == (3, 1)
    assert catalog.searchable().tolist() == [[1, 1, 0], [2, 1, 1], [3, 1, 2]]


def test_rows_are_looked_up_in_the_order_asked_for_near_and_far(catalog):
    names = [f"{n:04d}" for n in range(40)]
    with catalog.write() as db:
        insert_segment(db, SegmentRow(2, 40, 1000, "cd"))
        put_images(db, [image(name, n, segment=2) for n, name in enumerate(names)])
    rows = np.array([catalog.by_id(name).row for name in names])
    for chosen in (rows[[7, 3, 5]], rows[[39, 0]], rows[::-1], rows[:0]):
        assert catalog.ids(chosen) == [names[row - rows[0]] for row in chosen]
        assert catalog.places(chosen).tolist() == [[2, row - rows[0]] for row in chosen]
    assert catalog.place(int(rows[5])) == (2, 5)
    for ask in (lambda: catalog.place(7000), lambda: catalog.ids(np.array([1, 7000]))):
        with pytest.raises(UnknownRowError, match=r"no image row 7000; .*global\.faiss"):
            ask()


def test_unknown_images_are_none_or_an_error(catalog):
    assert catalog.by_id("nobody") is None
    with pytest.raises(UnknownRowError):
        catalog.by_row(99)


def test_images_come_by_id_and_segments_oldest_first(catalog):
    with catalog.write() as db:
        insert_segment(db, SegmentRow(2, 1, 5, "cd"))
    put(catalog, image("A", 0, segment=2))
    assert [row.id for row in catalog.images()] == ["A", "a", "b", "c", "x"]
    assert [row.number for row in catalog.segments()] == [1, 2]
    assert catalog.segments()[0] == SEGMENT


def test_replacing_gives_a_new_row_number_and_numbers_are_never_used_again(catalog):
    put(catalog, image("c", 2, sha256="new"))
    replaced = catalog.by_id("c")
    assert replaced.sha256 == "new" and replaced.row == 5
    with catalog.write() as db:
        delete_images(db, ["c"])
    put(catalog, image("d", 2))
    assert catalog.by_id("d").row == 6
    assert catalog.by_id("c") is None


def test_segment_numbers_are_never_used_again(catalog):
    assert catalog.next_segment() == 2
    with catalog.write() as db:
        delete_images(db, "abc")
        db.execute("DELETE FROM segments")
    assert catalog.next_segment() == 2


def test_the_generation_counts_changes_of_what_can_be_searched(catalog):
    before = catalog.generation
    put(catalog, image("d", 3))
    assert catalog.generation == before + 1
    with catalog.write() as db:
        delete_images(db, ["d", "a"])
    assert catalog.generation == before + 2
    catalog.set_meta("settings", "[]")
    assert catalog.meta("settings") == "[]"
    assert catalog.generation == before + 2


def test_a_transaction_that_fails_changes_nothing(catalog):
    before = catalog.generation
    with pytest.raises(RuntimeError, match="half way"), catalog.write() as db:
        put_images(db, [image("d", 3)])
        raise RuntimeError("half way")
    assert catalog.by_id("d") is None and catalog.generation == before
    put(catalog, image("d", 3))
    assert catalog.by_id("d") is not None


def test_an_image_without_features_cannot_pass_for_one_with(catalog):
    nonsense = image("d", segment=None, position=None), image("d", 3, segment=9), image("d", 2)
    for row in nonsense:
        with pytest.raises((sqlite3.IntegrityError, CatalogError), match="constraint failed"):
            put(catalog, row)
    assert catalog.by_id("d") is None


def test_a_reader_sees_one_state_until_it_moves_on(folder, catalog):
    other = Catalog(folder)
    put(other, image("d", 3))
    with other.write() as db:
        delete_images(db, ["a"])
    assert [row.id for row in catalog.images("ok")] == ["a", "b", "c"]
    assert catalog.count("ok") == 3 and catalog.generation == other.generation - 2
    assert catalog.searchable()[:, 0].tolist() == [1, 2, 3]
    catalog.refresh()
    assert [row.id for row in catalog.images("ok")] == ["b", "c", "d"]
    assert catalog.generation == other.generation
    other.close()


def test_a_reader_does_not_see_a_transaction_that_is_under_way(folder, catalog):
    other = Catalog(folder)
    with other.write() as db:
        put_images(db, [image("d", 3)])
        catalog.refresh()
        assert catalog.by_id("d") is None
    assert catalog.by_id("d") is None
    catalog.refresh()
    assert catalog.by_id("d") is not None
    other.close()


def test_a_writer_sees_its_own_changes_at_once(catalog):
    put(catalog, image("d", 3))
    assert catalog.by_id("d").row == 5


def test_what_was_not_moved_to_the_main_file_is_read_after_a_kill(
    folder, tmp_path_factory, catalog
):
    put(catalog, image("d", 3))
    # What lies on disk while a writer has it open is what a kill leaves.
    copy = tmp_path_factory.mktemp("left") / "index"
    shutil.copytree(folder, copy)
    assert Catalog(copy).by_id("d") is not None


def test_a_missing_catalog_is_named(tmp_path):
    with pytest.raises(CatalogError, match=rf"{tmp_path}: no index there.*{FILE}"):
        Catalog(tmp_path)
    with pytest.raises(CatalogError, match="no index there"):
        Catalog(tmp_path / "nowhere")


def test_another_format_is_named(folder):
    db = sqlite3.connect(folder / FILE)
    db.execute("UPDATE meta SET value = '99' WHERE key = 'format'")
    db.commit()
    db.close()
    with pytest.raises(CatalogError, match=r"catalog\.sqlite: format 99, this version reads 1"):
        Catalog(folder)


@pytest.mark.parametrize("data", [b"", b"this is no database\n" * 500, b"SQLite format 3\0"])
def test_what_is_not_a_database_is_named(tmp_path, data):
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(CatalogError, match=str(tmp_path / FILE)):
        Catalog(tmp_path)


def test_a_database_of_something_else_is_named(tmp_path):
    sqlite3.connect(tmp_path / FILE).executescript("CREATE TABLE recipes (name TEXT)")
    with pytest.raises(CatalogError, match=str(tmp_path / FILE)):
        Catalog(tmp_path)


def test_a_folder_in_its_place_is_named(tmp_path):
    (tmp_path / FILE).mkdir()
    with pytest.raises(CatalogError, match=str(tmp_path / FILE)):
        Catalog(tmp_path)


def test_integrity_is_ok_or_says_what_is_damaged(folder):
    catalog = Catalog(folder)
    assert catalog.integrity() == "ok"
    catalog.close()
    data = bytearray((folder / FILE).read_bytes())
    data[-4096:] = b"\xff" * 4096
    (folder / FILE).write_bytes(data)
    assert Catalog(folder).integrity() != "ok"


@pytest.fixture
def read_only(monkeypatch):
    """No folder can be written to; only said to be so, as root may write anywhere."""
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and allowed(path, mode))


def test_a_folder_that_cannot_be_written_to_is_readable_and_left_as_it_is(folder, read_only):
    catalog = Catalog(folder)
    assert [row.id for row in catalog.images("ok")] == ["a", "b", "c"]
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_a_read_only_copy_of_what_a_kill_left_has_all_that_was_committed(
    folder, tmp_path_factory, catalog, read_only
):
    put(catalog, image("d", 3))
    copy = tmp_path_factory.mktemp("left") / "index"
    shutil.copytree(folder, copy)
    assert Catalog(copy).by_id("d") is not None


def test_metadata_is_plain_json_for_other_tools(folder, catalog):
    put(catalog, image("d", 3, metadata={"artist": "Đặng"}))
    text = (
        sqlite3.connect(folder / FILE)
        .execute("SELECT metadata FROM images WHERE id = 'd'")
        .fetchone()[0]
    )
    assert "Đặng" in text and json.loads(text) == {"artist": "Đặng"}


def test_what_sqlite_cannot_take_is_wrong_use_and_no_damage(folder):
    catalog = Catalog(folder)
    with pytest.raises(UsageError, match=r"'caf\\udce9' is not text in UTF-8"):
        catalog.by_id("caf\udce9")
    with pytest.raises(UsageError, match="too large"):
        catalog.place(1 << 70)
    catalog.close()
    with pytest.raises(CatalogError, match="closed"):
        catalog.ids(np.array([1]))


def test_a_catalog_that_is_closed_under_its_readers_is_an_error_and_no_crash(folder):
    """A search that ran out of time leaves threads behind; their index may be closed."""
    program = """
import sys, threading
from pathlib import Path
from index.storage.catalog import Catalog
from index.storage.catalog_rows import CatalogError

places, errors = [], []

def read(catalog):
    while True:
        try:
            places.append(catalog.place(2))
        except CatalogError as error:
            errors.append(str(error))
            return

for _ in range(60):
    catalog, before = Catalog(Path(sys.argv[1])), len(places)
    readers = [threading.Thread(target=read, args=(catalog,)) for _ in range(3)]
    for reader in readers:
        reader.start()
    while len(places) < before + 30:
        pass
    catalog.close()
    for reader in readers:
        reader.join()
assert set(places) == {(1, 1)}, set(places)
assert len(errors) == 180 and all("closed" in error for error in errors), errors[:3]
"""
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True, timeout=120)
