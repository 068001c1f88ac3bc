import math

import numpy as np
import pytest
from dots import DotModel, Dots, dots, gallery
from PIL import Image

from delg.errors import UsageError
from delg.images.decode import ImageError
from index import ImageIndex
from index.verification.geometric import transform_points

TRANSFORM = np.array([[0.8, -0.5, 70], [0.5, 0.8, 10], [0, 0, 1.0]])
SIZE = (210, 190)


def combine(*parts: Dots, size: tuple[int, int]) -> Dots:
    return Dots(
        np.concatenate([part.points for part in parts]),
        np.concatenate([part.colours for part in parts]),
        size,
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory, dot_model_folder) -> ImageIndex:
    """An index of 30 photos; only to be read."""
    folder = tmp_path_factory.mktemp("search")
    gallery(folder / "photos", 30)
    (folder / "labels.csv").write_text("id,label,year\n004.png,tower,1889\n")
    images = ImageIndex.create(folder / "my.index", str(dot_model_folder))
    images.use(DotModel(dot_model_folder))
    images.add(folder / "photos", labels=str(folder / "labels.csv"))
    return images


def test_hits_come_best_first_with_all_details(images):
    result = images.query(dots(4).moved(TRANSFORM, SIZE).pixels(), k=30)
    assert [hit.rank for hit in result] == list(range(1, 31))
    assert len({hit.id for hit in result}) == 30
    scores = [hit.score for hit in result]
    assert scores == sorted(scores, reverse=True)
    first = result[0]
    assert (first.id, first.label, first.metadata) == ("004.png", "tower", {"year": "1889"})
    assert first.path.endswith("photos/004.png") and (first.width, first.height) == (160, 120)
    assert first.verified and first.inliers > 20
    assert first.score == pytest.approx(math.log(first.probability / (1 - first.probability)))
    assert first.probability > 0.5 > result[1].probability
    assert not any(hit.verified for hit in result[1:])
    assert result[1].label is None


def test_a_result_names_the_model_and_the_time_of_each_stage(images):
    result = images.query(dots(4).moved(TRANSFORM, SIZE).pixels(), k=3)
    assert (result.model, result.orientation, result.box) == ("dots", 0, None)
    assert (result.width, result.height) == SIZE
    assert list(result.timing_ms) == ["extract", "search", "rerank"]
    assert all(value >= 0 for value in result.timing_ms.values())


def test_the_transform_maps_points_of_the_query_to_points_of_the_hit(images):
    first = images.query(dots(4).moved(TRANSFORM, SIZE).pixels(), k=1)[0]
    assert len(first.query_points) == len(first.points) == first.inliers
    mapped = transform_points(first.transform, first.query_points)
    assert np.abs(mapped - first.points).max() < 3
    np.testing.assert_allclose(first.transform, np.linalg.inv(TRANSFORM), atol=1)
    # Points of the hit are dots of that photo.
    own = {tuple(point) for point in dots(4).points.tolist()}
    assert {tuple(point) for point in first.points.astype(int).tolist()} <= own


def test_a_photo_matches_itself_by_the_identity(images):
    first = images.query(dots(7).pixels(), k=1)[0]
    assert first.id == "007.png" and first.similarity == pytest.approx(1, abs=1e-3)
    assert first.inliers == 40
    np.testing.assert_allclose(first.transform, np.eye(3), atol=1e-3)


def test_verified_photos_come_before_more_similar_ones(images):
    # Most of the query's dots are those of photo 9, but in disorder; some of photo 4 lie in order.
    shuffled = dots(9).points[np.random.default_rng(0).permutation(40)]
    some = Dots(dots(4).points[:26], dots(4).colours[:26])
    query = combine(some, Dots(shuffled, dots(9).colours), size=(160, 120)).pixels()
    result = images.query(query, k=2)
    assert [hit.id for hit in result] == ["004.png", "009.png"]
    assert result[0].verified and not result[1].verified
    assert result[0].similarity < result[1].similarity
    assert [hit.id for hit in images.query(query, k=2, rerank=0)] == ["009.png", "004.png"]
    # Reranking looks beyond the first k of the shortlist.
    assert images.query(query, k=1)[0].id == "004.png"


def test_without_reranking_the_similarity_orders_and_nothing_is_proven(images):
    result = images.query(dots(4).moved(TRANSFORM, SIZE).pixels(), k=30, rerank=0)
    assert result[0].id == "004.png"
    similarities = [hit.similarity for hit in result]
    assert similarities == sorted(similarities, reverse=True)
    for hit in result:
        assert hit.score < 0 and hit.probability < 0.5
        assert (hit.inliers, hit.verified, hit.transform) == (0, False, None)
        assert len(hit.query_points) == len(hit.points) == 0
    assert result.timing_ms["rerank"] < 1000


def test_no_more_than_rerank_candidates_are_verified(images):
    query = combine(*(dots(seed) for seed in range(5)), size=(160, 120)).pixels()
    assert sum(hit.verified for hit in images.query(query, k=30, rerank=2)) == 2
    assert sum(hit.verified for hit in images.query(query, k=30)) == 5


