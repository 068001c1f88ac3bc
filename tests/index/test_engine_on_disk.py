"""The index as a whole, with a model that costs nothing: what is stored, and what survives."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fake_model import FakeExtractor, make_photos

from delg.errors import DelgError, ModelError, UsageError
from delg.images.decode import decode
from index import ImageIndex, IndexSettings
from index.storage.catalog import CatalogError
from index.storage.lock import BusyError
from index.storage.segments import segment_path

SMALL = IndexSettings.model_validate({"store": {"segment_images": 4}})


def fresh(folder: Path, settings: IndexSettings = SMALL) -> ImageIndex:
    images = ImageIndex.create(folder, settings=settings)
    images.use(FakeExtractor())
    return images


def reopened(folder: Path) -> ImageIndex:
    images = ImageIndex.open(folder)
    images.use(FakeExtractor())
    return images


def contents(images: ImageIndex) -> dict[str, bytes]:
    """Id -> global descriptor of everything that can be searched."""
    store = images._store
    return {
        row.id: store.features(row).global_descriptor.tobytes()
        for row in store.catalog.images("ok")
    }


def first(images: ImageIndex, photo: Path) -> str:
    return images.query(photo, k=1, orientations="1")[0].id


def test_every_photo_finds_itself_and_nothing_is_extracted_twice(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 11)
    images = fresh(tmp_path / "i")
    report = images.add(tmp_path / "photos")
    assert (report.added, report.updated, report.unchanged) == (11, 0, 0)
    for photo in sorted((tmp_path / "photos").iterdir()):
        assert first(images, photo) == photo.name
    again = reopened(tmp_path / "i")
    report = again.add(tmp_path / "photos")
    assert (report.added, report.unchanged, again.extractor.extracted) == (0, 11, 0)
    assert again.check().problems == []


def test_touched_photos_stay_and_changed_ones_are_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    make_photos(folder, 6)
    images = fresh(tmp_path / "i")
    images.add(folder)
    before = {row.id: row.row for row in images._store.catalog.images()}
    os.utime(folder / "000.png", (1, 1))
    make_photos(tmp_path / "other", 1, start=99)
    shutil.copy(tmp_path / "other" / "099.png", folder / "001.png")
    images.extractor.extracted = 0
    report = images.add(folder)
    assert (report.updated, report.unchanged, images.extractor.extracted) == (1, 5, 1)
    after = {row.id: row.row for row in images._store.catalog.images()}
    assert after["001.png"] > max(before.values())
    assert {k: v for k, v in after.items() if k != "001.png"} == {
        k: v for k, v in before.items() if k != "001.png"
    }
    assert first(images, folder / "001.png") == "001.png"
    assert images.check().problems == []


def test_broken_photos_are_rows_with_a_reason_and_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    make_photos(folder, 3)
    good = (folder / "001.png").read_bytes()
    (folder / "001.png").write_bytes(good[:60])
    (folder / "empty.jpg").write_bytes(b"")
    images = fresh(tmp_path / "i")
    report = images.add(folder)
    assert (report.added, len(report.failed)) == (2, 2)
    assert "empty" in images.failures()["empty.jpg"]
    (folder / "001.png").write_bytes(good)
    report = images.add(folder)
    assert (report.added, len(report.failed)) == (1, 1)
    assert len(images) == 3 and images.check().problems == []


def test_a_photo_that_breaks_later_keeps_what_is_stored(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    make_photos(folder, 3)
    images = fresh(tmp_path / "i")
    images.add(folder)
    stored = contents(images)
    (folder / "001.png").write_bytes(b"no longer a photo")
    report = images.add(folder)
    assert [Path(one.path).name for one in report.failed] == ["001.png"]
    assert contents(images) == stored


def test_vanished_moved_and_conflicting_photos(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    make_photos(folder, 5)
    images = fresh(tmp_path / "i")
    images.add(folder)
    (folder / "004.png").unlink()
    assert images.add(folder).vanished == ["004.png"]
    assert images.vanished() == ["004.png"]
    moved = tmp_path / "moved"
    folder.rename(moved)
    images.extractor.extracted = 0
    report = images.add(moved)
    assert (report.unchanged, images.extractor.extracted) == (4, 0)
    assert images.query(moved / "000.png", orientations="1")[0].path == str(moved / "000.png")
    make_photos(tmp_path / "rival", 1)
    make_photos(tmp_path / "rival", 1, start=50)
    (tmp_path / "rival" / "050.png").rename(tmp_path / "rival" / "001.png")
    report = images.add(tmp_path / "rival")
    assert len(report.failed) == 2 and "--prefix" in report.failed[0].reason
    assert images.add(tmp_path / "rival", prefix="rival/").added == 2
    assert first(images, tmp_path / "rival" / "001.png") == "rival/001.png"


def test_labels_from_folders_and_from_a_file(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos" / "church", 2)
    make_photos(tmp_path / "photos" / "bridge", 2, start=2)
    images = fresh(tmp_path / "i")
    images.add(tmp_path / "photos", labels="folders")
    photo = tmp_path / "photos" / "bridge" / "002.png"
    assert images.query(photo, orientations="1")[0].label == "bridge"
    table = tmp_path / "labels.csv"
    table.write_text("id,label,city\nbridge/002.png,Pont Neuf,Paris\nnowhere.png,x,y\n")
    images.extractor.extracted = 0
    report = images.add(tmp_path / "photos", labels=str(table))
    assert report.unknown_labels == ["nowhere.png"] and images.extractor.extracted == 0
    hit = images.query(photo, orientations="1")[0]
    assert (hit.label, hit.metadata) == ("Pont Neuf", {"city": "Paris"})
    other = images.query(tmp_path / "photos" / "church" / "000.png", orientations="1")[0]
    assert other.label == "church"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,name\na,b\n", "label"),
        ("id,label\na,b,c\n", "line 2"),
        ("id,label\na,b\na,c\n", "line 3"),
        ("id,label\na\n", "line 2"),
    ],
)
def test_broken_label_files_name_the_line(tmp_path: Path, text: str, says: str) -> None:
    make_photos(tmp_path / "photos", 1)
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=says):
        fresh(tmp_path / "i").add(tmp_path / "photos", labels=str(tmp_path / "labels.csv"))


def test_add_query_remove_query_compact_query(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    make_photos(folder, 10)
    images = fresh(tmp_path / "i")
    images.add(folder)
    assert first(images, folder / "003.png") == "003.png"
    assert images.remove(["003.png", "007.png"]) == 2
    assert first(images, folder / "003.png") != "003.png"
    kept = contents(images)
    size = images.info()["bytes"]
    assert images.info()["dead"] == 2
    images.compact()
    assert images.info()["dead"] == 0 and images.info()["bytes"] < size
    assert contents(images) == kept
    assert images.info()["segments"] == 2
    assert first(images, folder / "004.png") == "004.png"
    assert reopened(tmp_path / "i").check().problems == []
    with pytest.raises(UsageError, match=r"nothing\.png"):
        images.remove(["000.png", "nothing.png"])
    assert len(images) == 8


def test_compact_merges_short_segments_and_keeps_local_features(tmp_path: Path) -> None:
    images = fresh(tmp_path / "i")
    for number in range(5):
        make_photos(tmp_path / "photos", 1, start=number)
        images.add(tmp_path / "photos")
    store = images._store
    before = {r.id: store.features(r).local.descriptors for r in store.catalog.images()}
    assert images.info()["segments"] == 5
    images.compact()
    assert images.info()["segments"] == 2
    for row in store.catalog.images():
        np.testing.assert_array_equal(store.features(row).local.descriptors, before[row.id])
    assert len(list((tmp_path / "i" / "segments").iterdir())) == 2


@pytest.mark.parametrize("kind", ["flat", "fp16", "sq8", "ivf", "rabitq"])
def test_the_shortlist_can_be_changed_without_extracting(tmp_path: Path, kind: str) -> None:
    make_photos(tmp_path / "photos", 120)
    settings = IndexSettings.model_validate({"store": {"segment_images": 64}})
    images = fresh(tmp_path / "i", settings)
    images.add(tmp_path / "photos")
    images.extractor.extracted = 0
    images.configure({"shortlist": {"kind": kind}}, record=True)
    again = reopened(tmp_path / "i")
    assert again.info()["shortlist"] == kind and again._store.ann_index_current
    for photo in sorted((tmp_path / "photos").iterdir())[::10]:
        assert first(again, photo) == photo.name
    make_photos(tmp_path / "photos", 1, start=500)
    again.add(tmp_path / "photos")
    again.remove(["000.png"])
    assert first(again, tmp_path / "photos" / "500.png") == "500.png"
    assert first(again, tmp_path / "photos" / "000.png") != "000.png"
    assert sorted(again._store.ann_index.rows()) == sorted(again._store.catalog.searchable()[:, 0])
    assert images.extractor.extracted == 0


def test_auto_becomes_an_inverted_file_by_size(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 90)
    settings = IndexSettings.model_validate({"shortlist": {"ivf_from": 80}})
    images = fresh(tmp_path / "i", settings)
    images.add(tmp_path / "photos")
    assert images.info()["shortlist"] == "rabitq"
    images.remove([f"{number:03d}.png" for number in range(20)])
    assert images.info()["shortlist"] == "fp16"


@pytest.mark.parametrize("damage", ["missing", "garbage", "truncated"])
def test_a_damaged_shortlist_mends_itself(tmp_path: Path, damage: str) -> None:
    make_photos(tmp_path / "photos", 6)
    fresh(tmp_path / "i").add(tmp_path / "photos")
    path = tmp_path / "i" / "global.faiss"
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(b"no index" * 9 if damage == "garbage" else data[: len(data) // 2])
    images = reopened(tmp_path / "i")
    assert first(images, tmp_path / "photos" / "002.png") == "002.png"
    assert images.check().problems == [] and images.check().notes


def test_check_names_what_is_damaged(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 8)
    images = fresh(tmp_path / "i")
    images.add(tmp_path / "photos")
    path = segment_path(tmp_path / "i", 2)
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    path.write_bytes(bytes(data))
    assert any("000002.h5" in problem for problem in images.check().problems)
    path.unlink()
    assert any("000002.h5" in problem for problem in images.check().problems)


@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_a_lost_segment_costs_its_own_photos_only_and_building_again_heals_it(
    tmp_path: Path, damage: str
) -> None:
    make_photos(tmp_path / "photos", 8)
    images = fresh(tmp_path / "i")
    images.add(tmp_path / "photos")
    before = contents(images)
    path = segment_path(tmp_path / "i", 2)
    mine = [row.id for row in images._store.catalog.images("ok") if row.segment == 2]
    whole = path.read_bytes()
    path.unlink()
    if damage == "garbage":
        path.write_bytes(b"no segment" * 99)

    images = reopened(tmp_path / "i")
    assert len(images.unreadable_segments()) == 1 and "000002.h5" in images.unreadable_segments()[0]
    kept = sorted(set(before) - set(mine))
    found = images.query(tmp_path / "photos" / kept[0], k=20)
    assert found[0].id == kept[0] and sorted(hit.id for hit in found) == kept
    with pytest.raises(DelgError, match=r"000002\.h5"):
        images.compact()

    # With the file back all is as it was.
    path.write_bytes(whole)
    images.refresh()
    assert images.unreadable_segments() == [] and images.check().problems == []
    assert first(images, tmp_path / "photos" / mine[0]) == mine[0]

    path.unlink()
    images = reopened(tmp_path / "i")
    report = images.add(tmp_path / "photos")
    assert (report.updated, report.unchanged) == (len(mine), len(kept))
    assert images.unreadable_segments() == []
    images = reopened(tmp_path / "i")
    assert contents(images) == before
    assert images.check().problems == images.check().notes == []


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no index there"):
        ImageIndex.open(tmp_path / "nothing")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        ImageIndex.create(tmp_path / "full")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "catalog.sqlite").write_bytes(b"not a database, not at all" * 50)
    with pytest.raises(CatalogError, match="not a readable catalog"):
        ImageIndex.open(tmp_path / "bad")
    images = fresh(tmp_path / "i")
    with pytest.raises(UsageError, match="no such folder"):
        images.add(tmp_path / "nothing")
    with pytest.raises(UsageError, match="matchign"):
        images.configure({"matchign": {"ratio": 0.9}})
    with pytest.raises(UsageError, match=r"matching\.ration"):
        images.configure({"matching": {"ration": 0.9}})
    with pytest.raises(UsageError, match="store is fixed"):
        images.configure({"store": {"segment_images": 9}})
    stranger = FakeExtractor()
    stranger.fingerprint = "f" * 16
    with pytest.raises(ModelError, match=f"{images.fingerprint}.*{'f' * 16}"):
        images.use(stranger)


def test_a_reader_sees_one_state_while_another_process_adds_and_compacts(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    make_photos(folder, 10)
    fresh(tmp_path / "i").add(folder)
    reader = reopened(tmp_path / "i")
    before = contents(reader)
    make_photos(folder, 3, start=20)
    run("add", tmp_path)
    run("remove 000.png", tmp_path)
    run("compact", tmp_path)
    assert contents(reader) == before
    assert first(reader, folder / "000.png") == "000.png"
    assert first(reader, folder / "020.png") != "020.png"
    reader.refresh()
    assert len(reader) == 12
    assert first(reader, folder / "020.png") == "020.png"


def test_a_second_writer_gets_a_clear_error(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 3)
    images = fresh(tmp_path / "i")
    with images._store.lock():
        done = run("add", tmp_path, check=False)
        assert done.returncode != 0 and "another process is writing" in done.stderr
    assert run("add", tmp_path).returncode == 0
    script = tmp_path / "hold.py"
    script.write_text(WORKER + "\nwith images._store.lock():\n print('held', flush=True)\n input()")
    held = subprocess.Popen(
        [sys.executable, script, "none", str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    try:
        assert held.stdout and held.stdout.readline() == "held\n"
        with pytest.raises(BusyError):
            images.add(tmp_path / "photos")
    finally:
        held.kill()
        held.wait()
    images.add(tmp_path / "photos")


WORKER = """
import os, signal, sys
from pathlib import Path
from fake_model import FakeExtractor
from index import ImageIndex

