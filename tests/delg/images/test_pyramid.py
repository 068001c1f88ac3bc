from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delg.images.pyramid import ALIGNMENT, level

sides = st.integers(10, 900)
scales = st.sampled_from([0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0])


@given(sides, sides, scales, st.integers(32, 700))
def test_sides_are_multiples_of_32_close_to_the_size_asked_for(
    width: int, height: int, scale: float, longest: int
) -> None:
    item = level(np.zeros((height, width, 3), np.uint8), scale, longest)
    h, w = item.pixels.shape[:2]
    ratio = scale * longest / max(width, height)
    for side, wanted in ((w, width * ratio), (h, height * ratio)):
        assert side % ALIGNMENT == 0
        assert side >= ALIGNMENT
        assert abs(side - wanted) <= ALIGNMENT / 2 or (side == ALIGNMENT and wanted < ALIGNMENT)
    assert (item.scale, item.width, item.height) == (scale, width, height)
    assert item.pixels.dtype == np.uint8


@given(sides, sides, scales, st.integers(32, 700))
def test_corners_of_a_level_are_the_corners_of_the_photo(
    width: int, height: int, scale: float, longest: int
) -> None:
    item = level(np.zeros((height, width, 3), np.uint8), scale, longest)
    h, w = item.pixels.shape[:2]
    corners = np.array([[-0.5, -0.5], [w - 0.5, h - 0.5], [(w - 1) / 2, (h - 1) / 2]], np.float32)
    expected = [[-0.5, -0.5], [width - 0.5, height - 0.5], [(width - 1) / 2, (height - 1) / 2]]
    np.testing.assert_allclose(item.to_photo(corners), expected, atol=1e-3)


@given(sides, sides, scales, st.integers(32, 700), st.integers(0, 2**32 - 1))
def test_to_photo_undoes_the_resize(
    width: int, height: int, scale: float, longest: int, seed: int
) -> None:
    item = level(np.zeros((height, width, 3), np.uint8), scale, longest)
    h, w = item.pixels.shape[:2]
    photo = np.random.default_rng(seed).uniform(0, (width, height), (20, 2))
    inside = (photo + 0.5) * (w / width, h / height) - 0.5
    np.testing.assert_allclose(item.to_photo(inside.astype(np.float32)), photo, atol=1e-2)


@pytest.mark.parametrize("scale", [0.5, 0.7071, 1.0, 1.4142, 2.0])
@pytest.mark.parametrize("centre", [(60, 200), (300, 40), (211, 133)])
def test_a_spot_in_the_pixels_maps_back_to_where_it_was(
    scale: float, centre: tuple[int, int]
) -> None:
    """The resize itself has to agree with ``to_photo``, on a photo that is far from square."""
    y, x = np.mgrid[:260, :390]
    spot = 255 * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * 12.0**2))
    item = level(spot.astype(np.uint8)[:, :, None].repeat(3, axis=2), scale, 300)
    weights = item.pixels[:, :, 0].astype(np.float64)
    rows, columns = np.mgrid[: weights.shape[0], : weights.shape[1]]
    result = np.array([[(columns * weights).sum(), (rows * weights).sum()]]) / weights.sum()
    assert np.abs(item.to_photo(result.astype(np.float32)) - centre).max() < 0.3


def test_a_photo_already_of_that_size_stays_as_it_is(coffee: np.ndarray) -> None:
    photo = coffee[:384, :576]
    item = level(photo, 1.0, 576)
    assert (item.pixels == photo).all()
    points = np.array([[0, 0], [100.5, 7]], np.float32)
    assert (item.to_photo(points) == points).all()


def test_shrinking_averages_instead_of_skipping_pixels() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    shrunk = level(stripes, 0.25, 512).pixels
    assert np.abs(shrunk.astype(int) - 127).max() <= 1