def test_while_nothing_is_proven_verification_goes_deeper(images, dot_model_folder):
    shuffled = dots(9).points[np.random.default_rng(0).permutation(40)]
    some = Dots(dots(4).points[:26], dots(4).colours[:26])
    query = combine(some, Dots(shuffled, dots(9).colours), size=(160, 120)).pixels()
    again = ImageIndex.open(images.path)
    again.use(DotModel(dot_model_folder))

    def first(**ranking):
        again.configure({"ranking": {"deepen": 400, "seconds": None, **ranking}})
        hit = again.query(query, k=1, rerank=1, orientations="1")[0]
        return hit.id, hit.verified

    assert first() == first(seconds=60) == ("004.png", True)
    # Also where no neighbours ask for more candidates than are verified at first.
    again.configure({"neighbours": {"method": "none"}})
    assert first() == ("004.png", True)
    assert first(deepen=0) == first(deepen=1) == ("009.png", False)
    # However many "deepen" allows, time is what limits them; here it is up at once.
    assert first(seconds=1e-6) == ("009.png", False)
    again.close()


@pytest.mark.parametrize("k", [1, 5, 29, 30, 31, 1000])
def test_there_are_k_hits_or_as_many_as_there_are_photos(images, k):
    hits = images.query(dots(4).pixels(), k=k)
    assert len(hits) == min(k, 30)
    assert [hit.id for hit in hits] == [hit.id for hit in images.query(dots(4).pixels(), k=30)][:k]


def test_a_query_without_a_match_is_ranked_by_similarity_and_not_verified(images):
    result = images.query(dots(999).pixels(), k=30)
    assert not any(hit.verified for hit in result)
    similarities = [hit.similarity for hit in result]
    assert similarities == sorted(similarities, reverse=True)
    assert result.orientation == 0


def test_a_box_searches_for_a_part_only(images):
    left, right = dots(4), dots(9)
    moved = Dots(right.points + np.array([170, 30]), right.colours)
    query = combine(left, moved, size=(340, 160)).pixels()
    both = images.query(query, k=2)
    assert {hit.id for hit in both if hit.verified} == {"004.png", "009.png"}
    result = images.query(query, k=30, box=(170, 30, 160, 120))
    assert result.box == (170, 30, 160, 120)
    assert (result.width, result.height) == (340, 160)
    assert [hit.id for hit in result if hit.verified] == ["009.png"]
    assert result[0].similarity == pytest.approx(1, abs=1e-3)
    # Points and transform are in pixels of the uncropped query.
    np.testing.assert_allclose(
        result[0].transform, [[1, 0, -170], [0, 1, -30], [0, 0, 1]], atol=0.2
    )
    assert result[0].query_points.min(axis=0).tolist() >= [170, 30]


@pytest.mark.parametrize(
    "box", [(500, 0, 10, 10), (0, 0, 0, 5), (-20, -20, 10, 10), (0, 0, float("nan"), 5)]
)
def test_a_box_without_area_in_the_photo_is_an_error(images, box):
    with pytest.raises(ImageError, match="the box"):
        images.query(dots(4).pixels(), box=box)


def test_the_query_may_be_a_path_bytes_or_pixels(images, tmp_path):
    path = dots(4).save(tmp_path / "q.png")
    for source in (path, str(path), path.read_bytes(), dots(4).pixels()):
        first = images.query(source, k=1)[0]
        assert (first.id, first.inliers) == ("004.png", 40)


@pytest.mark.parametrize(
    ("source", "reason"),
    [("nowhere.png", "no such file"), (b"", "empty"), (b"no photo", "not an image")],
)
def test_a_query_that_cannot_be_decoded_says_why(images, source, reason):
    with pytest.raises(ImageError, match=reason):
        images.query(source)


def test_a_query_without_features_has_unverified_hits(images):
    result = images.query(dots(0, count=0).pixels(), k=5)
    assert len(result) == 5 and not any(hit.verified for hit in result)


def test_the_keys_of_a_hit_as_json(images):
    first = images.query(dots(4).pixels(), k=1)[0].as_json()
    assert list(first) == [
        "rank",
        "id",
        "path",
        "label",
        "score",
        "similarity",
        "inliers",
        "probability",
        "verified",
        "transform",
        "mark",
        "region",
        "source_url",
        "iiif",
    ]
    assert np.array(first["transform"]).shape == (3, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k": 0}, "k=0: must be 1 or more"),
        ({"k": -3}, "k=-3: must be 1 or more"),
        ({"k": 2.5}, r"k=2\.5: must be a whole number"),
        ({"rerank": -1}, "rerank=-1: must be 0 or more"),
        ({"orientations": 3}, "orientations=3: must be one of auto, 1, 4"),
        ({"orientations": True}, "orientations=True"),
        ({"box": (1, 2, 3)}, r"box \(1, 2, 3\): must be \(x, y, width, height\)"),
        ({"box": "1,2,3,4"}, "must be"),
    ],
)
def test_parameters_out_of_range_are_refused(real_index, real_photos, values, message):
    with pytest.raises(UsageError, match=message):
        real_index.query(real_photos / "cat.jpg", **values)


def test_numbers_are_accepted_in_any_type_and_photos_in_any_form(real_index, real_photos):
    path = real_photos / "cat.jpg"
    with Image.open(path) as photo:
        hits = real_index.query(photo, k=np.int64(2), rerank=np.int32(3), orientations=4)
    text = real_index.query(bytearray(path.read_bytes()), k=2, rerank=3, orientations="4")
    assert [hit.as_json() for hit in hits] == [hit.as_json() for hit in text]
    assert len(hits) == 2 and hits[0].id == "cat.jpg"
