"""Composites: the same every time, and what they claim to show is what they show."""

import cv2
import numpy as np
import pytest

from delg.training.settings import AugmentSettings
from index.calibrate.composites import make_composites
from index.calibrate.surroundings import KINDS, surround

SIZE = (120, 90)


def picture(number: int) -> np.ndarray:
    """Noise that no two pictures share, in soft blocks."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (12, 16, 3), np.uint8)
    return cv2.resize(coarse, SIZE, interpolation=cv2.INTER_CUBIC)


PICTURES = [picture(number) for number in range(6)]


def where(scene: np.ndarray, image: np.ndarray) -> tuple[float, tuple[int, int]]:
    """How much the best place differs, as the mean over channels, and where it is."""
    scores = cv2.matchTemplate(scene, image, cv2.TM_SQDIFF)
    lowest, _, place, _ = cv2.minMaxLoc(scores)
    return lowest / image.size, place


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "masthead"])
def test_a_picture_is_unchanged_amid_its_surroundings(kind):
    scene = surround(PICTURES[0], kind, 7, PICTURES[1:])
    assert scene.dtype == np.uint8 and scene.shape[2] == 3
    assert scene.shape[0] > SIZE[1] and scene.shape[1] > SIZE[0]
    x, y = where(scene, PICTURES[0])[1]
    np.testing.assert_array_equal(scene[y : y + SIZE[1], x : x + SIZE[0]], PICTURES[0])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "masthead"])
def test_surroundings_depend_on_the_seed_and_not_on_the_picture(kind):
    first, second = (surround(image, kind, 7, PICTURES[2:]) for image in PICTURES[:2])
    assert first.shape == second.shape
    around = np.ones(first.shape[:2], bool)
    x, y = where(first, PICTURES[0])[1]
    around[y : y + SIZE[1], x : x + SIZE[0]] = False
    np.testing.assert_array_equal(first[around], second[around])
    other = surround(PICTURES[0], kind, 8, PICTURES[2:])
    assert other.shape != first.shape or not np.array_equal(other, first)


def test_a_masthead_is_printed_over_the_picture():
    first, second = (surround(image, "masthead", 7, PICTURES[2:]) for image in PICTURES[:2])
    assert first.shape == PICTURES[0].shape
    # The badge in the corner is the same, most of the rest is the picture.
    np.testing.assert_array_equal(first[-10:-4, -10:-4], second[-10:-4, -10:-4])
    assert (first[-10:-4, -10:-4] != PICTURES[0][-10:-4, -10:-4]).any()
    assert (first == PICTURES[0]).all(axis=2).mean() > 0.5


def flat(number: int) -> np.ndarray:
    """A photo of one strong colour, which no other has."""
    pixel = np.array([[[number * 3, 255, 220]]], np.uint8)
    colour = cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0]
    return np.full((64, 64, 3), colour, np.uint8)


# Forty lend textures; the rest are two sets of five, and what is over.
PHOTOS = [flat(number) for number in range(40 + 12)]
STRAIGHT = AugmentSettings(side=320, area=(1, 1), aspect=(1, 1), on_background=0)


def share_of(scene: np.ndarray, number: int) -> float:
    return float((np.abs(scene.astype(int) - flat(number)[0, 0]).max(axis=2) <= 2).mean())


def test_composites_show_the_picture_that_they_name_and_no_other(monkeypatch):
    monkeypatch.setattr("index.calibrate.composites.PHOTOGRAPH", STRAIGHT)
    composites = list(make_composites(PHOTOS, 1, seed=3))
    pictures = {composite.picture for composite in composites}
    assert {composite.in_gallery for composite in composites} == {True, False}
    for composite in composites:
        assert share_of(composite.pixels, composite.picture) > 0.1
        others = [share_of(composite.pixels, number) for number in pictures - {composite.picture}]
        assert max(others) < 0.01


def test_of_each_set_one_picture_is_photographed_and_not_in_the_gallery():
    composites = list(make_composites(PHOTOS, 1, seed=3))
    in_gallery = [composite.picture for composite in composites if composite.in_gallery]
    photographed = {composite.picture for composite in composites if not composite.in_gallery}
    assert len(in_gallery) == len(set(in_gallery))
    assert len(photographed - set(in_gallery)) == 2
    again = make_composites(PHOTOS, 1, seed=3)
    for first, second in zip(composites, again, strict=True):
        assert (first.picture, first.in_gallery) == (second.picture, second.in_gallery)
        np.testing.assert_array_equal(first.pixels, second.pixels)


def test_too_few_photos_make_no_set():
    assert list(make_composites(PHOTOS[:2], 3)) == []
