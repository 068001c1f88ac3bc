"""The process that writes is killed, as by ``kill -9``; the index must be none the worse."""

import random
import shutil
from pathlib import Path

import pytest
from dots import DotModel, check_shortlists, dots, gallery, model_folder, write_words
from dots import contents as features_of

from index import ImageIndex, IndexSettings
from index.storage.store import Store

PHOTOS, BATCH = 36, 4
# Two parts of each photo, which segments and a shortlist of their own hold too.
STORE = {"segment_images": BATCH, "segment_seconds": 3600, "regions": 2}
KILLS_WHILE_ADDING = (
    "before segment rename",
    "after segment rename",
    "inside the transaction",
    "after the transaction",
)


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    gallery(folder, PHOTOS)
    (folder / "bad.png").write_bytes(b"not a photo")
    return folder


@pytest.fixture(scope="module")
def worded_folder(tmp_path_factory, many) -> Path:
    """A model of dots that has a vocabulary, so that segments hold words too."""
    folder = model_folder(tmp_path_factory.mktemp("worded") / "model")
    return write_words(folder, sorted(many.glob("[0-9]*.png"))[:10])


def contents(folder: Path) -> dict[str, tuple]:
    """What the index holds of each image, its visual words and its parts too."""
    store, values = Store(folder), features_of(folder)
    for image in store.catalog.images("ok"):
        words = store.segments[image.segment].postings.photo(image.position)
        values[image.id] += (words.words.tobytes(), words.signs.tobytes())
    assert store.inverted_file() is not None and store.region_index() is not None
    check_shortlists(store)
    store.close()
    return values


@pytest.fixture(scope="module")
def complete(tmp_path_factory, worded_folder, many) -> Path:
    """An index of all photos, which nobody changes."""
    place = tmp_path_factory.mktemp("complete") / "my.index"
    with create(place, worded_folder) as images:
        images.use(DotModel(worded_folder))
        images.add(many)
    return place


@pytest.fixture(scope="module")
def uninterrupted(complete) -> dict[str, tuple]:
    """What the index holds when nothing goes wrong."""
    return contents(complete)


def create(place: Path, model: Path) -> ImageIndex:
    settings = IndexSettings.model_validate({"store": STORE})
    return ImageIndex.create(place, str(model), settings=settings)


@pytest.fixture
def place(tmp_path, worded_folder) -> Path:
    create(tmp_path / "my.index", worded_folder).close()
    return tmp_path / "my.index"


def check_opens_as_at_the_last_commit(place: Path, expected: dict[str, tuple]) -> int:
    """Check what a kill left; returns how many images are in, failed ones too."""
    remaining = contents(place)
    assert remaining == {name: expected[name] for name in remaining}
    with ImageIndex.open(place) as images:
        assert images.check().problems == []
        # One batch after the other, in the order of ids, is all there or not at all.
        assert list(remaining) == list(expected)[: len(remaining)]
        assert len(remaining) % BATCH == 0 or len(remaining) == len(expected)
    return len(remaining)


def check_continues(
    place: Path, many: Path, model: DotModel, expected: dict[str, tuple], had: int
) -> None:
    """The same command again finishes the work and does nothing twice."""
    with ImageIndex.open(place) as images:
        images.use(model)
        report = images.add(many)
        good = sum(facts[0] == "ok" for facts in list(expected.values())[:had])
        assert (report.added, report.unchanged) == (PHOTOS - good, good)
        assert model.extracted == PHOTOS - good
        assert [Path(failure.path).name for failure in report.failed] == ["bad.png"]
        report = images.check()
        assert report.problems == [] and report.notes == []
        assert len(images) == PHOTOS
        for seed in (0, 17, PHOTOS - 1):
            assert images.query(dots(seed).pixels(), k=1)[0].id == f"{seed:03d}.png"
        assert len(images.query(dots(0).pixels(), k=1000)) == PHOTOS
    assert contents(place) == expected
    named = {path.name for path in place.rglob("*")}
    assert named >= {"global.faiss", "words.h5", "regions.faiss"}
    assert not {name for name in named if name.endswith((".tmp", "-wal", "-shm", "-journal"))}


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_nothing_is_lost_and_nothing_is_there_twice(
    place, many, work, model, uninterrupted, seed
):
    # Four kills in a row, each before the time that all of the work takes at this pause.
    chance = random.Random(seed)
    had = 0
    for _ in range(4):
        code, _ = work("add", place, many, "--pause", 0.02, kill_after=chance.uniform(0.05, 0.9))
        assert code in (-9, 0)
        committed = check_opens_as_at_the_last_commit(place, uninterrupted)
        assert committed >= had
        had = committed
    check_continues(place, many, model, uninterrupted, had)


