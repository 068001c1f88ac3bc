import json

import h5py
import numpy as np
import pytest
from dots import DotModel, contents, dots, gallery, model_folder

from delg.errors import DelgError, ModelError, UsageError
from index import ImageIndex, IndexSettings
from index.labels import Label
from index.storage.store import Store


def listed(result) -> list[tuple]:
    """Everything of a result but the time it took."""
    return [
        (
            hit.rank,
            hit.id,
            hit.score,
            hit.similarity,
            hit.inliers,
            hit.verified,
            None if hit.transform is None else hit.transform.tolist(),
            hit.query_points.tolist(),
            hit.points.tolist(),
        )
        for hit in result
    ]


def test_a_new_index_is_empty(make_index, model):
    images = make_index()
    assert ImageIndex.exists(images.path)
    assert len(images) == 0 and images.failures() == {} and images.vanished() == []
    assert images.fingerprint == model.fingerprint
    result = images.query(dots(1).pixels())
    assert len(result) == 0 and list(result) == []
    assert images.compact() == 0
    assert images.check().problems == []


def test_info_says_what_an_index_holds(make_index, photos):
    images = make_index(store={"segment_images": 5})
    assert images.info()["bytes_per_image"] is None
    (photos / "bad.png").write_bytes(b"")
    images.add(photos)
    images.remove(["000.png", "001.png"])
    info = images.info()
    assert json.loads(json.dumps(info)) == info
    size = sum(path.stat().st_size for path in images.path.rglob("*") if path.is_file())
    assert {key: info[key] for key in info if key not in ("settings", "bytes")} == {
        "index": str(images.path),
        "model": "dots",
        "fingerprint": images.fingerprint,
        "images": 10,
        "failed": 1,
        "segments": 3,
        "unreadable_segments": 0,
        "dead": 2,
        "bytes_per_image": round(info["bytes"] / 10),
        "shortlist": "fp16",
        "regions": 0,
        "codebook": "",
        "vocabulary": "",
        "adaptation": "",
    }
    assert info["bytes"] == pytest.approx(size, rel=0.3)
    assert info["settings"]["store"]["segment_images"] == 5


def test_an_index_may_be_made_in_an_empty_folder_or_one_that_is_not_there(tmp_path, model):
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "new" / "deep", str(tmp_path / "text")):
        assert len(ImageIndex.create(place, str(model.folder))) == 0
        assert ImageIndex.exists(place)


def test_an_index_is_not_made_over_something_else(tmp_path, model, make_index):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    existing = make_index().path
    for place in (tmp_path / "full", tmp_path / "file", existing):
        with pytest.raises(UsageError, match=f"{place}: exists and is not empty"):
            ImageIndex.create(place, str(model.folder))
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_an_index_that_cannot_be_made_is_named(tmp_path, model):
    (tmp_path / "file").write_text("")
    with pytest.raises(DelgError, match=r"file/my\.index: cannot be made: Not a directory"):
        ImageIndex.create(tmp_path / "file" / "my.index", str(model.folder))


def test_an_index_needs_a_model_with_weights(tmp_path):
    with pytest.raises(ModelError, match="no model is called 'delg-light'"):
        ImageIndex.create(tmp_path / "a", "delg-light")
    with pytest.raises(ModelError, match="delg-r50 has no weights at"):
        ImageIndex.create(tmp_path / "a", "delg-r50")
    with pytest.raises(ModelError, match=r"none\.h5"):
        ImageIndex.create(tmp_path / "a", weights=tmp_path / "none.h5")
    assert not (tmp_path / "a").exists()


def test_opening_what_is_not_there_says_so(tmp_path):
    assert not ImageIndex.exists(tmp_path / "nowhere")
    with pytest.raises(DelgError, match=r"nowhere: no index there"):
        ImageIndex.open(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DelgError, match=r"folder: no index there"):
        ImageIndex.open(tmp_path / "folder")
    assert list((tmp_path / "folder").iterdir()) == []


def test_open_or_create_makes_an_index_once_and_checks_its_model(tmp_path, model, photos):
    path, folder = tmp_path / "my.index", str(model.folder)
    settings = IndexSettings.model_validate({"store": {"segment_images": 5}})
    with ImageIndex.open_or_create(path, folder, settings=settings) as images:
        images.use(model)
        images.add(photos)
    for name in (None, folder):
        with ImageIndex.open_or_create(path, name) as reopened:
            assert len(reopened) == 12 and reopened.settings.store.segment_images == 5
    with pytest.raises(UsageError, match=r"was made by model dots .* delg-lite is"):
        ImageIndex.open_or_create(path, "delg-lite")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(UsageError, match="exists and is not empty"):
        ImageIndex.open_or_create(tmp_path / "full", folder)


