import numpy as np

from delg.types import LocalFeatures
from index.storage.feature_selection import top_k


def features(places: list, scales: list, scores: list) -> LocalFeatures:
    count = len(places)
    return LocalFeatures(
        np.float32(places).reshape(count, 2), np.eye(count, dtype=np.float32),
        np.float32(scales), np.float32(scores),
    )  # fmt: skip


def test_few_features_are_all_kept():
    local = features([[1, 1], [1, 1]], [1, 1], [1, 2])
    assert top_k(local, 2, 1000) is local


def test_the_best_by_score_are_kept_in_their_order():
    local = features([[100, 0], [200, 0], [300, 0]], [1, 1, 1], [1, 3, 2])
    assert top_k(local, 2, 1000).scores.tolist() == [3, 2]
    assert top_k(local, 1, 1000).keypoints.tolist() == [[200, 0]]
    assert len(top_k(local, 0, 1000)) == 0


def test_what_a_neighbouring_scale_saw_in_the_same_place_comes_last():
    local = features([[500, 500], [503, 500], [900, 10]], [1, 1.4142, 1], [9, 8, 1])
    assert top_k(local, 2, 1000).scores.tolist() == [9, 1]


def test_the_same_place_at_a_distant_scale_is_something_else():
    local = features([[500, 500], [503, 500], [900, 10]], [1, 2, 1], [9, 8, 1])
    assert top_k(local, 2, 1000).scores.tolist() == [9, 8]


def test_near_is_nearer_at_fine_scales_and_in_small_photos():
    places = [[50, 50], [53, 50], [90, 10]]
    assert top_k(features(places, [1, 1, 1], [9, 8, 1]), 2, 1000).scores.tolist() == [9, 1]
    assert top_k(features(places, [1, 1, 1], [9, 8, 1]), 2, 100).scores.tolist() == [9, 8]
    assert top_k(features(places, [8, 8, 8], [9, 8, 1]), 2, 1000).scores.tolist() == [9, 8]


def test_repeats_fill_up():
    local = features([[500, 500], [503, 500], [501, 500]], [1, 1, 1], [9, 8, 7])
    assert top_k(local, 2, 1000).scores.tolist() == [9, 8]
