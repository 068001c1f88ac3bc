import json
from unittest.mock import patch

import numpy as np
import pytest

from delg.errors import UsageError
from delg.types import ImageFeatures, LocalFeatures
from index import ImageIndex
from index.feature_spec import FeatureSpec
from index.learn.tune import tune
from index.storage.catalog_tables import ImageRow
from index.storage.store import Store

DIM, COUNT = 24, 2400


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An index of synthetic photos of 120 things, on which inverted lists miss something."""
    folder = tmp_path_factory.mktemp("tune") / "i"
    ImageIndex.create_for_features(folder, FeatureSpec("made-up", DIM, 8, False)).close()
    random = np.random.default_rng(0)
    vectors = random.normal(size=(120, DIM))[random.integers(120, size=COUNT)]
    vectors += 0.7 * random.normal(size=vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    local = LocalFeatures.empty(8)
    features = [ImageFeatures(v.astype(np.float32), local, 64, 48) for v in vectors]
    rows = [ImageRow(f"{n}.jpg", f"/{n}.jpg", 1, 1, "", width=64, height=48) for n in range(COUNT)]
    store = Store(folder)
    with store.lock():
        store.commit(rows, features)
        store.save_ann_index()
    store.close()
    return folder


@pytest.fixture(scope="module")
def tuning(folder):
    store = Store(folder)
    yield tune(store, recall=0.95, queries=40, depth=20)
    store.close()


def test_recall_is_that_of_an_exhaustive_search_without_the_photo_itself(folder, tuning):
    store = Store(folder)
    rows = store.searchable()
    vectors = store.global_descriptors(rows)
    point = next(p for p in tuning.points if p.kind == "rabitq" and 0 < p.recall < 1)
    store.override({"shortlist": point.settings}, "test")
    store.rebuild_ann_index()
    recalls = []
    for row in np.sort(np.random.default_rng(0).choice(rows, 40, replace=False)):
        place = int(np.flatnonzero(rows == row)[0])
        similarities = vectors @ vectors[place]
        similarities[place] = -2
        nearest = set(rows[np.argsort(-similarities)[:20]].tolist())
        answers, _ = store.nearest(vectors[place], 401)
        recalls.append(len(nearest & set(answers.tolist())) / 20)
    store.close()
    # Which centres k-means finds differs a little from one training to the next.
    assert point.recall == pytest.approx(np.mean(recalls), abs=0.02)


def test_more_probes_find_more_and_stop_where_they_suffice(tuning):
    assert (tuning.queries, tuning.depth) == (40, 20)
    exact, *others = tuning.points
    assert (exact.kind, exact.recall) == ("fp16", 1.0)
    assert exact.bytes_per_image == 2 * DIM + 8
    by_build = {}
    for point in others:
        by_build.setdefault((point.kind, point.nlist, point.refine_factor), []).append(point)
    assert {kind for kind, _, _ in by_build} == {"rabitq", "ivf"}
    for (kind, _, _), points in by_build.items():
        recalls = [point.recall for point in points]
        # More lists also hold more photos that one bit per component takes for near.
        assert recalls == sorted(recalls) or kind == "rabitq"
        assert [point.nprobe for point in points] == sorted({point.nprobe for point in points})
        assert all(recall < 0.95 for recall in recalls[:-1])


def test_the_fastest_that_finds_enough_is_chosen(tuning):
    good = [point for point in tuning.points if point.recall >= 0.95]
    fastest = min(point.milliseconds for point in good)
    assert tuning.chosen in good
    assert tuning.chosen.milliseconds <= 1.2 * fastest


def test_what_nothing_but_exhaustive_search_reaches_is_searched_exhaustively(folder):
    store = Store(folder)
    chosen = tune(store, recall=1.0, queries=5, depth=40).chosen
    store.close()
    assert chosen.recall == 1.0


def test_measuring_changes_nothing_and_configuring_does(folder, tuning, run):
    with ImageIndex.open(folder) as images:
        before = images.settings
        assert before.shortlist.kind == "auto"
    words = ("index", "tune", "--index", folder, "--queries", 20, "--depth", 5, "--json")
    done = run(*words, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["recorded"] is False
    with ImageIndex.open(folder) as images:
        assert images.settings == before
    done = run(*words, "--recall", 0.9)
    chosen = json.loads(done.stdout)["chosen"]
    with ImageIndex.open(folder) as images:
        assert images.settings.shortlist.kind == chosen["kind"]
        assert images.settings.shortlist.nprobe == chosen["nprobe"]
        assert images.info()["shortlist"] == chosen["kind"]


def test_few_photos_are_searched_exhaustively(make_index, photos):
    images = make_index()
    with pytest.raises(UsageError, match="too few photos"):
        images.tune()
    images.add(photos)
    tuning = images.tune(queries=5)
    assert [point.kind for point in tuning.points] == ["fp16"]
    assert (tuning.chosen.recall, tuning.depth) == (1.0, 11)


def test_a_measurement_that_fails_lets_go_of_the_index(make_index, photos):
    images = make_index()
    images.add(photos)
    with (
        patch.object(Store, "rebuild_ann_index", side_effect=MemoryError),
        patch.object(Store, "close") as close,
        pytest.raises(MemoryError),
    ):
        images.tune()
    close.assert_called_once()