def test_an_index_closes_at_the_end_of_a_with_block(make_index, photos, reopen):
    with make_index() as images:
        images.add(photos)
    with reopen(images.path) as reopened:
        assert len(reopened) == 12
    # Nothing but the index itself is left of it: the log was folded in.
    assert {path.name for path in images.path.iterdir()} == {
        "catalog.sqlite",
        "global.faiss",
        "segments",
        "writer.lock",
    }


def test_a_model_with_another_fingerprint_is_refused_and_both_are_named(make_index, tmp_path):
    images = make_index()
    second = model_folder(tmp_path / "other")
    with h5py.File(second / "weights.h5", "a") as file:
        file["layer/kernel"][0] = 5
    stranger = DotModel(second)
    assert stranger.fingerprint != images.fingerprint
    with pytest.raises(ModelError) as error:
        images.use(stranger)
    assert images.fingerprint in str(error.value) and stranger.fingerprint in str(error.value)


def test_a_model_that_changed_since_is_refused_and_both_are_named(tmp_path, photos, monkeypatch):
    folder = model_folder(tmp_path / "model")
    images = ImageIndex.create(tmp_path / "my.index", str(folder))
    images.use(DotModel(folder))
    images.add(photos)
    old = images.fingerprint
    with h5py.File(folder / "weights.h5", "a") as file:
        file["layer/kernel"][0] = 5
    reopened = ImageIndex.open(tmp_path / "my.index")
    assert len(reopened) == 12 and reopened.check().problems == []
    monkeypatch.setattr("index.index_model.load_model", lambda *arguments: DotModel(folder))
    with pytest.raises(ModelError) as error:
        reopened.query(photos / "000.png")
    assert old in str(error.value) and DotModel(folder).fingerprint in str(error.value)


def test_a_model_that_is_gone_is_named(tmp_path):
    folder = model_folder(tmp_path / "model")
    images = ImageIndex.create(tmp_path / "my.index", str(folder))
    (folder / "settings.yaml").unlink()
    with pytest.raises(ModelError, match=str(folder)):
        images.query(dots(1).pixels())


def test_the_extraction_of_an_index_is_part_of_its_fingerprint(tmp_path, model):
    settings = IndexSettings.model_validate({"extraction": {"longest_side": 320}})
    images = ImageIndex.create(tmp_path / "my.index", str(model.folder), settings=settings)
    assert images.fingerprint != model.fingerprint
    with pytest.raises(ModelError):
        images.use(model)


def test_settings_are_recorded(make_index, photos, reopen):
    images = make_index(ranking={"rerank": 3}, store={"local_codec": "float32"})
    assert images.settings.ranking.rerank == 3
    assert reopen(images.path).settings == images.settings
    images.add(photos)
    assert sum(hit.inliers > 0 for hit in images.query(photos / "000.png", k=12)) <= 3


@pytest.mark.parametrize("codec", ["int8", "float16", "float32"])
def test_local_descriptors_are_kept_as_the_codec_allows(make_index, model, photos, codec):
    images = make_index(store={"local_codec": codec})
    images.add(photos)
    store = Store(images.path)
    stored = store.features(store.catalog.by_id("003.png"))
    exact = model.extract(photos / "003.png")
    np.testing.assert_array_equal(stored.global_descriptor, exact.global_descriptor)
    np.testing.assert_array_equal(stored.local.keypoints, exact.local.keypoints)
    tolerance = {"int8": 5e-3, "float16": 5e-4, "float32": 1e-6}[codec]
    np.testing.assert_allclose(stored.local.descriptors, exact.local.descriptors, atol=tolerance)
    assert (stored.width, stored.height) == (160, 120)


def test_configure_holds_for_this_object(make_index, photos, reopen):
    images = make_index()
    images.add(photos)
    images.configure({"ranking": {"rerank": 0}})
    assert images.query(photos / "000.png")[0].inliers == 0
    assert reopen(images.path).settings.ranking.rerank == 100


@pytest.mark.parametrize("change", ["refresh", "add", "remove", "compact"])
def test_configure_outlives_changes_of_the_index(make_index, photos, change):
    images = make_index()
    images.add(photos)
    images.configure({"ranking": {"rerank": 0}})
    {
        "refresh": images.refresh,
        "add": lambda: images.add(photos),
        "remove": lambda: images.remove(["003.png"]),
        "compact": images.compact,
    }[change]()
    assert images.settings.ranking.rerank == 0
    assert images.query(photos / "000.png")[0].inliers == 0