@pytest.mark.parametrize("point", KILLS_WHILE_ADDING)
def test_killed_between_the_steps_of_a_commit(place, many, work, model, uninterrupted, point):
    batch = 3
    code, _ = work("add", place, many, "--kill", f"{point}:{batch}")
    assert code == -9
    committed = batch if point == "after the transaction" else batch - 1
    had = check_opens_as_at_the_last_commit(place, uninterrupted)
    assert had == committed * BATCH
    check_continues(place, many, model, uninterrupted, had)


@pytest.mark.parametrize(
    "point",
    ["before the shortlist", "inside the shortlist", "inside the words", "inside the parts"],
)
def test_killed_while_the_shortlist_is_saved(place, many, work, model, uninterrupted, point):
    code, _ = work("add", place, many, "--kill", f"{point}:1")
    assert code == -9
    had = check_opens_as_at_the_last_commit(place, uninterrupted)
    assert had == PHOTOS + 1
    with ImageIndex.open(place) as images:
        images.use(model)
        assert len(images.query(dots(0).pixels(), k=1000)) == PHOTOS
        model.extracted = 0
    check_continues(place, many, model, uninterrupted, had)


def small_segments(place: Path) -> int:
    with ImageIndex.open(place) as images:
        return int(images.info()["segments"])


@pytest.mark.parametrize(
    "kill", ["before the merge:2", "inside the merge:1", "after an old segment went:3"]
)
def test_small_segments_are_joined_and_a_kill_meanwhile_loses_nothing(
    tmp_path, many, work, model, uninterrupted, worded_folder, kill
):
    place = tmp_path / "small.index"
    # A segment for each photo.
    store = STORE | {"segment_images": 32, "segment_seconds": 1e-6}
    settings = IndexSettings.model_validate({"store": store})
    ImageIndex.create(place, str(worded_folder), settings=settings).close()
    assert work("add", place, many, "--kill", kill)[0] == -9
    left = contents(place)
    assert len(left) >= 8 and left == {name: uninterrupted[name] for name in left}
    with ImageIndex.open(place) as images:
        assert images.check().problems == []
    assert work("add", place, many)[0] == 0
    assert contents(place) == uninterrupted and small_segments(place) <= 16
    with ImageIndex.open(place) as images:
        images.use(model)
        report = images.check()
        assert report.problems == report.notes == []
        assert images.query(dots(17).pixels(), k=1)[0].id == "017.png"


def test_what_a_kill_left_is_noted_and_swept_by_the_next_writer(place, many, work, model):
    for point in ("before segment rename", "after segment rename"):
        assert work("add", place, many, "--kill", f"{point}:1")[0] == -9
        remaining = list((place / "segments").iterdir())
        assert len(remaining) == 1
        with ImageIndex.open(place) as images:
            assert images.check().notes[0] == f"{remaining[0]}: left behind by a killed writer"
    with ImageIndex.open(place) as images:
        images.use(model)
        images.remove([])
    assert list((place / "segments").iterdir()) == []


@pytest.fixture
def full(tmp_path, complete) -> Path:
    """An index of all photos."""
    return Path(shutil.copytree(complete, tmp_path / "my.index"))


def test_killed_while_photos_are_replaced_each_is_old_or_new(full, work, model, tmp_path):
    # Ten photos are changed, and the second of three batches is cut short.
    gallery(tmp_path / "more", 10, first=100)
    with ImageIndex.open(full) as images:
        images.use(model)
        images.add(tmp_path / "more")
    old = contents(full)
    for number in range(100, 110):
        dots(number + 900).save(tmp_path / "more" / f"{number}.png")
    assert work("add", full, tmp_path / "more", "--kill", "inside the transaction:2")[0] == -9
    remaining = contents(full)
    assert list(remaining) == list(old)
    changed = [name for name in old if remaining[name] != old[name]]
    assert changed == [f"{number}.png" for number in range(100, 104)]
    with ImageIndex.open(full) as images:
        images.use(model)
        assert images.check().problems == []
        assert images.query(dots(1003).pixels(), k=1)[0].id == "103.png"
        assert images.query(dots(104).pixels(), k=1)[0].id == "104.png"
        assert images.add(tmp_path / "more").updated == 6
        assert len(images.query(dots(0).pixels(), k=1000)) == PHOTOS + 10


