"""An index whose features are compact: encoded by a codebook, and that the codes stay."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from delg.settings import parse
from delg.types import ImageFeatures, LocalFeatures
from index import ImageIndex, IndexSettings
from index.feature_spec import FeatureSpec
from index.storage.catalog_tables import ImageRow
from index.storage.maintenance import check, compact
from index.storage.product_quantizer import MIN_TRAINING_VECTORS, ProductQuantizer
from index.storage.store import Store

SIZE = (640, 480)
KEPT = 450
ENOUGH = -(-MIN_TRAINING_VECTORS // KEPT)


def photo(seed: int, count: int = 600) -> ImageFeatures:
    rng = np.random.default_rng(seed)

    def unit(*shape: int) -> np.ndarray:
        features = rng.normal(size=shape)
        return (features / np.linalg.norm(features, axis=-1, keepdims=True)).astype(np.float32)

    local = LocalFeatures(
        rng.uniform((0, 0), SIZE, (count, 2)).astype(np.float32), unit(count, 24),
        rng.choice(np.float32([0.5, 1]), count), rng.uniform(1, 9, count).astype(np.float32),
    )  # fmt: skip
    return ImageFeatures(unit(64), local, *SIZE)


@pytest.fixture(scope="module")
def codebook() -> ProductQuantizer:
    photos = [photo(seed) for seed in range(100, 100 + ENOUGH)]
    return ProductQuantizer.train(np.concatenate([p.local.descriptors for p in photos]))


@pytest.fixture
def make_store(tmp_path, codebook) -> Callable[..., Store]:
    def make(coded: bool = True, **store: object) -> Store:
        settings = parse(IndexSettings, {"store": {"max_features": KEPT, **store}}, "test")
        kind = FeatureSpec("made-up", 64, 24, aggregated=False)
        ImageIndex.create_for_features(tmp_path / "my.index", kind, settings).close()
        made = Store(tmp_path / "my.index")
        if coded:
            made.set_codebook(codebook)
        return made

    return make


def put(store: Store, seeds: range, count: int = 600) -> None:
    rows = [ImageRow(f"{seed:03d}", "", 0, 0, "", width=SIZE[0], height=SIZE[1]) for seed in seeds]
    with store.lock():
        store.commit(rows, [photo(seed, count) for seed in seeds])


def stored(store: Store) -> dict[str, bytes]:
    features = {row.id: store.features(row).local for row in store.catalog.images()}
    return {
        name: b"".join(p.tobytes() for p in (f.keypoints, f.descriptors, f.scales, f.scores))
        for name, f in features.items()
    }


def kinds(store: Store) -> list[bool]:
    return [segment.quantizer is not None for segment in store.segments.values()]


def bytes_on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.h5"))


def test_all_photos_are_encoded_once_there_is_a_codebook(make_store, codebook):
    store = make_store(coded=False)
    put(store, range(ENOUGH))
    assert kinds(store) == [False] and store.codebook is None
    store.set_codebook(codebook)
    put(store, range(ENOUGH, ENOUGH + 1))
    assert kinds(store) == [False, True]
    assert list(store.segments.values())[-1].quantizer.is_same(codebook)
    assert Store(store.folder).codebook.is_same(codebook)
    assert not check(store).problems


def test_an_index_of_before_goes_on_with_its_own_codes(make_store, codebook):
    store = make_store()
    put(store, range(1))
    with store.catalog.write() as db:
        db.execute("DELETE FROM meta WHERE key = 'codebook'")
    store = Store(store.folder)
    put(store, range(1, 2))
    assert kinds(store) == [True, True] and store.codebook.is_same(codebook)


def test_segments_with_the_same_codes_share_them(make_store):
    store = make_store()
    for seed in range(3):
        put(store, range(seed, seed + 1))
    reopened = Store(store.folder)
    assert len(reopened.segments.quantizers) == 1
    assert reopened.codebook is reopened.segments.quantizers[0]
    assert stored(reopened) == stored(store)


def test_compacting_packs_what_came_before_the_codes_and_then_changes_nothing(make_store, codebook):
    store = make_store(coded=False)
    put(store, range(2))
    store.set_codebook(codebook)
    put(store, range(2, ENOUGH))
    before = bytes_on_disk(store.folder)
    with store.lock():
        compact(store)
    assert kinds(store) == [True] and bytes_on_disk(store.folder) < before
    first = stored(store)
    for seed in range(3):
        with store.lock():
            store.remove([f"{seed:03d}"])
            compact(store)
        del first[f"{seed:03d}"]
        assert stored(store) == first
    assert not check(store).problems


def test_the_best_features_are_kept_and_few_bytes_of_each(make_store):
    store = make_store()
    put(store, range(ENOUGH * 4))
    local = store.features(store.catalog.by_id("001")).local
    assert len(local) == KEPT
    exact = photo(1).local
    assert np.median(local.scores) > np.median(exact.scores)
    assert bytes_on_disk(store.folder) / (ENOUGH * 4) < 12_000


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"max_features": 500}, 500),
        ({"max_features": 0}, 0),
        ({"local_codec": "float32", "max_features": None}, 600),
        ({"local_codec": "int8", "max_features": 10}, 10),
    ],
)
def test_how_many_features_are_kept_can_be_set(make_store, options, count):
    store = make_store(**options)
    put(store, range(ENOUGH))
    assert len(store.features(store.catalog.by_id("003")).local) == count


def test_float32_keeps_all_as_it_was(make_store):
    store = make_store(local_codec="float32", max_features=None)
    put(store, range(ENOUGH))
    features, exact = store.features(store.catalog.by_id("003")), photo(3)
    for part in ("keypoints", "descriptors", "scales", "scores"):
        np.testing.assert_array_equal(getattr(features.local, part), getattr(exact.local, part))
    np.testing.assert_array_equal(features.global_descriptor, exact.global_descriptor)


def test_a_photo_is_found_among_compact_and_older_segments(make_store, codebook):
    store = make_store(coded=False)
    put(store, range(2))
    store.set_codebook(codebook)
    put(store, range(2, ENOUGH))
    store.save_ann_index()
    with ImageIndex.open(store.folder) as images:
        for seed in (1, 5):
            query = photo(seed)
            moved = replace(query.local, keypoints=query.local.keypoints * 0.5 + 30)
            hit = images.query_features(replace(query, local=moved), k=1)[0]
            assert hit.id == f"{seed:03d}" and hit.verified and hit.inliers > 200
            np.testing.assert_allclose(hit.transform[:2, :2], np.eye(2) * 2, atol=0.02)
