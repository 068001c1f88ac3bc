"""Several photos as one query, photos of what it is not, and more like a photo of the index."""

from __future__ import annotations

import numpy as np
import pytest
from dots import Dots, dots, gallery

from delg.errors import UsageError
from delg.types import Failure


@pytest.fixture
def images(make_index, tmp_path):
    gallery(tmp_path / "photos", 20)
    images = make_index()
    images.add(tmp_path / "photos")
    return images


def together(*seeds: int) -> np.ndarray:
    """One photo with the dots of several."""
    parts = [dots(seed) for seed in seeds]
    return Dots(
        np.concatenate([part.points for part in parts]),
        np.concatenate([part.colours for part in parts]),
    ).pixels()


def test_each_photo_finds_its_own_and_all_are_one_result(images):
    result = images.query_together([dots(3).pixels(), dots(7).pixels()], k=5)
    assert {hit.id for hit in result[:2]} == {"003.png", "007.png"} and len(result) == 5
    assert {hit.id: hit.photo for hit in result[:2]} == {"003.png": 0, "007.png": 1}
    assert all(hit.verified for hit in result[:2]) and not result[2].verified
    assert [hit.rank for hit in result] == [1, 2, 3, 4, 5]
    assert [hit["photo"] for hit in result.as_json("q", "i")["hits"]] == [
        hit.photo for hit in result
    ]
    alone = images.query(dots(3).pixels())
    assert "photo" not in alone.as_json("q", "i")["hits"][0]
    assert images.query_together([dots(3).pixels()], k=3)[0].score == alone[0].score


def test_what_a_photo_of_another_thing_is_verified_with_is_no_answer(images):
    both = together(3, 7)
    assert {hit.id for hit in images.query(both) if hit.verified} == {"003.png", "007.png"}
    result = images.query_together([both], [dots(7).pixels()], k=20)
    assert [hit.id for hit in result if hit.verified] == ["003.png"]
    probability = {hit.id: hit.probability for hit in result}
    assert probability["007.png"] <= 0.5 < probability["003.png"]
    assert [
        hit.id for hit in images.query_together([both], [dots(7).pixels()], verified_only=True)
    ] == ["003.png"]


def test_features_and_photos_may_be_mixed_and_none_is_wrong(images):
    result = images.query_together(
        [images.features("003.png"), dots(7).pixels()], without=["003.png"]
    )
    assert result[0].id == "007.png" and "003.png" not in {hit.id for hit in result}
    with pytest.raises(UsageError, match="at least one"):
        images.query_together([])


def test_more_like_a_photo_of_the_index_is_not_that_photo(images, tmp_path):
    dots(3).save(tmp_path / "more" / "again.png")
    images.add(tmp_path / "more")
    result = images.more_like("003.png", k=3)
    assert result[0].id == "again.png" and result[0].verified and len(result) == 3
    with pytest.raises(UsageError, match="no image"):
        images.more_like("nothing")


def test_a_list_of_queries_gives_a_list_of_results(images, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no photo")
    first, failed, third = images.query_many([dots(3).pixels(), bad, dots(7).pixels()], k=1)
    assert [first[0].id, third[0].id] == ["003.png", "007.png"]
    assert isinstance(failed, Failure) and failed.path == str(bad)
