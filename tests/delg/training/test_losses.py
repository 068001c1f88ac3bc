from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from delg.training import losses


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def test_arcface_adds_the_margin_to_the_right_angle_only() -> None:
    angles = np.radians([30.0, 100.0])
    descriptors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    centres = np.array([[[2.0, 0.0]], [[0.0, 3.0]]], np.float32)
    found = losses.arcface_logits(descriptors, centres, tf.constant([0, 1]), 0.2, 10.0)
    expected = 10 * np.array(
        [
            [math.cos(angles[0] + 0.2), math.cos(math.pi / 2 - angles[0])],
            [math.cos(angles[1]), math.cos(angles[1] - math.pi / 2 + 0.2)],
        ]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_arcface_falls_with_the_angle_up_to_the_far_side() -> None:
    angles = np.linspace(0.01, math.pi - 0.01, 200)
    descriptors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = losses.arcface_logits(
        descriptors, np.array([[[1.0, 0.0]]], np.float32), tf.zeros(200, tf.int32), 0.5, 1.0
    )
    assert (np.diff(np.ravel(found)) < 0).all()


def test_the_nearest_sub_centre_counts() -> None:
    centres = np.array([[[1, 0], [0, 1]], [[-1, 0], [-1, 0]]], np.float32)
    found = losses.arcface_logits(
        np.array([[0, 1.0]], np.float32), centres, tf.constant([-1]), 0.3, 1.0
    )
    np.testing.assert_allclose(found, [[1, 0]], atol=1e-5)


def test_the_last_class_is_learnt_like_the_others() -> None:
    """The published code clipped labels to the number of classes, off by one."""
    logits = tf.constant(np.eye(5, dtype=np.float32) * 50)
    assert losses.cross_entropy(logits, tf.range(5)) < 1e-6
    assert losses.accuracy(logits, tf.range(5)) == 1
    for label in range(5):
        with tf.GradientTape() as tape:
            tape.watch(flat := tf.zeros((1, 5)))
            value = losses.cross_entropy(flat, tf.constant([label]))
        slope = tape.gradient(value, flat)[0]
        assert np.argmin(slope) == label


def test_rows_without_a_label_do_not_count() -> None:
    logits = tf.constant([[3.0, 0.0], [0.0, 9.0], [1.0, 2.0]])
    some = losses.cross_entropy(logits, tf.constant([0, -1, 1]))
    np.testing.assert_allclose(
        some, (np.log1p(math.exp(-3)) + np.log1p(math.exp(-1))) / 2, rtol=1e-5
    )
    assert losses.cross_entropy(logits, tf.constant([-1, -1, -1])) == 0
    assert losses.accuracy(logits, tf.constant([-1, 0, 1])) == 0.5


def test_attended_feature_by_hand() -> None:
    maps = np.array([[[[3, 4], [0, 2]]]], np.float32)
    found = losses.attended_feature(maps, np.array([[[3.0, 1.0]]], np.float32))
    np.testing.assert_allclose(found, [[0.45, 0.85]], rtol=1e-5)


def test_twins_are_found_among_others() -> None:
    rng = np.random.default_rng(0)
    views = unit(rng, 6, 8)
    none = (tf.zeros((0, 8)), tf.zeros(0, tf.int32), tf.zeros(0, tf.int32))
    numbers, labels = tf.range(6), tf.fill([6], -1)
    loss, share = losses.infonce(views, views, numbers, labels, none, 0.05)
    worse, _ = losses.infonce(views, views[::-1].copy(), numbers, labels, none, 0.05)
    assert share == 1
    assert loss < worse


@pytest.mark.parametrize("why", ["same label", "same photo", "not filled"])
def test_what_may_show_the_same_thing_is_no_negative(why: str) -> None:
    view = np.array([[1, 0], [0, 1]], np.float32)
    memory = (
        tf.constant([[1.0, 0.0]]),
        tf.constant([{"same label": 9, "same photo": 0, "not filled": -1}[why]]),
        tf.constant([4 if why == "same label" else -1]),
    )
    none = (tf.zeros((0, 2)), tf.zeros(0, tf.int32), tf.zeros(0, tf.int32))
    args = (view, view, tf.constant([0, 1]), tf.constant([4, -1]))
    with_it = losses.infonce(*args, memory, 0.5)[0]
    without = losses.infonce(*args, none, 0.5)[0]
    if why == "not filled":
        assert with_it == without
    else:
        # Photo 1, whose cosine to it is 0 as to its other negatives, has it as one more; to
        # photo 0 it would be as near as the twin, which would cost far more.
        assert without < with_it < without + 0.2
