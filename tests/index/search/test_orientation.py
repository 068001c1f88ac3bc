import numpy as np
import pytest

from delg.images.geometry import rotate_back
from index.results import Verification
from index.search.candidates import Candidate, ImageKey, Match
from index.search.orientation import further_rotations, merge_rotations, quarter_rotations
from index.settings import RankingSettings

NO_POINTS = np.zeros((0, 2), np.float32)
MIN_INLIERS = 20


def candidate(
    row: int, similarity: float, inliers: int, rotations: int = 0, angle: float = 0
) -> Candidate:
    """A candidate whose transform rotates the query by an angle, degrees clockwise."""
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    transform = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]]) if inliers else None
    verified = inliers >= MIN_INLIERS
    value = inliers / 10 if verified else similarity - 5
    verification = Verification(
        inliers, value, verified, transform, np.zeros((inliers, 2), np.int32)
    )
    match = Match(verification, NO_POINTS, NO_POINTS)
    return Candidate.scored(ImageKey(row, 0), similarity, match, rotations, RankingSettings())


@pytest.mark.parametrize("rotations", [0, 1, 2, 3])
def test_quarter_rotations_of_a_transform(rotations):
    rotated = np.array([[0, 0], [10, 0], [0, 10]], np.float32)
    upright = rotate_back(rotated, 40, 30, rotations)
    # The transform from the upright photo to the rotated one.
    columns = np.linalg.solve(np.c_[upright, np.ones(3)], rotated).T
    assert quarter_rotations(np.vstack([columns, [0, 0, 1]])) == rotations


def test_which_rotations_are_searched():
    unverified, verified = [candidate(1, 0.5, 9)], [candidate(1, 0.5, 40, angle=20)]
    on_its_side = [candidate(1, 0.5, 40, angle=100)]
    assert further_rotations(unverified, "1") == ()
    assert further_rotations(unverified, "auto") == (1, 2, 3)
    assert further_rotations(verified, "4") == (1, 2, 3)
    assert further_rotations(verified, "auto") == ()
    # Clockwise in the transform, so three quarter turns counter-clockwise.
    assert further_rotations(on_its_side, "auto") == (3,)


def test_the_rotation_with_clearly_more_inliers_leads():
    upright = [candidate(1, 0.9, 10), candidate(2, 0.8, 0)]
    rotated = [candidate(2, 0.4, 30, rotations=1), candidate(1, 0.3, 0, rotations=1)]
    merged = merge_rotations({0: upright, 1: rotated})
    assert [(c.image.row, c.rotations) for c in merged] == [(2, 1), (1, 1)]


def test_without_clearly_more_inliers_the_upright_query_leads():
    upright = [candidate(1, 0.9, 18), candidate(2, 0.8, 0), candidate(3, 0.7, 0)]
    rotated = [candidate(2, 0.4, 20, rotations=1), candidate(3, 0.3, 0, rotations=1)]
    merged = merge_rotations({0: upright, 1: rotated})
    # What a rotation verifies joins; the rest keeps the upright order.
    assert [(c.image.row, c.rotations) for c in merged] == [(2, 1), (1, 0), (3, 0)]


def test_each_photo_keeps_its_best_score():
    upright, rotated = [candidate(1, 0.5, 25)], [candidate(1, 0.5, 60, rotations=2)]
    (merged,) = merge_rotations({0: upright, 2: rotated})
    assert (merged.inliers, merged.rotations) == (60, 2)


def test_unverified_rotations_change_nothing():
    upright, rotated = [candidate(1, 0.5, 0)], [candidate(1, 0.9, 19, rotations=3)]
    assert merge_rotations({0: upright, 3: rotated}) == upright
