"""One query ranked in several ways: with images left out, in several indexes, with cached work."""

import numpy as np
import pytest
from dots import DotModel, Dots, dots, gallery

from delg.errors import ModelError
from index import ImageIndex
from index.results import Ranking
from index.search import requests
from index.verification import pair

TRANSFORM = np.array([[0.8, -0.5, 70], [0.5, 0.8, 10], [0, 0, 1.0]])
QUERY = dots(4).moved(TRANSFORM, (210, 190)).pixels()
# As many dots as a photo has, of no photo in any index.
UNKNOWN = dots(999).pixels()
OPTIONS = [
    {},
    {"rerank": 0},
    {"rerank": 3},
    {"orientations": "4"},
    {"orientations": "1", "rerank": 5},
    {"without": ["004.png", "007.png"]},
]


@pytest.fixture(scope="module")
def images(tmp_path_factory, dot_model_folder) -> ImageIndex:
    """An index of 20 photos; only to be read."""
    folder = tmp_path_factory.mktemp("ranking")
    gallery(folder / "photos", 20)
    images = ImageIndex.create(folder / "my.index", str(dot_model_folder))
    images.use(DotModel(dot_model_folder))
    images.add(folder / "photos")
    return images


@pytest.fixture
def counted(images, model) -> ImageIndex:
    """The same index with a model that has not worked yet."""
    again = ImageIndex.open(images.path)
    again.use(model)
    return again


def plain(ranking: Ranking) -> list[tuple]:
    parts = (ranking.scores, ranking.inliers, ranking.verified)
    return list(zip(ranking.ids, *(part.tolist() for part in parts), strict=True))


# --- A ranking is the hits without their details ---


