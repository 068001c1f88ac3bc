from __future__ import annotations

import numpy as np
import tensorflow as tf

from delg.training.homography_losses import correspondence_losses, corresponding_cells


def test_partners_follow_the_homography() -> None:
    same = np.eye(3, dtype=np.float32)
    moved = np.array([[1, 0, 32], [0, 1, 16], [0, 0, 1]], np.float32)
    place, valid = corresponding_cells(
        tf.constant(np.stack([same[None], moved[None]])), tf.constant([[64.0, 64.0]]), 4, 16, 7.5
    )
    expected = np.mgrid[:4, :4].reshape(2, -1)[::-1].T + np.array([2, 1])
    np.testing.assert_allclose(place[0], expected, atol=1e-4)
    # Two columns and one row have left the second view.
    assert np.array(valid[0]).reshape(4, 4).tolist() == [[True, True, False, False]] * 3 + [
        [False] * 4
    ]


def test_cells_off_the_photo_or_much_larger_elsewhere_are_not_used() -> None:
    same = np.eye(3, dtype=np.float32)
    both = tf.constant(np.stack([same[None], same[None]]))
    _, valid = corresponding_cells(both, tf.constant([[30.0, 64.0]]), 4, 16, 7.5)
    assert np.array(valid[0]).reshape(4, 4).all(axis=0).tolist() == [True, True, False, False]
    large = np.diag([3, 3, 1]).astype(np.float32)
    both = tf.constant(np.stack([same[None], large[None]]))
    assert not np.array(corresponding_cells(both, tf.constant([[64.0, 64.0]]), 4, 16, 7.5)[1]).any()


def test_right_matches_cost_little_and_ask_for_attention() -> None:
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(2, 4, 4, 32))
    cells = (cells / np.linalg.norm(cells, axis=-1, keepdims=True)).astype(np.float32)
    place = np.tile(np.mgrid[:4, :4].reshape(2, -1)[::-1].T, (2, 1, 1)).astype(np.float32)
    valid = np.ones((2, 16), bool)

    def run(second: np.ndarray, score: float) -> dict[str, float]:
        found = correspondence_losses(
            tf.constant(np.stack([cells, second])),
            tf.fill((2, 2, 4, 4), score),
            tf.constant(place),
            tf.constant(valid),
            0.05,
            0.9,
        )
        return {name: float(value) for name, value in found.items()}

    right, wrong = run(cells, 5.0), run(np.roll(cells, 1, axis=0), 5.0)
    assert right["matched"] == 1
    assert wrong["matched"] == 0
    assert right["descriptor"] < 0.1 < wrong["descriptor"]
    assert right["attention"] < 0.01 < wrong["attention"]
    assert run(cells, 0.01)["attention"] > 1 > run(np.roll(cells, 1, axis=0), 0.01)["attention"]
