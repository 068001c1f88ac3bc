import contextlib
import itertools
import json
import os
import random
import re
import shutil
import sqlite3
from pathlib import Path

import h5py
import pytest
from dots import contents, dots, gallery

from delg.errors import DelgError
from delg.files import file_sha256
from index import ImageIndex
from index.collection.columns import Filter
from index.storage.ann_index import FILE as SHORTLIST
from index.storage.catalog_state import FILE as CATALOG


@pytest.fixture
def undamaged(make_index, photos) -> Path:
    """A closed index of 12 photos in three segments."""
    with make_index(store={"segment_images": 4}) as images:
        images.add(photos)
    return images.path


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "segments").iterdir())


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x40
    path.write_bytes(data)


def execute(folder: Path, statement: str, *values: object) -> None:
    db = sqlite3.connect(folder / CATALOG)
    db.execute(statement, values)
    db.commit()
    db.close()


def record_checksum(folder: Path, number: int) -> None:
    """Take a changed segment for the right one."""
    path = folder / "segments" / f"{number:06d}.h5"
    execute(folder, "UPDATE segments SET sha256 = ? WHERE number = ?", file_sha256(path), number)


def damage(folder: Path) -> str:
    """All that opening and checking say is wrong."""
    try:
        with ImageIndex.open(folder) as images:
            return "\n".join(images.check().problems)
    except DelgError as error:
        return str(error)


def test_a_sound_index_has_no_problems_and_no_notes(undamaged):
    report = ImageIndex.open(undamaged).check()
    assert report.problems == [] and report.notes == []


def test_an_index_from_before_scales_counted_says_so(undamaged):
    before = "json_remove(value, '$.verification.scales')"
    execute(undamaged, f"UPDATE meta SET value = {before} WHERE key = 'settings'")
    with ImageIndex.open(undamaged) as images:
        report = images.check()
    assert report.problems == [] and len(report.notes) == 1
    assert report.notes[0].startswith("made before the scales of features counted")


def test_a_flipped_byte_in_a_segment_is_found(undamaged):
    path = segments(undamaged)[1]
    flip(path, path.stat().st_size - 9)
    assert damage(undamaged).startswith(f"{path}: its bytes are not those that were written")


def test_damaged_bytes_are_not_copied_and_building_extracts_their_photos_again(
    undamaged, reopen, photos
):
    before = contents(undamaged)
    path = segments(undamaged)[1]
    flip(path, path.stat().st_size - 9)
    with pytest.raises(DelgError, match=r"000002\.h5: its bytes are not those"):
        reopen(undamaged).compact()
    assert str(path) in damage(undamaged)
    report = reopen(undamaged).add(photos, verify_stored=True)
    assert (report.updated, report.unchanged) == (4, 8)
    assert damage(undamaged) == "" and contents(undamaged) == before


def test_a_segment_that_is_gone_is_found(undamaged):
    path = segments(undamaged)[1]
    with ImageIndex.open(undamaged) as images:
        path.unlink()
        problems = images.check().problems
    assert any(str(path) in problem for problem in problems)
    missing = [
        problem for problem in problems if problem.endswith("segment 2 is missing or damaged")
    ]
    assert len(missing) == 4
    assert f"{path}: the segment is missing" in damage(undamaged)


@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_an_unreadable_segment_costs_its_own_photos_only_and_adding_repairs_it(
    undamaged, reopen, photos, damage
):
    before = contents(undamaged)
    path = segments(undamaged)[1]
    data = path.read_bytes()
    inside = [f"{number:03d}.png" for number in range(4, 8)]
    others = sorted(set(before) - set(inside))
    path.unlink()
    if damage == "garbage":
        path.write_bytes(b"no segment" * 99)

    images = reopen(undamaged)
    [problem] = images.unreadable_segments()
    assert problem.startswith(str(path)) and "build again" in problem
    hits = images.query(photos / others[0], k=20)
    assert hits[0].id == others[0] and sorted(hit.id for hit in hits) == others
    with pytest.raises(DelgError, match=r"000002\.h5"):
        images.compact()

    # With the file back, all is as it was.
    path.write_bytes(data)
    images.refresh()
    assert images.unreadable_segments() == [] and images.check().problems == []
    assert images.query(photos / inside[0], k=1)[0].id == inside[0]

    path.unlink()
    images = reopen(undamaged)
    report = images.add(photos)
    assert (report.updated, report.unchanged) == (4, 8)
    assert images.unreadable_segments() == []
    report = reopen(undamaged).check()
    assert report.problems == report.notes == []
    assert contents(undamaged) == before


