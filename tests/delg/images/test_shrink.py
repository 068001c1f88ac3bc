"""Area averaging, against the definition and against OpenCV."""

from __future__ import annotations

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delg.images.shrink import shrink

SIDES = st.integers(1, 40)


def _by_definition(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Every pixel repeated until the ratio is whole, then plain means, float64."""
    width, height = size
    fine = pixels.astype(np.float64).repeat(height, axis=0).repeat(width, axis=1)
    blocks = fine.reshape(height, pixels.shape[0], width, pixels.shape[1], 3)
    return blocks.mean(axis=(1, 3))


@given(SIDES, SIDES, st.data())
@settings(max_examples=60, deadline=None)
def test_every_pixel_is_the_mean_of_its_area(height: int, width: int, data) -> None:
    size = data.draw(st.integers(1, width)), data.draw(st.integers(1, height))
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    made = shrink(pixels, size)
    assert made.shape == (size[1], size[0], 3) and made.dtype == np.uint8
    assert np.abs(made - _by_definition(pixels, size)).max() <= 0.501


def test_a_hand_worked_case() -> None:
    row = np.repeat(np.array([[0, 30, 60]], np.uint8)[:, :, None], 3, axis=2)
    # Two parts of a cell and a half: (0 + 30 / 2) / 1.5 and (30 / 2 + 60) / 1.5.
    assert shrink(row, (2, 1))[0, :, 0].tolist() == [10, 50]


def test_nothing_changes_at_its_own_size() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 21, 3), np.uint8)
    assert np.array_equal(shrink(pixels, (21, 37)), pixels)


@pytest.mark.parametrize("size", [(256, 192), (353, 257), (512, 384), (736, 544), (1024, 100)])
def test_it_is_opencvs_area_interpolation(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (768, 1024, 3), np.uint8)
    difference = shrink(pixels, size).astype(int) - cv2.resize(
        pixels, size, interpolation=cv2.INTER_AREA
    )
    # Halves are rounded up here, and to even numbers there.
    assert np.abs(difference).max() <= 1
    assert np.mean(difference != 0) < 0.05


def test_pixels_that_do_not_lie_densely() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    turned = np.rot90(pixels)
    assert np.array_equal(
        shrink(turned[:, :, ::-1], (20, 20)), shrink(turned[:, :, ::-1].copy(), (20, 20))
    )


def test_without_compiling_a_photo_is_shrunk_all_the_same() -> None:
    program = (
        "import numpy as np; from delg.images.shrink import shrink;"
        "print(shrink(np.full((30, 40, 3), 7, np.uint8), (20, 16)).mean())"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "7.0"
