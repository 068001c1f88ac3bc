"""Boxes and quarter turns of photos."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from delg.images.geometry import crop_to_box, rotate, rotate_back


def test_a_box_is_cut_at_the_photos_border() -> None:
    photo = np.arange(40 * 60 * 3).reshape(40, 60, 3).astype(np.uint8)
    for box, rows, columns in (
        ((-10, -5, 30, 20), slice(0, 15), slice(0, 20)),
        ((50, 30, 100, 100), slice(30, 40), slice(50, 60)),
        ((-100, -100, 1000, 1000), slice(0, 40), slice(0, 60)),
        ((2.6, 3.4, 10, 10), slice(3, 13), slice(3, 13)),
        ((0, 0, 1, 1), slice(0, 1), slice(0, 1)),
    ):
        crop, origin = crop_to_box(photo, box)
        assert (crop == photo[rows, columns]).all()
        assert origin == (columns.start, rows.start)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(-5, 9))
def test_points_come_back_from_a_rotated_photo(width: int, height: int, rotations: int) -> None:
    numbers = np.arange(width * height).reshape(height, width)
    rotated = rotate(numbers, rotations)
    rows, columns = np.mgrid[: rotated.shape[0], : rotated.shape[1]].reshape(2, -1)
    points = np.stack([columns, rows], axis=1).astype(np.float32)
    back = rotate_back(points, width, height, rotations)
    assert back.dtype == np.float32
    x, y = back.astype(int).T
    assert (numbers[y, x] == rotated[rows, columns]).all()


def test_parts_of_pixels_are_kept_and_no_points_stay_none() -> None:
    point = np.array([[1.25, 2.5]], np.float32)
    assert rotate_back(point, 10, 20, 1).tolist() == [[9 - 2.5, 1.25]]
    assert rotate_back(point, 10, 20, 2).tolist() == [[9 - 1.25, 19 - 2.5]]
    assert rotate_back(point, 10, 20, 3).tolist() == [[2.5, 19 - 1.25]]
    assert rotate_back(np.zeros((0, 2), np.float32), 10, 20, 1).shape == (0, 2)
    pixels = np.arange(6).reshape(1, 2, 3).astype(np.uint8)
    assert (rotate(pixels, 5) == np.rot90(pixels)).all()
    assert rotate(pixels, 4) is pixels