work, folder = sys.argv[1], Path(sys.argv[2])
images = ImageIndex.open(folder / "i")
images.use(FakeExtractor())
if work == "add":
    images.add(folder / "photos")
elif work == "compact":
    images.compact()
elif work.startswith("remove"):
    images.remove(work.split()[1:])
"""

# Where in a commit the process dies: the function that is never reached.
DEATHS = {
    "before the rename": "import pathlib as m; m.Path.replace = die",
    "before the transaction": "import index.storage.store as m; m.insert_segment = die",
    "inside the transaction": "import index.storage.store as m; m.put_images = die",
    "before the shortlist": "import index.storage.ann_index as m; m.AnnIndex.save = die",
}


# What the other process imports: the helpers of tests, and the packages themselves.
HELPERS = (Path(__file__).parents[1] / "helpers", Path(__file__).parents[2])


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(path) for path in HELPERS)}


def run(work: str, folder: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WORKER, work, str(folder)],
        env=environment(), capture_output=True, text=True, check=check, timeout=120,
    )  # fmt: skip


def uninterrupted(tmp_path: Path) -> dict[str, bytes]:
    images = fresh(tmp_path / "whole")
    images.add(tmp_path / "photos")
    return contents(images)


@pytest.mark.parametrize("when", DEATHS)
def test_killed_between_the_steps_of_a_commit(tmp_path: Path, when: str) -> None:
    make_photos(tmp_path / "photos", 10)
    fresh(tmp_path / "i").close()
    die = "def die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)\n"
    worker = WORKER.replace('if work == "add"', f"{die}{DEATHS[when]}\nif work == 'add'")
    done = subprocess.run(
        [sys.executable, "-c", worker, "add", str(tmp_path)], env=environment(), check=False
    )
    assert done.returncode == -signal.SIGKILL
    images = reopened(tmp_path / "i")
    assert images.check().problems == []
    assert len(images) == (10 if when == "before the shortlist" else 0)
    images.add(tmp_path / "photos")
    assert contents(images) == uninterrupted(tmp_path)
    assert images.check() == type(images.check())([], [])


def test_killed_at_ten_random_moments_nothing_is_lost_and_nothing_twice(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 120)
    fresh(tmp_path / "i").close()
    chance = random.Random(4)
    slow = WORKER.replace("images.use(FakeExtractor())", SLOW)
    progress = [0]
    for _ in range(10):
        worker = subprocess.Popen(
            [sys.executable, "-c", slow, "add", str(tmp_path)], env=environment()
        )
        wait_for_a_commit(tmp_path / "i", progress[-1], worker)
        time.sleep(chance.uniform(0, 0.3))
        worker.kill()
        worker.wait()
        images = reopened(tmp_path / "i")
        assert images.check().problems == []
        assert len(images) >= progress[-1]
        progress.append(len(images))
        images.close()
    assert progress[1] > 0 and progress[3] < 120
    images = reopened(tmp_path / "i")
    images.add(tmp_path / "photos")
    assert contents(images) == uninterrupted(tmp_path)
    assert images.info()["dead"] == 0
    assert images.check() == type(images.check())([], [])


SLOW = """
import time
class Slow(FakeExtractor):
    def extract(self, *args, **kwargs):
        time.sleep(0.01)
        return super().extract(*args, **kwargs)
images.use(Slow())
"""


def wait_for_a_commit(folder: Path, known: int, worker: subprocess.Popen) -> None:
    """Until the index has grown, so that every kill hits a process at work."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and worker.poll() is None:
        with ImageIndex.open(folder) as images:
            if len(images) > known:
                return
        time.sleep(0.02)


def test_the_same_query_gives_the_same_answer_in_two_processes(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 9)
    images = fresh(tmp_path / "i")
    images.add(tmp_path / "photos")
    show = WORKER + (
        "\nfrom delg.images.decode import decode"
        "\nprint([h.as_json() for h in images.query(decode(folder / 'photos' / '003.png'))])"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", show, "none", str(tmp_path)],
            env=environment(), capture_output=True, text=True, check=True,
        ).stdout
        for _ in range(2)
    }  # fmt: skip
    here = [h.as_json() for h in images.query(decode(tmp_path / "photos" / "003.png"))]
    assert answers == {f"{here}\n"}