def test_configure_for_this_object_reaches_the_shortlist(make_index, photos):
    images = make_index(shortlist={"kind": "ivf", "nlist": 12, "nprobe": 1})
    gallery(photos, 488, first=12)
    images.add(photos)
    few = len(images.query(dots(3).pixels(), k=500, rerank=0))
    images.configure({"shortlist": {"nprobe": 12}})
    assert few < len(images.query(dots(3).pixels(), k=500, rerank=0)) == 500


def test_configure_for_good_is_recorded(make_index, photos, reopen):
    images = make_index()
    images.add(photos)
    images.configure({"ranking": {"rerank": 7}}, "x.yaml", record=True)
    assert images.settings.ranking.rerank == 7
    reopened = reopen(images.path)
    assert reopened.settings.ranking.rerank == 7 and len(reopened) == 12


@pytest.mark.parametrize("record", [False, True])
def test_configure_names_what_is_wrong_and_changes_nothing(make_index, record):
    images = make_index()
    before = images.settings
    for overrides, named in (
        ({"rankin": {"rerank": 7}}, "rankin"),
        ({"ranking": {"rerun": 7}}, "ranking.rerun"),
        ({"store": {"local_codec": "float32"}}, "store is fixed"),
        ({"extraction": {"longest_side": 320}}, "extraction is fixed"),
    ):
        with pytest.raises(UsageError, match=f"x.yaml: .*{named}"):
            images.configure(overrides, "x.yaml", record=record)
    assert images.settings == before == ImageIndex.open(images.path).settings


@pytest.mark.parametrize("kind", ["fp16", "sq8", "ivf", "rabitq", "flat"])
def test_another_shortlist_is_built_from_what_is_stored(make_index, model, tmp_path, kind, reopen):
    gallery(tmp_path / "many", 100)
    images = make_index()
    images.add(tmp_path / "many")
    before = [hit.id for hit in images.query(dots(3).pixels(), k=5)]
    work = model.extracted
    images.configure({"shortlist": {"kind": kind}}, record=True)
    assert images.info()["shortlist"] == kind
    reopened = reopen(images.path)
    assert reopened.info()["shortlist"] == kind
    assert model.extracted == work
    assert reopened.check().problems == [] and reopened.check().notes == []
    assert reopened.query(dots(3).pixels(), k=5)[0].id == before[0] == "003.png"
    assert len(reopened.query(dots(3).pixels(), k=100)) == 100


def test_auto_becomes_an_inverted_file_by_size_and_back_again(make_index, tmp_path, reopen):
    paths = gallery(tmp_path / "many", 100)
    images = make_index(shortlist={"ivf_from": 80}, store={"segment_images": 30})
    images.add(paths[:70])
    assert images.info()["shortlist"] == "fp16"
    images.add(paths)
    assert images.info()["shortlist"] == "rabitq"
    assert reopen(images.path).info()["shortlist"] == "rabitq"
    for seed in (3, 50, 99):
        assert images.query(dots(seed).pixels(), k=1)[0].id == f"{seed:03d}.png"
    images.remove([f"{seed:03d}.png" for seed in range(30)])
    assert images.info()["shortlist"] == "fp16"
    assert reopen(images.path).check().problems == []


@pytest.mark.parametrize("kind", ["fp16", "sq8", "ivf", "rabitq"])
def test_a_shortlist_that_grew_by_batches_is_as_good_as_one_built_at_once(
    make_index, tmp_path, kind
):
    gallery(tmp_path / "many", 160)
    images = make_index(
        shortlist={"kind": kind}, store={"segment_images": 8, "local_codec": "float32"}
    )
    images.add(tmp_path / "many")

    def errors() -> float:
        store = Store(images.path)
        worst = 0.0
        for seed in range(0, 160, 16):
            for hit in images.query(dots(seed).pixels(), k=5, rerank=0):
                vector = store.features(store.catalog.by_id(hit.id)).global_descriptor
                own = store.features(store.catalog.by_id(f"{seed:03d}.png")).global_descriptor
                worst = max(worst, abs(hit.similarity - float(vector @ own)))
        return worst

    grown = errors()
    images.compact()
    # What a quantised shortlist finds is measured again with the descriptors as stored.
    assert grown < 1e-5 and errors() < 1e-5