@pytest.mark.parametrize("query", [QUERY, UNKNOWN], ids=["known", "unknown"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_ranking_agrees_with_the_hits(images, query, options):
    hits = images.search(query).hits(12, **options)
    ranking = images.search(query).ranking(12, **options)
    assert plain(ranking) == [
        (hit.id, np.float32(hit.score), hit.inliers, hit.verified) for hit in hits
    ]
    assert (ranking.scores.dtype, ranking.inliers.dtype, ranking.verified.dtype) == (
        np.float32,
        np.int32,
        bool,
    )


def test_an_empty_index_gives_an_empty_ranking(make_index):
    ranking = make_index("empty.index").search(QUERY).ranking(10)
    assert ranking.ids == () and len(ranking.scores) == len(ranking.verified) == 0


# --- Images left out ---


def test_an_image_left_out_is_no_candidate(images):
    search = images.search(QUERY)
    assert search.ranking(20).ids[0] == "004.png"
    ranking = search.ranking(20, without=["004.png"])
    assert set(ranking.ids) == set(images.ids()) - {"004.png"}
    assert not ranking.verified.any()


def test_images_left_out_make_room_for_as_many_others(images):
    search = images.search(QUERY)
    ids = search.ranking(20, rerank=0).ids
    assert search.ranking(5, rerank=0, without=ids[:3]).ids == ids[3:8]


def test_images_left_out_take_no_place_among_the_verified(images):
    together = Dots(
        np.concatenate([dots(seed).points for seed in (1, 2, 3)]),
        np.concatenate([dots(seed).colours for seed in (1, 2, 3)]),
    ).pixels()
    search = images.search(together)
    first, second, third = search.ranking(3, rerank=0).ids
    for without, expected in (((), first), ((first,), second), ((first, second), third)):
        ranking = search.ranking(20, rerank=1, without=without)
        verified = np.array(ranking.ids)[ranking.verified]
        assert verified.tolist() == [expected]


def test_leaving_images_out_changes_nothing_of_the_others(images):
    search = images.search(UNKNOWN)
    rows = plain(search.ranking(20, rerank=20))
    without = {rows[0][0], rows[7][0]}
    remaining = [row for row in rows if row[0] not in without]
    assert plain(search.ranking(20, rerank=20, without=without)) == remaining


def test_ids_that_are_not_there_may_be_left_out(images):
    search = images.search(QUERY)
    assert plain(search.ranking(5, without=["nowhere.png", ""])) == plain(search.ranking(5))


def test_everything_may_be_left_out(images):
    search = images.search(QUERY)
    assert search.ranking(5, without=images.ids()).ids == ()
    assert len(search.hits(5, without=images.ids())) == 0


# --- Cached work ---


def test_ranking_again_extracts_nothing(counted, model):
    search = counted.search(QUERY)
    for without in ((), ("007.png",), ("001.png", "002.png")):
        assert search.ranking(10, without=without).ids[0] == "004.png"
    assert model.extracted == 1


def test_each_orientation_is_extracted_once(counted, model):
    search = counted.search(QUERY)
    for _ in range(3):
        search.ranking(10, orientations="4")
    assert model.extracted == 4
    search.hits(10, orientations="1")
    assert model.extracted == 4


def test_each_photo_is_verified_once(counted, monkeypatch):
    verified = []

    def verify_pair(*arguments):
        verified.append(arguments)
        return pair.verify_pair(*arguments)

    monkeypatch.setattr(requests, "verify_pair", verify_pair)
    search = counted.search(QUERY)
    search.ranking(10, rerank=5, orientations="1")
    assert len(verified) == 5
    search.ranking(10, rerank=5, orientations="1")
    assert len(verified) == 5
    search.ranking(10, rerank=8, orientations="1")
    assert len(verified) == 8


@pytest.mark.parametrize("query", [QUERY, UNKNOWN], ids=["known", "unknown"])
def test_cached_work_changes_no_ranking(images, query):
    search = images.search(query)
    for options in (*OPTIONS, *reversed(OPTIONS)):
        assert plain(search.ranking(12, **options)) == plain(
            images.search(query).ranking(12, **options)
        )


def test_fewer_candidates_later_are_verified_no_further(images):
    search = images.search(UNKNOWN)
    search.ranking(20, rerank=20, orientations="1")
    ranking = search.ranking(20, rerank=0)
    assert not ranking.inliers.any() and not ranking.verified.any()


# --- Several indexes ---


@pytest.fixture(scope="module")
def split(tmp_path_factory, dot_model_folder) -> list[ImageIndex]:
    """An index of twelve photos, one of the even ones and one of the odd ones; only to be read."""
    folder, parts = tmp_path_factory.mktemp("split"), []
    paths = gallery(folder / "photos", 12)
    for name, members in (("all", paths), ("even", paths[::2]), ("odd", paths[1::2])):
        images = ImageIndex.create(folder / f"{name}.index", str(dot_model_folder))
        images.use(DotModel(dot_model_folder))
        images.add(members)
        parts.append(images)
    return parts


@pytest.mark.parametrize("seed", [4, 7, 999])
@pytest.mark.parametrize("rerank", [0, 3, 100])
def test_two_indexes_rank_as_one_index_of_all_photos(split, seed, rerank):
    all_images, even, odd = split
    query = dots(seed).moved(TRANSFORM, (210, 190)).pixels()
    expected = plain(all_images.search(query).ranking(12, rerank))
    for first, other in ((even, odd), (odd, even)):
        assert plain(first.search(query, others=[other]).ranking(12, rerank)) == expected


def test_hits_of_another_index_are_as_complete(split):
    all_images, even, odd = split
    query = dots(7).moved(TRANSFORM, (210, 190)).pixels()
    (expected,) = all_images.search(query).hits(1)
    (hit,) = even.search(query, others=[odd]).hits(1)
    assert (hit.id, hit.path, hit.score) == ("007.png", expected.path, expected.score)
    np.testing.assert_array_equal(hit.points, expected.points)


def test_images_are_left_out_of_every_index(split):
    _, even, odd = split
    without = ["004.png", "007.png"]
    ranking = even.search(QUERY, others=[odd]).ranking(12, without=without)
    assert len(ranking.ids) == 10 and not set(without) & set(ranking.ids)


def test_equal_photos_come_in_the_order_of_addition_every_time(tmp_path, make_index):
    first, second = make_index("first.index"), make_index("second.index")
    dots(4).save(tmp_path / "4.png")
    for images, prefixes in ((first, ("z/", "y/")), (second, ("b/", "a/"))):
        for prefix in prefixes:
            images.add(tmp_path / "4.png", prefix=prefix)
    for options in ({}, {"rerank": 0}, {"orientations": "4"}):
        # By row number; of equal ones the first index leads.
        ahead = first.search(QUERY, others=[second]).ranking(9, **options).ids
        assert ahead == ("z/4.png", "b/4.png", "y/4.png", "a/4.png")
        behind = second.search(QUERY, others=[first]).ranking(9, **options).ids
        assert behind == ("b/4.png", "z/4.png", "a/4.png", "y/4.png")


def test_an_index_of_another_model_cannot_join(tmp_path, images):
    ImageIndex.create(tmp_path / "sift.index", "sift").close()
    with pytest.raises(ModelError, match=r"sift\.index was made by model sift"):
        images.search(QUERY, others=[ImageIndex.open(tmp_path / "sift.index")])
