import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.results import Verification
from index.search.scoring import score
from index.settings import RankingSettings

SETTINGS = RankingSettings()
similarities = st.floats(-1, 1, width=32)
inlier_counts = st.integers(4, 5000)


def verification(inliers: int, verified: bool = True) -> Verification:
    return Verification(inliers, verified, np.eye(3), np.zeros((inliers, 2), np.int32))


def test_without_evidence_the_score_is_the_similarity():
    assert score(0.3, Verification.none(), SETTINGS) == 0.3
    assert score(-0.2, verification(5, verified=False), SETTINGS) == -0.2


def test_inliers_short_of_proof_lift_the_score_towards_1():
    settings = RankingSettings(min_soft_inliers=6, soft_half_point=30)
    assert score(0.4, verification(6, verified=False), settings) == pytest.approx(
        0.4 + 0.6 * 6 / 36
    )
    assert score(0.4, verification(10, verified=False), settings) == pytest.approx(
        0.4 + 0.6 * 10 / 40
    )


def test_scores_of_verified_photos_worked_by_hand():
    settings = RankingSettings(inlier_half_point=50)
    assert score(0.5, verification(50), settings) == pytest.approx(2.0)
    assert score(0.5, verification(150), settings) == pytest.approx(2.25)
    assert score(0.8, verification(50), settings) == pytest.approx(2.3)


@given(similarities, similarities, inlier_counts)
def test_a_verified_photo_scores_above_every_unverified_one(verified, other, inliers):
    assert score(verified, verification(inliers), SETTINGS) > score(
        other, Verification.none(), SETTINGS
    )
    assert score(verified, verification(inliers), SETTINGS) > 1


@given(st.lists(similarities, max_size=20), st.integers(0, 40))
def test_without_proof_the_global_order_stays(values, inliers):
    scores = [score(value, verification(inliers, verified=False), SETTINGS) for value in values]
    ordered = [scores[place] for place in np.argsort(values, kind="stable")]
    assert all(later >= earlier - 1e-12 for earlier, later in itertools.pairwise(ordered))


@given(similarities, st.lists(inlier_counts, min_size=2, max_size=8, unique=True))
def test_more_inliers_score_higher_with_less_gained_from_each(similarity, counts):
    counts = sorted(counts)
    scores = [score(similarity, verification(count), SETTINGS) for count in counts]
    assert scores == sorted(scores) and len(set(scores)) == len(scores)
    gains = [
        (high - low) / (b - a)
        for (a, low), (b, high) in itertools.pairwise(zip(counts, scores, strict=True))
    ]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(gains))


@given(similarities, similarities, inlier_counts)
def test_a_higher_similarity_never_scores_lower(first, second, inliers):
    low, high = sorted((first, second))
    assert score(low, verification(inliers), SETTINGS) <= score(
        high, verification(inliers), SETTINGS
    )
    assert score(low, Verification.none(), SETTINGS) <= score(high, Verification.none(), SETTINGS)


@given(similarities, inlier_counts)
def test_scores_stay_within_their_stated_range(similarity, inliers):
    assert -1 <= score(similarity, Verification.none(), SETTINGS) <= 1
    assert -1 <= score(similarity, verification(inliers, verified=False), SETTINGS) <= 1
    assert 1 < score(similarity, verification(inliers), SETTINGS) < 3
