"""Several processes at one index."""

import os
import threading

import create_race
import pytest
from dots import contents, dots, gallery

from index import ImageIndex
from index.storage.ann_index import AnnIndex
from index.storage.lock import BusyError, writer_lock
from index.storage.store import Store


@pytest.fixture
def images(make_index, photos) -> ImageIndex:
    """An open index of 12 photos in three segments."""
    images = make_index(store={"segment_images": 4})
    images.add(photos)
    return images


def listed(images: ImageIndex, seed: int) -> list[dict]:
    return [hit.as_json() for hit in images.query(dots(seed).pixels(), k=100)]


def test_a_reader_keeps_its_state_while_another_process_adds(images, reopen, photos, work):
    reader = reopen(images.path)
    before = listed(reader, 3)
    gallery(photos, 20, first=50)
    dots(103).save(photos / "003.png")
    code, report = work("add", images.path, photos)
    assert code == 0 and (report["added"], report["updated"]) == (20, 1)
    assert len(reader) == 12 and listed(reader, 3) == before
    assert reader.check().problems == []
    reader.refresh()
    assert len(reader) == 32
    assert reader.query(dots(103).pixels(), k=1)[0].id == "003.png"


def test_a_reader_keeps_its_state_while_another_process_removes_and_compacts(
    images, reopen, photos, work
):
    reader = reopen(images.path)
    store = Store(images.path)
    rows = list(store.catalog.images("ok"))
    exact = {row.id: store.features(row).local.descriptors.tobytes() for row in rows}
    before = listed(reader, 3)
    names = [path.name for path in (images.path / "segments").iterdir()]
    assert work("remove", images.path, "003.png", "007.png")[0] == 0
    code, done = work("compact", images.path)
    assert code == 0 and done["freed"] > 0
    assert not set(names) & {path.name for path in (images.path / "segments").iterdir()}
    assert listed(reader, 3) == before and before[0]["id"] == "003.png"
    # The segments are gone from the folder, and what this reader had open is still whole.
    now = {row.id: store.features(row).local.descriptors.tobytes() for row in rows}
    assert now == exact
    reader.refresh()
    assert len(reader) == 10
    assert "003.png" not in [hit["id"] for hit in listed(reader, 3)]


def test_a_reader_that_opens_between_batches_sees_whole_batches(make_index, photos, reopen):
    images = make_index(store={"segment_images": 4})
    sizes = []

    def look(done: int, total: int, failed: int) -> None:
        with reopen(images.path) as reader:
            sizes.append(len(reader))
            assert reader.check().problems == []
            assert len(reader.query(dots(0).pixels(), k=100)) == len(reader)

    images.add(photos, progress=look)
    # A batch is written while the next is extracted.
    assert len(sizes) == 12 and sizes == sorted(sizes)
    assert set(sizes) <= {0, 4, 8} and sizes[-1] >= 4


def test_a_second_writer_is_turned_away_while_another_process_writes(
    images, photos, work, tmp_path
):
    gallery(tmp_path / "more", 2, first=50)
    answers = {}

    def intrude(done: int, total: int, failed: int) -> None:
        if done == 1:
            answers["add"] = work("add", images.path, photos)[1]
            answers["remove"] = work("remove", images.path, "000.png")[1]
            answers["compact"] = work("compact", images.path)[1]
            answers["query"] = work("query", images.path, photos / "003.png")[1]

    report = images.add(tmp_path / "more", progress=intrude)
    assert report.added == 2
    for command in ("add", "remove", "compact"):
        assert answers[command]["error"] == "BusyError"
        assert str(images.path) in answers[command]["message"]
        assert "another process is writing" in answers[command]["message"]
    assert answers["query"]["hits"][0]["id"] == "003.png"
    assert len(images) == 14 and images.check().problems == []