def test_an_open_index_shows_its_state_until_it_is_refreshed(make_index, photos, reopen):
    images = make_index()
    images.add(photos)
    reader = reopen(images.path)
    gallery(photos, 2, first=50)
    images.add(photos)
    images.remove(["000.png"])
    assert len(reader) == 12 and reader.query(dots(0).pixels(), k=1)[0].id == "000.png"
    reader.refresh()
    assert len(reader) == 13
    assert "000.png" not in [hit.id for hit in reader.query(dots(0).pixels(), k=20)]
    assert reader.query(dots(50).pixels(), k=1)[0].id == "050.png"


def test_removing_takes_images_out_at_once(make_index, photos, reopen):
    images = make_index()
    images.add(photos)
    assert images.remove(["003.png", "004.png", "003.png"]) == 2
    for hit in (images, reopen(images.path)):
        assert len(hit) == 10
        assert len(hit.query(dots(3).pixels(), k=50)) == 10
    assert images.remove([]) == 0


def test_removing_an_unknown_id_removes_nothing(make_index, photos):
    images = make_index()
    images.add(photos)
    with pytest.raises(UsageError, match=r"has no image 99\.png"):
        images.remove(["003.png", "99.png"])
    assert len(images) == 12


def test_a_photo_that_failed_can_be_removed(make_index, photos):
    (photos / "bad.png").write_bytes(b"")
    images = make_index()
    images.add(photos)
    assert images.remove(["bad.png"]) == 1
    assert images.failures() == {} and len(images) == 12


def test_add_query_remove_query_compact_query(make_index, photos, reopen):
    images = make_index(store={"segment_images": 4})
    images.add(photos)
    query = dots(5).pixels()
    all_hits = listed(images.query(query, k=12))
    assert all_hits[0][1] == "005.png"
    images.remove(["002.png", "009.png"])
    remaining = listed(images.query(query, k=12))
    assert [hit[1:] for hit in remaining] == [
        hit[1:] for hit in all_hits if hit[1] not in ("002.png", "009.png")
    ]
    assert images.compact() > 0
    assert listed(images.query(query, k=12)) == remaining
    assert listed(reopen(images.path).query(query, k=12)) == remaining
    images.add(photos)
    assert [hit[1:] for hit in listed(images.query(query, k=12))] == [hit[1:] for hit in all_hits]


def test_queries_repeat_in_one_process_and_in_two(make_index, photos, reopen, work):
    images = make_index()
    images.add(photos)
    moved = dots(5).moved([[0.9, -0.3, 20], [0.3, 0.9, 10]], (180, 170))
    moved.save(photos.parent / "q.png")
    first = images.query(photos.parent / "q.png")
    assert first[0].id == "005.png" and first[0].inliers > 10
    reopened = reopen(images.path)
    assert listed(images.query(photos.parent / "q.png")) == listed(first)
    assert listed(reopened.query(photos.parent / "q.png")) == listed(first)
    for _ in range(2):
        code, answer = work("query", images.path, photos.parent / "q.png")
        assert code == 0 and answer["hits"] == [hit.as_json() for hit in first]


def test_building_twice_gives_the_same_index(make_index, photos):
    hit, second = make_index("one"), make_index("other")
    for images in (hit, second):
        images.add(photos)
    assert contents(hit.path) == contents(second.path)
    assert (hit.path / "segments" / "000001.h5").read_bytes() == (
        second.path / "segments" / "000001.h5"
    ).read_bytes()


def test_an_index_can_be_moved_and_copied(make_index, photos, tmp_path, reopen):
    with make_index() as images:
        images.add(photos)
    images.path.rename(tmp_path / "moved.index")
    moved = reopen(tmp_path / "moved.index")
    assert moved.query(dots(3).pixels(), k=1)[0].id == "003.png"
    assert moved.check().problems == []


def test_a_photo_that_was_uploaded_takes_its_file_along(make_index, photos):
    images = make_index()
    images.add(photos)
    data = (photos / "003.png").read_bytes()
    for name in ("x.png", "y.png"):
        images.add_upload(name, data, Label(None, {}))
    files = images.path / "photos"
    assert len(list(files.iterdir())) == 2
    # Wherever the index lies now.
    images.close()
    moved = images.path.rename(images.path.with_name("moved.index"))
    with ImageIndex.open(moved) as reopened:
        assert reopened.remove(["x.png", "000.png"]) == 2
        assert len(list((moved / "photos").iterdir())) == 2
        reopened.compact()
        assert len(list((moved / "photos").iterdir())) == 1
        assert reopened.check().notes == []
    assert (photos / "000.png").exists()
