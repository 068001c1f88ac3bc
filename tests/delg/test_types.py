from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from delg.types import LocalFeatures


def features(n: int = 3, **changes: np.ndarray) -> LocalFeatures:
    values = {
        "keypoints": np.zeros((n, 2), np.float32),
        "descriptors": np.zeros((n, 8), np.float32),
        "scales": np.zeros(n, np.float32),
        "scores": np.zeros(n, np.float32),
    }
    return LocalFeatures(**{**values, **changes})


@pytest.mark.parametrize("n", [0, 1, 3])
def test_the_length_is_the_number_of_keypoints(n: int) -> None:
    assert len(features(n)) == n


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("keypoints", (3, 3)),
        ("keypoints", (3,)),
        ("descriptors", (3,)),
        ("descriptors", (2, 8)),
        ("scales", (2,)),
        ("scores", (4,)),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(key: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="keypoints"):
        features(**{key: np.zeros(shape, np.float32)})


def test_empty_features_have_the_width_asked_for() -> None:
    none = LocalFeatures.empty(64)
    assert len(none) == 0
    assert none.keypoints.shape == (0, 2)
    assert none.descriptors.shape == (0, 64)
    assert {array.dtype for array in vars(none).values()} == {np.dtype(np.float32)}


def test_values_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        features().scores = np.zeros(3, np.float32)
