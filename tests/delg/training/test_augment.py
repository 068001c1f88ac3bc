from __future__ import annotations

import numpy as np
import pytest

from delg.training.augment import view
from delg.training.settings import AugmentSettings


def photo_with_dot(x: int, y: int) -> np.ndarray:
    photo = np.full((240, 320, 3), 60, np.uint8)
    photo[y - 9 : y + 10, x - 9 : x + 10] = 255
    return photo


@pytest.mark.parametrize("behind", [False, True])
def test_the_homography_says_where_a_point_went(behind: bool) -> None:
    settings = AugmentSettings(
        side=200, area=(0.5, 1), rotation=30, perspective=0.1, on_background=float(behind)
    )
    seen = 0
    for seed in range(20):
        found = view(
            photo_with_dot(150, 110),
            settings,
            np.random.default_rng(seed),
            np.zeros((99, 99, 3), np.uint8) if behind else None,
        )
        bright = np.argwhere(found.pixels[..., 0] > 180)
        x, y, w = found.homography @ (150, 110, 1)
        if len(bright) < 40 or not (10 < x / w < 190 and 10 < y / w < 190):
            continue
        seen += 1
        # Reflections at the border may show the dot again; its own place must be bright.
        nearest = np.abs(bright[:, ::-1] - (x / w, y / w)).max(axis=1).min()
        assert nearest < 1.5
        patch = found.pixels[round(y / w) - 1 : round(y / w) + 2, round(x / w) - 1 :][:, :3]
        assert patch.min() > 180
    assert seen > 8


def test_views_depend_on_the_seed_alone() -> None:
    settings = AugmentSettings(
        side=64, rotation=20, perspective=0.1, on_background=0.5, occlusion=0.5, colour=0.4,
        lighting=0.5, blur=0.5, noise=0.5, jpeg=0.5,
    )  # fmt: skip
    photo, behind = photo_with_dot(100, 100), np.full((50, 60, 3), 9, np.uint8)
    one, two, three = (
        view(photo, settings, np.random.default_rng(seed), behind).pixels for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(one, two)
    assert (one != three).any()


def test_published_crops_stay_inside_and_are_not_flipped() -> None:
    x, y = np.meshgrid(np.arange(300), np.arange(200))
    photo = np.stack([x / 300, y / 200, 0 * x], axis=-1)
    photo = (photo * 255).astype(np.uint8)
    settings = AugmentSettings(side=48)
    areas = []
    for seed in range(60):
        found = view(photo, settings, np.random.default_rng(seed), None)
        assert (np.diff(found.pixels[..., 0].astype(int), axis=1) >= 0).all()
        assert (np.diff(found.pixels[..., 1].astype(int), axis=0) >= 0).all()
        areas.append(48 * 48 / np.linalg.det(found.homography) / (300 * 200))
    assert 0.079 < min(areas) < 0.2
    assert max(areas) <= 1.001