def test_a_truncated_segment_is_found(undamaged):
    path = segments(undamaged)[1]
    os.truncate(path, path.stat().st_size - 100)
    assert str(path) in damage(undamaged)


def test_a_segment_in_the_place_of_another_is_found(undamaged):
    first, second = segments(undamaged)[:2]
    shutil.copy(first, second)
    record_checksum(undamaged, 2)
    assert "004.png: its place in" in damage(undamaged)


def test_a_wrong_id_in_a_segment_is_found(undamaged):
    path = segments(undamaged)[1]
    execute(undamaged, "UPDATE images SET id = 'stranger.png' WHERE id = '005.png'")
    assert f"stranger.png: its place in {path} holds 005.png" in damage(undamaged)


def test_a_descriptor_that_is_not_of_unit_length_is_found(undamaged):
    path = segments(undamaged)[0]
    with h5py.File(path, "a") as file:
        file["global_descriptors"][2] = 0.5
    record_checksum(undamaged, 1)
    assert re.search(r"002\.png: its global descriptor has length 4, not 1", damage(undamaged))


def test_a_wrong_place_is_found(undamaged):
    execute(undamaged, "UPDATE images SET position = 9 WHERE id = '005.png'")
    assert "005.png: its place is outside" in damage(undamaged)


def test_a_wrong_count_is_found(undamaged):
    execute(undamaged, "UPDATE segments SET images = 5 WHERE number = 2")
    assert "holds 4 of 5 photos" in damage(undamaged)


