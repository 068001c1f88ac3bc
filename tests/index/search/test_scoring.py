import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.results import Verification
from index.search.scoring import score
from index.settings import RankingSettings

log_odds = st.floats(-30, 30, width=32)
inlier_counts = st.integers(0, 5000)


def verification(inliers: int, value: float) -> Verification:
    return Verification(inliers, value, value >= 0, np.eye(3), np.zeros((inliers, 2), np.int32))


@given(st.floats(-1, 1), log_odds, inlier_counts)
def test_the_score_is_the_log_odds_whatever_the_inliers(similarity, value, inliers):
    assert score(similarity, verification(inliers, value), RankingSettings()) == value


@given(log_odds, log_odds)
def test_scores_order_as_probabilities_do(first, second):
    low, high = sorted((first, second))
    assert verification(9, low).probability <= verification(9, high).probability


def test_probabilities_worked_by_hand():
    assert verification(9, 0.0).probability == 0.5
    assert verification(9, math.log(3)).probability == pytest.approx(0.75)
    assert verification(9, -math.log(9)).probability == pytest.approx(0.1)
    assert Verification.none().probability == 0
    assert verification(9, 800.0).probability == 1


def test_as_published_inliers_come_first_and_then_similarity():
    settings = RankingSettings(order="inliers")
    scores = [
        score(similarity, verification(inliers, value), settings)
        for inliers, similarity, value in [(0, -1, 9), (0, 1, 0), (1, -1, 0), (7, 0.2, -3)]
    ]
    assert scores == sorted(scores) and scores[0] == 0 and 7 < scores[-1] < 8
