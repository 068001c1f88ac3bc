"""The whole way with the default model and real photos: those that come with scikit-image."""

import cv2
import numpy as np
import pytest

from delg.images.decode import decode
from index import ImageIndex, IndexSettings
from index.verification.geometric import transform_points
from index.verification.match_photos import match_photos


def photo(real_photos, name: str) -> np.ndarray:
    return decode(real_photos / f"{name}.jpg")


def check_transform(found: np.ndarray, true: np.ndarray, size: tuple[int, int], share: float):
    """Both map the photo's corners to about the same place; ``share`` of the longest side."""
    width, height = size
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], float)
    off = transform_points(found, corners) - transform_points(true, corners)
    reach = np.ptp(transform_points(true, corners), axis=0).max()
    assert np.linalg.norm(off, axis=1).max() < share * reach


def test_every_photo_of_the_gallery_finds_itself(real_photos, real_index):
    for name in ("cat", "moon", "rocket"):
        first = real_index.query(real_photos / f"{name}.jpg", k=1)[0]
        assert first.id == f"{name}.jpg" and first.verified
        assert first.similarity == pytest.approx(1, abs=1e-4)
        check_transform(first.transform, np.eye(3), (first.width, first.height), 0.01)


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("name", ["rocket", "astronaut"])
def test_a_turned_query_is_turned_back(real_photos, real_index, name, turns):
    upright = photo(real_photos, name)
    height, width = upright.shape[:2]
    result = real_index.query(np.ascontiguousarray(np.rot90(upright, turns)), k=3)
    assert result[0].id == f"{name}.jpg" and result[0].verified
    # It was turned counter-clockwise, and the rest of a whole turn brings it back.
    assert result.orientation == 360 - 90 * turns
    assert (result.width, result.height) == ((height, width) if turns % 2 else (width, height))
    back = {
        1: [[0, -1, width - 1], [1, 0, 0], [0, 0, 1]],
        2: [[-1, 0, width - 1], [0, -1, height - 1], [0, 0, 1]],
        3: [[0, 1, 0], [-1, 0, height - 1], [0, 0, 1]],
    }[turns]
    size = (result.width, result.height)
    check_transform(result[0].transform, np.array(back, float), size, 0.03)
    mapped = transform_points(result[0].transform, result[0].query_points)
    assert np.median(np.linalg.norm(mapped - result[0].points, axis=1)) < 0.02 * max(width, height)


def test_asked_to_leave_the_query_as_it_is_it_is_not_turned(real_photos, real_index):
    turned = np.ascontiguousarray(np.rot90(photo(real_photos, "rocket")))
    result = real_index.query(turned, orientations="1")
    assert result.orientation == 0
    assert not result[0].verified or result[0].id == "rocket.jpg"
    auto = real_index.query(turned)
    assert auto[0].inliers > result[0].inliers


def test_asked_for_all_four_the_best_of_them_leads(real_photos, real_index):
    upright = real_index.query(real_photos / "rocket.jpg", k=5)
    four = real_index.query(real_photos / "rocket.jpg", k=5, orientations="4")
    assert four.orientation == 0
    assert (four[0].id, four[0].score) == (upright[0].id, upright[0].score)
    turned = np.ascontiguousarray(np.rot90(photo(real_photos, "rocket")))
    assert real_index.query(turned, k=5, orientations="4").orientation == 270


@pytest.mark.parametrize("name", ["rocket", "cat"])
def test_the_transform_is_right_between_photos_of_different_size_and_shape(
    real_photos, real_index, name
):
    whole = photo(real_photos, name)
    height, width = whole.shape[:2]
    x, y, w, h = width // 5, height // 4, width // 2, height // 2
    part = cv2.resize(whole[y : y + h, x : x + w], (w * 3 // 2, h * 2))
    first = real_index.query(part)[0]
    assert first.id == f"{name}.jpg" and first.verified
    true = np.array([[2 / 3, 0, x], [0, 1 / 2, y], [0, 0, 1]])
    check_transform(first.transform, true, (part.shape[1], part.shape[0]), 0.05)


def test_two_photos_match_whatever_way_the_first_is_turned(real_photos, lite):
    settings = IndexSettings()
    other = lite.extract(photo(real_photos, "rocket"))
    for turns in (0, 3):
        pixels = np.ascontiguousarray(np.rot90(photo(real_photos, "rocket"), turns))
        seen = match_photos(lite, pixels, other, settings)
        assert seen.verification.verified
        assert (seen.query.width, seen.query.height) == (pixels.shape[1], pixels.shape[0])
        matches = seen.verification.matches
        mapped = transform_points(
            seen.verification.transform, seen.query.local.keypoints[matches[:, 0]]
        )
        off = np.linalg.norm(mapped - other.local.keypoints[matches[:, 1]], axis=1)
        assert np.median(off) < 0.02 * max(other.width, other.height)
    assert not match_photos(lite, photo(real_photos, "cat"), other, settings).verification.verified


def test_sift_is_a_model_like_the_others(real_photos, tmp_path):
    images = ImageIndex.create(tmp_path / "sift.index", "sift")
    images.add([real_photos / f"{name}.jpg" for name in ("page", "rocket", "cat")])
    result = images.query(np.ascontiguousarray(np.rot90(photo(real_photos, "page"))))
    assert result.model == "sift"
    assert result[0].id == "page.jpg" and result[0].verified
    assert images.check().problems == []
    assert result.orientation == 270