def test_a_second_writer_in_the_same_process_is_turned_away_too(images, reopen, tmp_path):
    gallery(tmp_path / "more", 2, first=50)
    other = reopen(images.path)

    def intrude(done: int, total: int, failed: int) -> None:
        for change in (
            lambda: other.remove(["000.png"]),
            lambda: other.add(tmp_path / "more"),
            other.compact,
            lambda: other.configure({"ranking": {"rerank": 3}}, record=True),
        ):
            with pytest.raises(BusyError):
                change()

    images.add(tmp_path / "more", progress=intrude)
    assert other.remove(["000.png"]) == 1


def test_the_lock_is_let_go_after_an_error_and_after_a_kill(images, reopen, photos, work):
    def fail(done: int, total: int, failed: int) -> None:
        raise RuntimeError("progress broke")

    gallery(photos, 8, first=50)
    with pytest.raises(RuntimeError, match="progress broke"):
        images.add(photos, progress=fail)
    assert work("add", images.path, photos, "--kill", "inside the transaction:1")[0] == -9
    assert images.add(photos).added == 8


def test_a_writer_first_takes_up_what_others_wrote_since(images, reopen, photos, tmp_path):
    other = reopen(images.path)
    gallery(tmp_path / "more", 2, first=50)
    images.add(tmp_path / "more")
    images.remove(["000.png"])
    assert other.add(photos).added == 1
    assert len(other) == 14
    images.refresh()
    assert contents(images.path) == contents(other.path) and len(images) == 14
    assert images.check().problems == [] == images.check().notes


def test_a_stored_shortlist_is_read_again_only_where_others_changed_it(
    images, reopen, photos, tmp_path, monkeypatch
):
    loaded, load = [], AnnIndex.load
    monkeypatch.setattr(AnnIndex, "load", lambda *a, **k: loaded.append(a) or load(*a, **k))
    ours = reopen(images.path)
    loaded.clear()
    ours.edit(["000.png"], label="first")
    ours.remove(["001.png"])
    ours.refresh()
    assert not loaded
    assert [hit["id"] for hit in listed(ours, 0)[:1]] == ["000.png"]
    assert "001.png" not in {hit["id"] for hit in listed(ours, 1)}
    gallery(tmp_path / "more", 1, first=700)
    other = reopen(images.path)
    other.add(tmp_path / "more")
    loaded.clear()
    ours.refresh()
    assert len(loaded) == 1 and listed(ours, 700) == listed(other, 700)
    assert listed(ours, 700)[0]["id"] == "700.png"


def test_a_reader_that_keeps_refreshing_never_sees_half_a_change(images, photos, work):
    answer = []
    writer = threading.Thread(
        target=lambda: answer.append(work("churn", images.path, "003.png", photos))
    )
    writer.start()
    sizes = set()
    while writer.is_alive():
        images.refresh()
        sizes.add(len(images))
        assert len(images.query(dots(5).pixels(), k=100)) == len(images)
    writer.join()
    assert answer == [(0, {})]
    assert sizes == {11, 12}
    images.refresh()
    assert images.check().problems == []


def test_of_processes_that_create_the_same_index_one_wins_and_the_others_find_it(
    dot_model_folder, tmp_path
):
    for outcomes in create_race.race(tmp_path, dot_model_folder, processes=3, rounds=15):
        assert sorted(outcomes) == ["created", "opened", "opened"]


def test_a_writer_that_is_turned_away_hears_who_writes(images, photos):
    with writer_lock(images.path), pytest.raises(BusyError, match=f"process {os.getpid()} on"):
        images.add(photos)
    assert not {path.name for path in images.path.iterdir()} & {"writer.txt"}


def test_an_ann_index_that_was_never_written_is_built_once_by_whoever_opens(
    make_index, photos, model, monkeypatch
):
    images = make_index()
    images.add(photos)
    images.close()
    # A first build that was killed leaves none.
    (images.path / "global.faiss").unlink()
    train, trained = AnnIndex.train, []
    monkeypatch.setattr(AnnIndex, "train", lambda *words: (trained.append(words), train(*words))[1])
    with ImageIndex.open(images.path, str(model.folder)) as again:
        again.use(model)
        gallery(photos, 1, first=50)
        assert again.add(photos).added == 1 and len(trained) == 1
        assert again.query(dots(50).pixels(), k=1)[0].id == "050.png"
