from __future__ import annotations

import cv2
import numpy as np
import pytest

from delg import Extractor, load_model
from delg.extraction.sift import DIM, extract_sift
from delg.images.geometry import rotate_back
from delg.types import LocalFeatures


@pytest.fixture(scope="module")
def features(coffee: np.ndarray) -> LocalFeatures:
    return extract_sift(coffee, 1024, 1000)


def mutual(a: LocalFeatures, b: LocalFeatures) -> tuple[np.ndarray, np.ndarray]:
    similarity = a.descriptors @ b.descriptors.T
    forth, back = similarity.argmax(axis=1), similarity.argmax(axis=0)
    kept = np.flatnonzero(back[forth] == np.arange(len(forth)))
    return a.keypoints[kept], b.keypoints[forth[kept]]


def test_rootsift_is_of_unit_length_and_not_negative(features: LocalFeatures) -> None:
    assert len(features) > 300
    assert features.descriptors.shape == (len(features), DIM)
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, rtol=1e-5)
    assert features.descriptors.min() >= 0


def test_rootsift_is_the_root_of_sift(coffee: np.ndarray, features: LocalFeatures) -> None:
    grey = cv2.cvtColor(coffee, cv2.COLOR_RGB2GRAY)
    points, plain = cv2.SIFT.create(nfeatures=1000).detectAndCompute(grey, None)
    strongest = int(np.argmax([point.response for point in points]))
    assert features.keypoints[0] == pytest.approx(points[strongest].pt, abs=1e-3)
    expected = np.sqrt(plain[strongest] / plain[strongest].sum())
    np.testing.assert_allclose(features.descriptors[0], expected, atol=1e-5)


def test_arrays_are_float32_and_scores_sorted(features: LocalFeatures) -> None:
    for array in (features.keypoints, features.descriptors, features.scales, features.scores):
        assert array.dtype == np.float32
    assert (np.diff(features.scores) <= 0).all()
    assert features.scales.min() > 0


@pytest.mark.parametrize("count", [0, 1, 50])
def test_no_more_features_than_asked_for(coffee: np.ndarray, count: int) -> None:
    few = extract_sift(coffee, 1024, count)
    assert len(few) == count
    assert few.descriptors.shape == (count, DIM)
    assert few.keypoints.shape == (count, 2)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_quarter_turn_finds_the_same_points(
    coffee: np.ndarray, features: LocalFeatures, turns: int
) -> None:
    turned = extract_sift(np.ascontiguousarray(np.rot90(coffee, turns)), 1024, 1000)
    height, width = coffee.shape[:2]
    back = rotate_back(turned.keypoints, width, height, turns)
    distances = np.linalg.norm(features.keypoints[:, None] - back[None], axis=2).min(axis=1)
    assert (distances < 1.5).mean() > 0.8


def test_matches_follow_a_known_rotation(coffee: np.ndarray, features: LocalFeatures) -> None:
    height, width = coffee.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), 35, 0.8)
    warped = cv2.warpAffine(coffee, matrix, (width, height), flags=cv2.INTER_AREA)
    here, there = mutual(features, extract_sift(warped, 1024, 1000))
    expected = here @ matrix[:, :2].T + matrix[:, 2]
    errors = np.linalg.norm(there - expected, axis=1)
    assert (errors < 3).sum() > 150
    assert np.median(errors[errors < 3]) < 1


def test_shrunk_photos_keep_points_and_diameters_in_their_own_pixels(
    coffee: np.ndarray, features: LocalFeatures
) -> None:
    shrunk = extract_sift(coffee, 300, 1000)
    here, there = mutual(shrunk, features)
    errors = np.linalg.norm(there - here, axis=1)
    assert (errors < 4).sum() > 60
    assert np.abs(np.median((there - here)[errors < 4], axis=0)).max() < 0.6
    assert shrunk.keypoints[:, 0].max() > 450
    assert np.median(shrunk.scales) > 1.3 * np.median(features.scales)


@pytest.mark.parametrize("size", [(400, 600), (10, 10), (10, 900)])
def test_a_flat_photo_has_no_features(size: tuple[int, int]) -> None:
    none = extract_sift(np.full((*size, 3), 200, np.uint8), 1024, 1000)
    assert len(none) == 0
    assert none.keypoints.shape == (0, 2)
    assert none.descriptors.shape == (0, DIM)
    assert none.scores.shape == none.scales.shape == (0,)


# The model that is built on it.


@pytest.fixture(scope="module")
def sift() -> Extractor:
    return load_model("sift")


def test_the_sift_model_joins_sift_with_the_global_descriptor_of_lite(
    sift: Extractor, lite: Extractor, coffee: np.ndarray, features: LocalFeatures
) -> None:
    extracted = sift.extract(coffee)
    assert sift.local_dim == DIM
    assert (extracted.local.keypoints == features.keypoints).all()
    assert (extracted.local.descriptors == features.descriptors).all()
    # SIFT's descriptors have no part in it.
    expected = lite.network_alone.extract(coffee).global_descriptor
    np.testing.assert_allclose(extracted.global_descriptor, expected, atol=1e-4)
    assert sift.fingerprint != lite.fingerprint


def test_the_sift_model_knows_boxes_and_turns(sift: Extractor, coffee: np.ndarray) -> None:
    x, y, width, height = box = (150, 60, 300, 280)
    crop = np.ascontiguousarray(coffee[y : y + height, x : x + width])
    alone, boxed = extract_sift(crop, 1024, 1000), sift.extract(coffee, box=box)
    np.testing.assert_allclose(boxed.local.keypoints - (x, y), alone.keypoints, atol=1e-3)
    turned = sift.extract(coffee, box=box, turns=1).local.keypoints
    distances = np.linalg.norm(turned[:, None] - boxed.local.keypoints[None], axis=2)
    assert (distances.min(axis=1) < 1.5).mean() > 0.8


def test_the_sift_model_survives_a_flat_photo(sift: Extractor) -> None:
    features = sift.extract(np.full((60, 80, 3), 255, np.uint8))
    assert len(features.local) == 0
    assert np.linalg.norm(features.global_descriptor) == pytest.approx(1, abs=1e-5)
