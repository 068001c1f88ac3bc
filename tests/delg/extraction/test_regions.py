"""Boxes that stand out of a photo, from its features alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delg.extraction.regions import coarse_grid, grow_box, overlap_share, propose_regions
from delg.types import LocalFeatures

SIZE = (800, 600)


def features(points: np.ndarray, scores: np.ndarray) -> LocalFeatures:
    none = np.zeros((len(points), 4), np.float32)
    ones = np.ones(len(points), np.float32)
    return LocalFeatures(points.astype(np.float32), none, ones, scores.astype(np.float32))


def thing_at(x: float, y: float, width: float, height: float, seed: int) -> LocalFeatures:
    """Features all over the photo, of which those in a box have high scores."""
    points = np.random.default_rng(seed).uniform(0, 1, (1000, 2)) * SIZE
    inside = (points >= [x, y]).all(axis=1) & (points < [x + width, y + height]).all(axis=1)
    return features(points, np.where(inside, 3.0, 1.0))


@pytest.mark.parametrize("box", [(100, 50, 250, 220), (500, 300, 160, 200), (0, 400, 300, 200)])
def test_what_has_higher_scores_than_its_surroundings_comes_first(box):
    proposals = propose_regions(thing_at(*box, seed=1), SIZE, 5)
    assert overlap_share(box, proposals[0].box) > 0.7
    # The box is about the thing, not about half of the photo.
    assert overlap_share(proposals[0].box, box) > 0.35
    assert [p.contrast for p in proposals] == sorted((p.contrast for p in proposals), reverse=True)


def test_two_things_are_two_proposals():
    left, right = (50, 100, 200, 240), (500, 250, 220, 200)
    points = np.random.default_rng(2).uniform(0, 1, (1000, 2)) * SIZE
    inside = [
        (points >= b[:2]).all(1) & (points < np.add(b[:2], b[2:])).all(1) for b in (left, right)
    ]
    proposals = propose_regions(features(points, np.where(inside[0] | inside[1], 3, 1)), SIZE, 4)
    for thing in (left, right):
        assert any(overlap_share(thing, proposal.box) > 0.7 for proposal in proposals[:3])


@pytest.mark.parametrize("count", [0, 3, 20])
def test_where_nothing_stands_out_a_grid_stands_in(count):
    nothing = features(np.zeros((0, 2)), np.zeros(0))
    proposals = propose_regions(nothing, SIZE, count)
    assert [p.box for p in proposals] == coarse_grid(SIZE)[:count]
    assert coarse_grid(SIZE)[0] == (200, 150, 400, 300)


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    seed=st.integers(0, 99),
    count=st.integers(0, 200),
)
def test_boxes_lie_in_the_photo_and_have_an_area(width, height, seed, count):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 1, (count, 2)) * [width, height] - 0.5
    for proposal in propose_regions(features(points, rng.random(count)), (width, height), 6):
        x, y, box_width, box_height = proposal.box
        assert x >= 0 and y >= 0 and box_width > 0 and box_height > 0
        assert x + box_width <= width + 1e-6 and y + box_height <= height + 1e-6


def test_a_grown_box_is_cut_to_the_photo():
    assert grow_box((10, 20, 100, 50), 0.2, SIZE) == (0, 10, 130, 70)
    assert overlap_share((0, 0, 10, 10), (5, 0, 10, 20)) == 0.5
    assert overlap_share((0, 0, 0, 0), (0, 0, 9, 9)) == 0
