"""One query ranked in several ways: other photos left out, several indexes, work remembered."""

import numpy as np
import pytest
from dots import DotModel, Dots, dots, gallery

from delg.errors import ModelError
from index import ImageIndex
from index.results import Ranking

TURNED = np.array([[0.8, -0.5, 70], [0.5, 0.8, 10], [0, 0, 1.0]])
QUERY = dots(4).moved(TURNED, (210, 190)).pixels()
# As many dots as a photo has, of nothing that is in any index.
STRANGER = dots(999).pixels()
WAYS = [
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
    folder = tmp_path_factory.mktemp("without")
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


# --- A ranking is the hits in few words ---


@pytest.mark.parametrize("query", [QUERY, STRANGER], ids=["known", "stranger"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_ranking_agrees_with_the_hits(images, query, way):
    hits = images.search(query).hits(12, **way)
    ranking = images.search(query).ranking(12, **way)
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


# --- Photos left out ---


def test_what_is_left_out_is_no_candidate(images):
    search = images.search(QUERY)
    assert search.ranking(20).ids[0] == "004.png"
    ranking = search.ranking(20, without=["004.png"])
    assert set(ranking.ids) == set(images.ids()) - {"004.png"}
    assert not ranking.verified.any()


def test_what_is_left_out_makes_room_for_as_many_others(images):
    search = images.search(QUERY)
    whole = search.ranking(20, rerank=0).ids
    assert search.ranking(5, rerank=0, without=whole[:3]).ids == whole[3:8]


def test_what_is_left_out_takes_no_place_among_those_verified(images):
    together = Dots(
        np.concatenate([dots(seed).points for seed in (1, 2, 3)]),
        np.concatenate([dots(seed).colours for seed in (1, 2, 3)]),
    ).pixels()
    search = images.search(together)
    first, second, third = search.ranking(3, rerank=0).ids
    for without, proven in (((), first), ((first,), second), ((first, second), third)):
        ranking = search.ranking(20, rerank=1, without=without)
        assert [one for one, sure in zip(ranking.ids, ranking.verified, strict=True) if sure] == [
            proven
        ]


def test_leaving_photos_out_changes_nothing_of_the_others(images):
    search = images.search(STRANGER)
    whole = plain(search.ranking(20, rerank=20))
    out = {whole[0][0], whole[7][0]}
    rest = [one for one in whole if one[0] not in out]
    assert plain(search.ranking(20, rerank=20, without=out)) == rest


def test_ids_that_are_not_there_may_be_left_out(images):
    search = images.search(QUERY)
    assert plain(search.ranking(5, without=["nowhere.png", ""])) == plain(search.ranking(5))


def test_everything_may_be_left_out(images):
    search = images.search(QUERY)
    assert search.ranking(5, without=images.ids()).ids == ()
    assert len(search.hits(5, without=images.ids())) == 0


# --- Work that is remembered ---


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
    compared = []
    from index.search import rerank as module

    real = module.verify_pair
    monkeypatch.setattr(
        module, "verify_pair", lambda *a, **k: (compared.append(a[1]), real(*a, **k))[1]
    )
    search = counted.search(QUERY)
    search.ranking(10, rerank=5, orientations="1")
    assert len(compared) == 5
    search.ranking(10, rerank=5, orientations="1")
    assert len(compared) == 5
    search.ranking(10, rerank=8, orientations="1")
    assert len(compared) == 8


@pytest.mark.parametrize("query", [QUERY, STRANGER], ids=["known", "stranger"])
def test_what_is_remembered_changes_no_ranking(images, query):
    search = images.search(query)
    for way in (*WAYS, *reversed(WAYS)):
        assert plain(search.ranking(12, **way)) == plain(images.search(query).ranking(12, **way))


def test_fewer_candidates_later_are_verified_no_further(images):
    search = images.search(STRANGER)
    search.ranking(20, rerank=20, orientations="1")
    ranking = search.ranking(20, rerank=0)
    assert not ranking.inliers.any() and not ranking.verified.any()


# --- Several indexes ---


@pytest.fixture
def split(tmp_path, make_index) -> tuple[ImageIndex, ImageIndex, ImageIndex]:
    """Twelve photos in one index, and the same in two: the even ones, the odd ones."""
    paths = gallery(tmp_path / "all", 12)
    whole, even, odd = (make_index(f"{name}.index") for name in ("whole", "even", "odd"))
    whole.add(paths)
    even.add(paths[::2])
    odd.add(paths[1::2])
    return whole, even, odd


@pytest.mark.parametrize("seed", [4, 7, 999])
@pytest.mark.parametrize("rerank", [0, 3, 100])
def test_two_indexes_rank_as_one_that_holds_all_photos(split, seed, rerank):
    whole, even, odd = split
    query = dots(seed).moved(TURNED, (210, 190)).pixels()
    expected = plain(whole.search(query).ranking(12, rerank))
    for first, other in ((even, odd), (odd, even)):
        assert plain(first.search(query, others=[other]).ranking(12, rerank)) == expected


def test_hits_of_another_index_are_as_complete_as_ones_own(split):
    whole, even, odd = split
    query = dots(7).moved(TURNED, (210, 190)).pixels()
    (mine,) = whole.search(query).hits(1)
    (hit,) = even.search(query, others=[odd]).hits(1)
    assert (hit.id, hit.path, hit.score) == ("007.png", mine.path, mine.score)
    np.testing.assert_array_equal(hit.points, mine.points)


def test_photos_are_left_out_of_every_index(split):
    _, even, odd = split
    out = ["004.png", "007.png"]
    ranking = even.search(QUERY, others=[odd]).ranking(12, without=out)
    assert len(ranking.ids) == 10 and not set(out) & set(ranking.ids)


def test_equal_photos_come_in_the_order_of_the_indexes_every_time(tmp_path, make_index):
    first, second = make_index("first.index"), make_index("second.index")
    dots(4).save(tmp_path / "4.png")
    for images, prefixes in ((first, ("z/", "y/")), (second, ("b/", "a/"))):
        for prefix in prefixes:
            images.add(tmp_path / "4.png", prefix=prefix)
    for way in ({}, {"rerank": 0}, {"orientations": "4"}):
        # Within an index those come first that were added first.
        ahead = first.search(QUERY, others=[second]).ranking(9, **way).ids
        assert ahead == ("z/4.png", "y/4.png", "b/4.png", "a/4.png")
        behind = second.search(QUERY, others=[first]).ranking(9, **way).ids
        assert behind == ("b/4.png", "a/4.png", "z/4.png", "y/4.png")


def test_an_index_of_another_model_cannot_join(tmp_path, images):
    ImageIndex.create(tmp_path / "sift.index", "sift").close()
    with pytest.raises(ModelError, match=r"sift\.index was made by model sift"):
        images.search(QUERY, others=[ImageIndex.open(tmp_path / "sift.index")])
