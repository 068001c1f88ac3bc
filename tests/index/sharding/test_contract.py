"""The same calls on one index, on several shards in one process, and on Ray give the same."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from dots import DotModel, Dots, dots

from delg.errors import UsageError
from index import ImageIndex
from index.collection.columns import Filter
from index.sharding.sharded_index import ShardedIndex

# Processes of Ray start slowly where others use the machine too.
pytestmark = pytest.mark.timeout(1200)
TURN = np.array([[0.8, -0.5, 70], [0.5, 0.8, 10], [0, 0, 1.0]])


def some_of(number: int, count: int) -> Dots:
    whole = dots(number)
    return Dots(whole.points[:count], whole.colours[:count])


QUERIES = {
    "as it is": dots(3).pixels(),
    "moved": dots(4).moved(TURN, (210, 190)).pixels(),
    "on its side": np.ascontiguousarray(np.rot90(dots(5).pixels())),
    "five times the same": dots(50).pixels(),
    "few dots": some_of(7, 11).pixels(),
    "a stranger": dots(999).pixels(),
}
OPTIONS = [
    {},
    {"k": 40},
    {"k": 3, "rerank": 0},
    {"rerank": 2, "orientations": "4"},
    {"box": (10, 10, 100, 80), "orientations": "1"},
    {"where": ["label=tower", "room=1"], "k": 40},
]


@pytest.fixture(scope="module", params=["several", "ray"])
def sharded(request, several, words_model) -> ImageIndex:
    """Shards in this process, and on a cluster."""
    if request.param == "several":
        return several
    images = ShardedIndex.open(several.path, ray=request.getfixturevalue("ray_address"))
    images.share_model(partial(DotModel, words_model))
    request.addfinalizer(images.close)
    return images


def plain(result):
    """Hits as values that can be compared."""
    return [
        {**vars(hit), "transform": hit.transform is not None and hit.transform.tolist(),
         "query_points": hit.query_points.tolist(), "points": hit.points.tolist()}
        for hit in result
    ]  # fmt: skip


@pytest.mark.parametrize("name", QUERIES)
def test_queries(one, sharded, name):
    for options in OPTIONS:
        assert plain(sharded.query(QUERIES[name], **options)) == plain(
            one.query(QUERIES[name], **options)
        ), options
        assert not sharded.query(QUERIES[name], **options).partial


def test_rankings_and_images_left_out(one, sharded):
    for query in QUERIES.values():
        without = one.search(query).ranking(3).ids
        for options in ({}, {"rerank": 5, "without": without}, {"rerank": 0}):
            expected, actual = (images.search(query).ranking(99, **options)
                                for images in (one, sharded))  # fmt: skip
            assert actual.ids == expected.ids
            np.testing.assert_array_equal(actual.scores, expected.scores)
            np.testing.assert_array_equal(actual.inliers, expected.inliers)


def test_stored_features_as_a_query(one, sharded):
    features = sharded.features("007.png")
    np.testing.assert_array_equal(
        features.local.descriptors, one.features("007.png").local.descriptors
    )
    assert plain(sharded.query_features(features, 9)) == plain(one.query_features(features, 9))


def test_what_the_index_says_of_itself(one, sharded):
    assert len(sharded) == len(one) == 35
    assert sharded.ids() == sorted(one.ids())
    assert sharded.paths(["003.png", "none.png"]) == one.paths(["003.png", "none.png"])
    assert sharded.image("004.png").sha256 == one.image("004.png").sha256
    assert sharded.image("none.png") is None
    assert sharded.failures() == one.failures() and sharded.failures().keys() == {"broken.png"}
    assert sharded.counts() == one.counts()
    assert sharded.facets(["room=1"]) == one.facets(["room=1"])
    assert sharded.missing() == one.missing()
    for offset in (0, 10):
        pages = [images.browse(Filter(label="tower"), 5, offset) for images in (one, sharded)]
        assert [row.id for row in pages[0].images] == [row.id for row in pages[1].images]
        assert pages[0].total == pages[1].total == 12
    info, expected = sharded.info(), one.info()
    for key in ("model", "fingerprint", "images", "failed", "vocabulary", "settings"):
        assert info[key] == expected[key]
    assert info["shards"] == 2 and info["missing_shards"] == 0
    assert sharded.check().problems == []


def test_settings_are_replaced_in_all_shards(one, several, words_model):
    query, overrides = QUERIES["moved"], {"local_shortlist": {"weight": 0.0}}
    expected, sharded = ImageIndex.open(one.path), ShardedIndex.open(several.path)
    for images in (expected, sharded):
        images.use(DotModel(words_model))
        images.configure(overrides)
    assert sharded.settings == expected.settings
    assert plain(sharded.query(query, 20)) == plain(expected.query(query, 20))
    with pytest.raises(UsageError, match="store is fixed"):
        sharded.configure({"store": {"max_features": 3}})


def test_what_only_one_index_can_do_is_said(sharded, tmp_path):
    for refused in (
        lambda: sharded.duplicates(),
        lambda: sharded.groups(),
        lambda: sharded.pairs(),
        lambda: sharded.adapt("folders"),
        lambda: sharded.tune(),
        lambda: sharded.export(tmp_path / "out.h5", "hdf5"),
        lambda: sharded.import_from([tmp_path / "in.h5"]),
        lambda: sharded.create_like(tmp_path / "other"),
    ):
        with pytest.raises(UsageError, match="a sharded index cannot"):
            refused()


def test_shards_are_searched_beside_another_index(one, sharded, tmp_path, words_model):
    other = ImageIndex.create(tmp_path / "other.index", str(words_model))
    other.use(DotModel(words_model))
    dots(4).moved(TURN, (210, 190)).save(tmp_path / "more" / "another.png")
    other.add(tmp_path / "more")
    ids = [images.search(QUERIES["moved"], others=[other]).ranking(9).ids
           for images in (one, sharded)]  # fmt: skip
    assert ids[0] == ids[1] and ids[0][0] == "another.png"
