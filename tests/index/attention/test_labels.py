"""Which cells count as matching: right place, nearer than anything else, on the other photo."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from delg.extraction.cells import Cells
from index.attention.labels import label_cells
from index.attention.pairs import find_pairs
from index.settings import IndexSettings

SETTINGS = IndexSettings()
SHIFT = np.array([[1.0, 0, 40], [0, 1, 0], [0, 0, 1]])
NOWHERE = np.zeros((0, 24), np.float32)


def cells(seed: int, count: int = 60, size: tuple[int, int] = (1024, 768)) -> Cells:
    """Points spread at random, with descriptors that have nothing in common."""
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(count, 24)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    keypoints = (rng.random((count, 2)) * (900, 700) + 10).astype(np.float32)
    ones = np.ones(count, np.float32)
    return Cells(keypoints, descriptors, descriptors, ones, rng.random(count, np.float32), size)


def moved(photo: Cells, transform: np.ndarray) -> Cells:
    """The same cells where the transform puts them."""
    points = np.c_[photo.keypoints, np.ones(len(photo))] @ transform.T
    return Cells(
        points[:, :2].astype(np.float32),
        photo.descriptors,
        photo.maps,
        photo.scales,
        photo.scores,
        photo.size,
    )


def test_cells_match_where_the_transform_puts_them() -> None:
    photo = cells(1)
    matches, visible = label_cells(photo, moved(photo, SHIFT), SHIFT, NOWHERE, SETTINGS)
    assert matches.all() and visible.all()
    # By the wrong transform, what is nearest lies elsewhere.
    matches, _ = label_cells(photo, moved(photo, SHIFT), np.eye(3), NOWHERE, SETTINGS)
    assert matches.mean() < 0.1


@pytest.mark.parametrize(("off_by", "match"), [(20, True), (30, False)])
def test_a_place_is_as_wide_as_an_inlier_may_be_off(off_by: float, match: bool) -> None:
    photo = cells(1)
    off = SHIFT + np.array([[0, 0, 0], [0, 0, off_by], [0, 0, 0]])
    matches, _ = label_cells(photo, moved(photo, SHIFT), off, NOWHERE, SETTINGS)
    assert (matches.mean() > 0.9) == match


def test_what_is_as_near_elsewhere_is_no_match() -> None:
    photo, noise = cells(1), cells(2).descriptors
    blurred = replace(photo, descriptors=0.98 * photo.descriptors + 0.2 * noise)
    other = moved(blurred, SHIFT)
    matches, _ = label_cells(photo, other, SHIFT, photo.descriptors[:20], SETTINGS)
    np.testing.assert_array_equal(matches, np.arange(60) >= 20)


def test_what_the_other_photo_does_not_show_cannot_match() -> None:
    photo = cells(1)
    far = np.array([[1.0, 0, 400], [0, 1, 0], [0, 0, 1]])
    matches, visible = label_cells(photo, moved(photo, far), far, NOWHERE, SETTINGS)
    np.testing.assert_array_equal(visible, photo.keypoints[:, 0] <= 623)
    assert not matches[~visible].any() and matches[visible].all()


def test_a_photo_without_cells_matches_nothing() -> None:
    photo = cells(1)
    matches, visible = label_cells(photo, cells(2, 0), np.eye(3), NOWHERE, SETTINGS)
    assert not matches.any() and visible.all()


def test_pairs_of_a_label_are_proven_and_no_copies() -> None:
    photo, other = cells(3), cells(4)
    halves = np.arange(60) < 27
    # 27 of 60 points in common, moved; nothing in common; everything.
    related = moved(photo, SHIFT)
    mixed = Cells(
        np.where(halves[:, None], related.keypoints, other.keypoints),
        np.where(halves[:, None], related.descriptors, other.descriptors),
        photo.maps,
        photo.scales,
        photo.scores,
        photo.size,
    )
    pairs = list(find_pairs([photo, mixed], SETTINGS))
    assert len(pairs) == 1
    expected = SHIFT if pairs[0].first is photo else np.linalg.inv(SHIFT)
    np.testing.assert_allclose(pairs[0].transform, expected, atol=3)
    assert not pairs[0].is_made
    assert not list(find_pairs([photo, cells(5)], SETTINGS))
    assert not list(find_pairs([photo, related], SETTINGS))