def test_damage_to_any_page_of_the_catalog_is_found_and_is_a_clear_error(undamaged):
    data_before = (undamaged / CATALOG).read_bytes()
    for page in range(len(data_before) // 4096):
        data = bytearray(data_before)
        data[page * 4096 : (page + 1) * 4096] = b"\xa5" * 4096
        (undamaged / CATALOG).write_bytes(data)
        assert CATALOG in damage(undamaged), page


def test_a_damaged_catalog_is_a_clear_error_for_all_else_too(undamaged, reopen):
    data_before = (undamaged / CATALOG).read_bytes()
    for page in range(len(data_before) // 4096):
        data = bytearray(data_before)
        data[page * 4096 : (page + 1) * 4096] = b"\xa5" * 4096
        (undamaged / CATALOG).write_bytes(data)
        for use in (
            lambda images: images.query(dots(3).pixels()),
            lambda images: images.info(),
            lambda images: images.remove(["003.png"]),
            lambda images: images.failures(),
        ):
            try:
                with reopen(undamaged) as images:
                    use(images)
            except DelgError as error:
                assert CATALOG in str(error)
        # The log of a catalog that was thrown away says nothing of the one put in its place.
        for log in undamaged.glob(f"{CATALOG}-*"):
            log.unlink()
        (undamaged / CATALOG).write_bytes(data_before)


def test_bits_that_flip_in_the_catalog_never_end_in_another_error(undamaged):
    data_before = (undamaged / CATALOG).read_bytes()
    chance = random.Random(0)
    for _ in range(60):
        data = bytearray(data_before)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (undamaged / CATALOG).write_bytes(data)
        damage(undamaged)


def test_settings_of_a_newer_version_are_a_clear_error(undamaged):
    execute(undamaged, """UPDATE meta SET value = '{"novelty": {}}' WHERE key = 'settings'""")
    with pytest.raises(DelgError, match=r"my\.index.*novelty"):
        ImageIndex.open(undamaged)


@pytest.mark.parametrize("kind", ["missing", "empty", "garbage", "cut"])
def test_a_missing_shortlist_is_built_anew(undamaged, reopen, kind):
    path = undamaged / SHORTLIST
    data = path.read_bytes()
    path.unlink()
    if kind != "missing":
        path.write_bytes({"empty": b"", "garbage": b"x" * 999, "cut": data[:-30]}[kind])
    with reopen(undamaged) as images:
        assert images.query(dots(3).pixels(), k=1)[0].id == "003.png"
        report = images.check()
        assert report.problems == []
        assert report.notes == [
            "the stored shortlist is behind; the next add or compact writes it anew"
        ]
        images.compact()
    with reopen(undamaged) as images:
        assert images.check().problems == images.check().notes == []
        assert images.query(dots(3).pixels(), k=1)[0].id == "003.png"


def test_a_missing_shortlist_is_written_anew_by_the_next_add(undamaged, reopen, photos):
    (undamaged / SHORTLIST).unlink()
    with reopen(undamaged) as images:
        images.add(photos)
    with reopen(undamaged) as images:
        assert images.check().notes == []


def test_a_shortlist_of_an_earlier_state_is_brought_up_to_date(undamaged, reopen, photos):
    old = (undamaged / SHORTLIST).read_bytes()
    with reopen(undamaged) as images:
        gallery(photos, 2, first=50)
        dots(103).save(photos / "003.png")
        images.add(photos)
        images.remove(["000.png"])
    (undamaged / SHORTLIST).write_bytes(old)
    with reopen(undamaged) as images:
        assert images.check().problems == []
        ids = {hit.id for hit in images.query(dots(50).pixels(), k=50)}
        assert len(ids) == 13 and "050.png" in ids and "000.png" not in ids
        assert images.query(dots(103).pixels(), k=1)[0].id == "003.png"


def test_a_shortlist_of_a_later_state_is_brought_down_to_it(undamaged, reopen, photos, tmp_path):
    before = tmp_path / "before"
    shutil.copytree(undamaged, before)
    with reopen(undamaged) as images:
        gallery(photos, 2, first=50)
        images.add(photos)
    shutil.copy(undamaged / SHORTLIST, before / SHORTLIST)
    with reopen(before) as images:
        assert images.check().problems == []
        assert len(images.query(dots(50).pixels(), k=50)) == 12


def test_a_damaged_byte_in_the_shortlist_is_found_or_does_no_harm(undamaged, reopen):
    path = undamaged / SHORTLIST
    data_before = path.read_bytes()
    query = dots(3).pixels()

    def hits(images: ImageIndex) -> dict[str, float]:
        return {hit.id: pytest.approx(hit.score, abs=0.01) for hit in images.query(query, k=12)}

    with reopen(undamaged) as images:
        right = hits(images)
    places = [*range(0, 100, 5), *range(103, len(data_before) - 120, 160)]
    for place in [*places, *range(len(data_before) - 116, len(data_before), 8)]:
        flip(path, place)
        with reopen(undamaged) as images:
            report = images.check()
            try:
                now = hits(images)
            except DelgError:
                now = {}
            assert now == right or report.problems, place
        path.write_bytes(data_before)


def test_compacting_mends_a_shortlist_with_damaged_descriptors(undamaged, reopen):
    with reopen(undamaged) as images:
        right = [hit.as_json() for hit in images.query(dots(3).pixels(), k=12)]
    flip(undamaged / SHORTLIST, (undamaged / SHORTLIST).stat().st_size // 2)
    with reopen(undamaged) as images:
        images.compact()
    with reopen(undamaged) as images:
        assert [hit.as_json() for hit in images.query(dots(3).pixels(), k=12)] == right
        assert images.check().problems == images.check().notes == []


def test_compacting_frees_the_space_of_what_was_removed(make_index, photos, reopen):
    images = make_index(store={"segment_images": 4})
    images.add(photos)
    before = sum(path.stat().st_size for path in segments(images.path))
    images.remove([f"{number:03d}.png" for number in range(0, 12, 2)])
    remaining = contents(images.path)
    freed = images.compact()
    after = sum(path.stat().st_size for path in segments(images.path))
    assert freed == before - after > 0
    info = images.info()
    assert (info["images"], info["segments"], info["dead"]) == (6, 2, 0)
    assert contents(images.path) == remaining
    assert images.check().problems == []
    assert reopen(images.path).check().notes == []
    assert images.compact() == 0


@pytest.mark.parametrize("codec", ["int8", "float16", "float32"])
def test_compacting_again_and_again_changes_no_feature(make_index, photos, codec):
    images = make_index(store={"segment_images": 5, "local_codec": codec})
    images.add(photos)
    first = contents(images.path)
    query = dots(7).moved([[0.8, -0.2, 30], [0.2, 0.8, 5]], (190, 140)).pixels()
    hits = [hit.as_json() for hit in images.query(query, k=12)]
    for number in range(4):
        images.remove([f"{number:03d}.png"])
        del first[f"{number:03d}.png"]
        images.compact()
    assert contents(images.path) == first
    orphan = [hit.as_json() for hit in images.query(query, k=12)]
    assert [feature | {"rank": 0} for feature in orphan] == [
        feature | {"rank": 0} for feature in hits if feature["id"] in first
    ]


def test_compacting_merges_small_segments(make_index, photos):
    images = make_index(store={"segment_images": 5})
    for path in sorted(photos.iterdir()):
        images.add(path)
    assert images.info()["segments"] == 8  # Some are joined already.
    before = contents(images.path)
    images.compact()
    assert images.info()["segments"] == 3 == len(segments(images.path))
    assert contents(images.path) == before
    assert images.query(dots(3).pixels(), k=1)[0].id == "003.png"


def test_compacting_a_tidy_index_writes_no_segment(undamaged, reopen):
    before = {path: path.stat().st_mtime_ns for path in segments(undamaged)}
    with reopen(undamaged) as images:
        assert images.compact() == 0
    assert {path: path.stat().st_mtime_ns for path in segments(undamaged)} == before


def test_compacting_what_is_empty_leaves_nothing(make_index, photos):
    images = make_index()
    images.add(photos)
    images.remove([f"{number:03d}.png" for number in range(12)])
    assert images.compact() > 0
    assert segments(images.path) == [] and images.info()["segments"] == 0
    assert images.check().problems == []
    images.add(photos)
    assert images.query(dots(3).pixels(), k=1)[0].id == "003.png"


def test_replaced_photos_are_dead_weight_until_compacted(make_index, photos):
    images = make_index()
    images.add(photos)
    dots(103).save(photos / "003.png")
    images.add(photos)
    assert images.info()["dead"] == 1
    assert images.compact() > 0
    assert images.info()["dead"] == 0
    assert images.query(dots(103).pixels(), k=1)[0].id == "003.png"


def test_files_that_a_killed_writer_left_are_noted_and_swept(undamaged, reopen, photos):
    orphan = [undamaged / "segments" / name for name in ("000004.h5", "000009.h5", "000005.h5.tmp")]
    for path in orphan:
        path.write_bytes(b"half a segment")
    with reopen(undamaged) as images:
        notes = images.check().notes
        assert [note for note in notes if note.endswith("left behind by a killed writer")] == [
            f"{path}: left behind by a killed writer" for path in sorted(orphan)
        ]
        assert images.check().problems == []
        gallery(photos, 1, first=50)
        images.add(photos)
        assert images.check().notes == [] and images.check().problems == []
    assert not orphan[1].exists() and not orphan[2].exists()


ODD = (-1, 1 << 62, 1e308, b"\xff\x00", "", "[1]", "null", "[" * 5000, "/dev/zero", "\x00")


def test_odd_values_in_the_catalog_never_end_in_another_error(undamaged, model, tmp_path):
    db = sqlite3.connect(undamaged / CATALOG)
    columns = {
        table: [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        for table in ("segments", "images")
    }
    keys = [row[0] for row in db.execute("SELECT key FROM meta")]
    db.close()
    places = [("meta", "value", f"key = '{key}'") for key in keys]
    places += [(table, column, "rowid = 2") for table in columns for column in columns[table]]
    data = (undamaged / CATALOG).read_bytes()
    query = model.extract(dots(3).pixels())
    for (table, column, where), value in itertools.product(places, ODD):
        (undamaged / CATALOG).write_bytes(data)
        with contextlib.suppress(sqlite3.Error):
            execute(undamaged, f"UPDATE OR IGNORE {table} SET {column} = ? WHERE {where}", value)
        with contextlib.suppress(DelgError), ImageIndex.open(undamaged) as images:
            for use in (
                lambda images: json.dumps(images.info()),
                lambda images: images.query_features(query, k=20),
                lambda images: images.browse(Filter("ok"), 50),
                lambda images: (images.failures(), images.vanished(), images.counts()),
                lambda images: [images.features(image_id) for image_id in images.ids()],
                lambda images: images.check(),
            ):
                with contextlib.suppress(DelgError):
                    use(images)
        for log in undamaged.glob(f"{CATALOG}-*"):
            log.unlink()
