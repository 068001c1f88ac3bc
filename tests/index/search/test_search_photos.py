"""Search from end to end, by the default model, on the photos that scikit-image ships."""

import cv2
import numpy as np
import pytest

from delg.images.decode import decode
from index import ImageIndex, IndexSettings
from index.verification.geometric import transform_points
from index.verification.match_photos import match_photos


def photo(real_photos, name: str) -> np.ndarray:
    return decode(real_photos / f"{name}.jpg")


def check_transform(
    estimated: np.ndarray, true: np.ndarray, size: tuple[int, int], share: float
) -> None:
    """Both map the query's corners to the same points, within ``share`` of their extent."""
    width, height = size
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], float)
    errors = transform_points(estimated, corners) - transform_points(true, corners)
    reach = np.ptp(transform_points(true, corners), axis=0).max()
    assert np.linalg.norm(errors, axis=1).max() < share * reach


def test_every_photo_of_the_gallery_finds_itself(real_photos, real_index):
    for name in ("cat", "moon", "rocket"):
        first = real_index.query(real_photos / f"{name}.jpg", k=1)[0]
        assert first.id == f"{name}.jpg" and first.verified
        assert first.similarity == pytest.approx(1, abs=1e-3)
        check_transform(first.transform, np.eye(3), (first.width, first.height), 0.01)


@pytest.mark.parametrize("rotations", [1, 2, 3])
@pytest.mark.parametrize("name", ["rocket", "astronaut"])
def test_a_rotated_query_is_rotated_back(real_photos, real_index, name, rotations):
    upright = photo(real_photos, name)
    height, width = upright.shape[:2]
    result = real_index.query(np.ascontiguousarray(np.rot90(upright, rotations)), k=3)
    assert result[0].id == f"{name}.jpg" and result[0].verified
    # It was rotated counter-clockwise; the rest of 360° brings it back.
    assert result.orientation == 360 - 90 * rotations
    assert (result.width, result.height) == ((height, width) if rotations % 2 else (width, height))
    back = {
        1: [[0, -1, width - 1], [1, 0, 0], [0, 0, 1]],
        2: [[-1, 0, width - 1], [0, -1, height - 1], [0, 0, 1]],
        3: [[0, 1, 0], [-1, 0, height - 1], [0, 0, 1]],
    }[rotations]
    size = (result.width, result.height)
    check_transform(result[0].transform, np.array(back, float), size, 0.03)
    mapped = transform_points(result[0].transform, result[0].query_points)
    assert np.median(np.linalg.norm(mapped - result[0].points, axis=1)) < 0.02 * max(width, height)


def test_with_one_orientation_the_query_is_not_rotated(real_photos, real_index):
    rotated = np.ascontiguousarray(np.rot90(photo(real_photos, "rocket")))
    result = real_index.query(rotated, orientations="1")
    assert result.orientation == 0
    assert not result[0].verified or result[0].id == "rocket.jpg"
    auto = real_index.query(rotated)
    assert auto[0].inliers > result[0].inliers


def test_with_four_orientations_the_best_leads(real_photos, real_index):
    upright = real_index.query(real_photos / "rocket.jpg", k=5)
    four = real_index.query(real_photos / "rocket.jpg", k=5, orientations="4")
    assert four.orientation == 0
    assert (four[0].id, four[0].score) == (upright[0].id, upright[0].score)
    rotated = np.ascontiguousarray(np.rot90(photo(real_photos, "rocket")))
    assert real_index.query(rotated, k=5, orientations="4").orientation == 270


@pytest.mark.parametrize("name", ["rocket", "cat"])
def test_the_transform_is_right_between_photos_of_different_size_and_shape(
    real_photos, real_index, name
):
    pixels = photo(real_photos, name)
    height, width = pixels.shape[:2]
    x, y, w, h = width // 5, height // 4, width // 2, height // 2
    part = cv2.resize(pixels[y : y + h, x : x + w], (w * 3 // 2, h * 2))
    first = real_index.query(part)[0]
    assert first.id == f"{name}.jpg" and first.probability >= 0.5
    true = np.array([[2 / 3, 0, x], [0, 1 / 2, y], [0, 0, 1]])
    check_transform(first.transform, true, (part.shape[1], part.shape[0]), 0.08)


def test_two_photos_match_in_any_orientation_of_the_first(real_photos, lite):
    settings = IndexSettings()
    other = lite.extract(photo(real_photos, "rocket"))
    for rotations in (0, 3):
        pixels = np.ascontiguousarray(np.rot90(photo(real_photos, "rocket"), rotations))
        result = match_photos(lite, pixels, other, settings)
        assert result.verification.verified
        assert (result.query.width, result.query.height) == (pixels.shape[1], pixels.shape[0])
        matches = result.verification.matches
        mapped = transform_points(
            result.verification.transform, result.query.local.keypoints[matches[:, 0]]
        )
        residuals = np.linalg.norm(mapped - other.local.keypoints[matches[:, 1]], axis=1)
        assert np.median(residuals) < 0.02 * max(other.width, other.height)
    assert not match_photos(lite, photo(real_photos, "cat"), other, settings).verification.verified


def test_sift_is_a_model_like_the_others(real_photos, tmp_path):
    images = ImageIndex.create(tmp_path / "sift.index", "sift")
    images.add([real_photos / f"{name}.jpg" for name in ("page", "rocket", "cat")])
    result = images.query(np.ascontiguousarray(np.rot90(photo(real_photos, "page"))))
    assert result.model == "sift"
    assert result[0].id == "page.jpg" and result[0].verified
    assert images.check().problems == []
    assert result.orientation == 270