@pytest.mark.parametrize(
    ("point", "removed"),
    [
        ("inside the removal", False),
        ("after the transaction", True),
        ("before the shortlist", True),
    ],
)
def test_killed_while_removing_all_are_out_or_none(
    full, many, work, model, uninterrupted, point, removed
):
    gone = ["003.png", "030.png", "035.png"]
    code, _ = work("remove", full, *gone, "--kill", f"{point}:1")
    assert code == -9
    expected = {
        name: facts for name, facts in uninterrupted.items() if not removed or name not in gone
    }
    assert contents(full) == expected
    with ImageIndex.open(full) as images:
        images.use(model)
        assert images.check().problems == []
        hit_ids = {hit.id for hit in images.query(dots(3).pixels(), k=1000)}
        assert hit_ids == {name for name, facts in expected.items() if facts[0] == "ok"}
        model.extracted = 0
        images.add(many)
        assert model.extracted == (3 if removed else 0)
    assert contents(full) == uninterrupted


@pytest.mark.parametrize(
    "kill",
    [
        "before segment rename:1",
        "after segment rename:5",
        "inside the compaction:2",
        "before old segments go:1",
        "after an old segment went:7",
        "inside the shortlist:1",
        "inside the words:1",
        "inside the parts:1",
    ],
)
def test_killed_while_compacting_nothing_is_lost(full, work, model, uninterrupted, kill):
    gone = [f"{number:03d}.png" for number in range(0, PHOTOS, 3)]
    with ImageIndex.open(full) as images:
        images.remove(gone)
    expected = {name: facts for name, facts in uninterrupted.items() if name not in gone}
    code, _ = work("compact", full, "--kill", kill)
    assert code == -9
    assert contents(full) == expected
    with ImageIndex.open(full) as images:
        images.use(model)
        assert images.check().problems == []
        assert images.query(dots(1).pixels(), k=1)[0].id == "001.png"
        images.compact()
        report = images.check()
        assert report.problems == [] and report.notes == []
        segments = len(list((full / "segments").iterdir()))
        assert images.info()["segments"] == segments == PHOTOS * 2 // 3 // BATCH
    assert contents(full) == expected


def test_a_killed_export_leaves_no_half_file_and_the_next_is_whole(
    full, work, model, worded_folder, uninterrupted, tmp_path
):
    file = tmp_path / "features.h5"
    for point in ("inside the export:9", "before the export:1"):
        assert work("export", full, file, "--kill", point)[0] == -9
        assert not file.exists() and contents(full) == uninterrupted
    code, printed = work("export", full, file)
    assert (code, printed) == (0, {"exported": PHOTOS})
    with create(tmp_path / "again.index", worded_folder) as again:
        again.use(model)
        assert again.import_from([file]).added == len(again) == PHOTOS
        for number in (0, PHOTOS - 1):
            name = f"{number:03d}.png"
            assert again.query(dots(number).pixels(), k=1)[0].id == name
            assert [part.box for part in again.features(name).regions]
    assert contents(tmp_path / "again.index").keys() == uninterrupted.keys() - {"bad.png"}


def test_what_a_kill_left_of_the_shortlist_is_swept_by_the_next_writer(full, many, work):
    assert work("remove", full, "003.png", "--kill", "inside the shortlist:1")[0] == -9
    assert (full / "global.faiss.tmp").exists()
    assert work("add", full, many)[0] == 0
    assert not (full / "global.faiss.tmp").exists()


def test_killed_while_it_is_created_it_can_be_created_again(tmp_path, work, worded_folder):
    place = tmp_path / "new.index"
    assert work("create", place, "--kill", "create:1")[0] == -9
    assert not ImageIndex.exists(place)
    with create(place, worded_folder) as images:
        assert len(images) == 0 and images.check().problems == []
