"""How many candidates are verified: counted on candidates whose verification is made up."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.results import Verification
from index.search.candidates import ImageKey, Match
from index.search.depth import further_depths, verify_until_settled
from index.settings import RankingSettings

COUNT = 100


class MadeUpShards:
    """Photos of which the descriptors are known: (1, 0) for odd rows, (0, 1) for even ones."""

    def read_descriptors(self, images):
        odd = np.array([image.row for image in images]) % 2
        return np.stack([odd, 1 - odd], axis=1).astype(np.float32)


def match(probability):
    odds, points = math.log(probability / (1 - probability)), np.zeros((0, 2), np.int32)
    verification = Verification(30, odds, probability >= 0.5, np.eye(3), points)
    return replace(Match.none(), verification=verification)


def verify(probabilities, patience):
    """Rows in the order in which they were verified.

    Args:
        probabilities: of those that show the same thing, by row.
    """
    order = []

    def made_up(similarities):
        order.extend(image.row for image in similarities)
        return {
            image: match(probabilities[image.row]) if image.row in probabilities else Match.none()
            for image in similarities
        }

    similarities = {ImageKey(row, 0): 1 - row / COUNT for row in range(COUNT)}
    matches = verify_until_settled(made_up, MadeUpShards(), similarities, patience)
    assert [image.row for image in matches] == order
    return order


def test_all_are_verified_where_nothing_is_proven_or_asked_for():
    assert verify({}, 10) == list(range(COUNT))
    assert verify({3: 0.999}, 0) == list(range(COUNT))
    # Proven, but not beyond doubt: a surer photo may follow.
    assert verify({3: 0.89}, 10) == list(range(COUNT))
    assert verify({3: 0.4}, 10) == list(range(COUNT))


def test_verification_ends_with_the_first_portion_in_vain():
    # Odd rows are near to the proven photo, and come next.
    assert verify({3: 0.999}, 10) == [*range(10), *range(11, 31, 2)]


def test_photos_near_to_proven_ones_are_reached_though_they_are_far_down():
    thing = dict.fromkeys(range(1, 60, 2), 0.999)
    order = verify(thing, 10)
    assert set(thing) <= set(order)
    assert len(order) < 60
    # As if the first ten had been all; then twenty-five further photos of the thing, ten at a
    # time, and ten in vain.
    assert order[:10] == list(range(10)) and order[10:35] == list(range(11, 61, 2))


def test_proof_further_down_ends_it_too():
    order = verify({57: 0.999}, 10)
    assert order[:60] == list(range(60)) and order[60:] == [*range(61, 81, 2)]


@given(
    st.dictionaries(st.integers(0, COUNT - 1), st.floats(0.01, 0.9999), max_size=20),
    st.integers(1, 60),
)
def test_each_candidate_is_verified_once_at_most_and_the_first_portion_always(proven, patience):
    order = verify(proven, patience)
    assert len(set(order)) == len(order)
    assert order[:patience] == list(range(min(patience, COUNT)))
    if not any(probability >= 0.9 for probability in proven.values()):
        assert order == list(range(COUNT))


@pytest.mark.parametrize(
    ("rerank", "ranking", "depths"),
    [
        (100, {}, [200, 400]),
        (150, {"deepen": 400}, [300, 400]),
        (400, {}, []),
        (1000, {}, []),
        (100, {"deepen": 0}, []),
        (5000, {"seconds": 0.5}, [10_000]),
        (3000, {"deepen": 0, "seconds": 0.5}, [6000, 10_000]),
    ],
)
def test_depth_doubles_up_to_a_limit(rerank, ranking, depths):
    assert list(further_depths(rerank, RankingSettings(**ranking))) == depths
