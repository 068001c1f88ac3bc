"""Evidence against geometry that is laid out by hand."""

import itertools

import numpy as np
import pytest

from index.results import Evidence
from index.verification.correspondences import Correspondences
from index.verification.evidence import gather_evidence

SIZE = (100, 100)
RADIUS = 2.0
# Four features in each of 8 × 8 cells, and a picture of 4 × 4 cells in a frame.
GRID = np.array(
    [(x, y) for y in np.linspace(3, 97, 16) for x in np.linspace(3, 97, 16)], np.float32
)
EVERYWHERE = np.ones(len(GRID), bool)
MIDDLE = (np.abs(GRID - 50) < 25).all(axis=1)
FRAME = ~MIDDLE
SCATTERED = np.random.default_rng(1).uniform(2, 98, (400, 2)).astype(np.float32)


def gather(
    agrees: np.ndarray,
    points: np.ndarray = GRID,
    transform: np.ndarray | None = None,
    other_size: tuple[int, int] = SIZE,
    matched: np.ndarray | None = None,
    descriptors: np.ndarray | None = None,
) -> Evidence:
    """Evidence where those features have their neighbours in place, and the rest far away.

    Args:
        matched: which are matches; by default those that agree.
        descriptors: of the other photo; by default none is like another.
    """
    transform = np.eye(3) if transform is None else transform
    mapped = points @ transform[:2, :2].T + transform[:2, 2]
    # The last of the other photo's features is nobody's place.
    other = np.r_[mapped, [[-1000.0, -1000.0]]].astype(np.float32)
    nearest = np.where(agrees, np.arange(len(points)), len(points)).astype(np.int32)
    rows = np.flatnonzero(agrees if matched is None else matched).astype(np.int32)
    matches = np.stack([rows, nearest[rows]], axis=1)
    inliers = matches[agrees[rows]]
    if descriptors is None:
        descriptors = np.eye(len(other), dtype=np.float32)
    correspondences = Correspondences(
        points, other, matches, nearest, SIZE, other_size, descriptors
    )
    return gather_evidence(correspondences, transform, inliers, RADIUS)


def test_where_everything_matches_all_rates_are_high_and_there_is_no_hole():
    evidence = gather(EVERYWHERE)
    assert (evidence.inliers, evidence.inlier_rate) == (256, 1)
    middle = (np.abs(GRID - 50) <= 30).all(axis=1).sum()
    # Rates are hits / (features + 4).
    assert evidence.agreement == pytest.approx(middle / (middle + 4), abs=0.01)
    assert evidence.contrast == pytest.approx(1, abs=0.1)
    assert evidence.hole == 0


def test_a_frame_around_another_picture_has_a_deep_hole_and_no_contrast():
    framed = gather(FRAME)
    narrow = gather((np.abs(GRID - 50) > 32).any(axis=1))
    assert (narrow.agreement, narrow.contrast) == (0, 0)
    assert framed.agreement < 0.4 and framed.contrast < 0.5
    # Inside none of 64 agree, around it all of 192, each certain at its own rate.
    assert framed.hole == pytest.approx(-(192 * np.log(192 / 256) + 64 * np.log(64 / 256)))
    # The picture without its frame is as good as all of it.
    bare = gather(MIDDLE)
    assert bare.hole == 0 and bare.contrast > 0.8 and bare.agreement > 0.6


def test_a_match_all_over_at_a_low_rate_has_a_shallow_hole():
    rng = np.random.default_rng(0)
    sparse = rng.random(len(GRID)) < FRAME.mean()
    assert gather(sparse).hole < gather(FRAME).hole / 5
    assert gather(sparse).contrast > 0.7


def test_few_features_draw_every_rate_to_0():
    points = GRID[[17, 30, 225, 238, 119, 136]]
    few = gather(np.ones(6, bool), points)
    assert few.inliers == 6 and few.inlier_rate == 1
    # Two of six lie in the middle: 2 / (2 + 4).
    assert few.agreement == pytest.approx(1 / 3)
    assert gather(EVERYWHERE).agreement > 2 * few.agreement


def test_the_inlier_rate_is_of_the_matches_not_of_the_features():
    matched = EVERYWHERE.copy()
    matched[: len(GRID) // 2] = False
    agrees = EVERYWHERE.copy()
    agrees[::4] = False
    rate = (agrees & matched).sum() / matched.sum()
    assert gather(agrees, matched=matched).inlier_rate == rate


@pytest.mark.parametrize("kind", ["frame", "middle", "left"])
@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_evidence_does_not_depend_on_which_way_the_query_is_turned(kind, quarter):
    agrees = {
        "frame": (np.abs(SCATTERED - 50) > 30).any(axis=1),
        "middle": (np.abs(SCATTERED - 50) < 30).all(axis=1),
        "left": SCATTERED[:, 0] < 40,
    }[kind]
    cos, sin = ((0, 1), (-1, 0), (0, -1))[quarter - 1]
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
    centre = np.array([50, 50])
    turn[:2, 2] = centre - turn[:2, :2] @ centre
    upright, turned = gather(agrees, SCATTERED), gather(agrees, SCATTERED, turn)
    np.testing.assert_allclose(turned, upright, rtol=0.02)


def test_evidence_does_not_depend_on_the_size_of_the_other_photo():
    double = np.diag([2.0, 2.0, 1.0])
    np.testing.assert_allclose(
        gather(FRAME, transform=double, other_size=(200, 200)), gather(FRAME), rtol=1e-4
    )


def test_what_the_other_photo_does_not_show_is_not_held_against_it():
    # The other photo shows the left half: nothing to the right of it can match.
    left = GRID[:, 0] < 50
    cut = gather(left, other_size=(50, 100))
    assert cut.hole == 0 and cut.contrast > 0.8 and cut.agreement > 0.8


def test_no_place_of_a_hole_is_missed():
    """A square of unmatched features is found wherever it lies inside, and costs about as much."""
    holes = []
    for x, y in itertools.product((34, 50, 66), repeat=2):
        agrees = ~(np.abs(GRID - (x, y)) < 14).all(axis=1)
        holes.append(gather(agrees).hole)
    assert min(holes) > 20 and max(holes) < 2 * min(holes)
    assert gather(~(np.abs(GRID - 50) < 8).all(axis=1)).hole < min(holes)


def test_behind_the_camera_nothing_agrees():
    slanted = np.array([[1, 0, 0], [0, 1, 0], [0, -0.015, 1.0]])
    depth = GRID[:, 1] * slanted[2, 1] + 1
    other = np.where(depth[:, None] > 0, GRID / np.where(depth > 0, depth, 1)[:, None], -GRID)
    nearest = np.arange(len(GRID), dtype=np.int32)
    seen = np.flatnonzero(depth > 0).astype(np.int32)
    matches = np.stack([seen, seen], axis=1)
    correspondences = Correspondences(
        GRID, other.astype(np.float32), matches, nearest, SIZE, SIZE, np.ones((len(GRID), 1))
    )
    evidence = gather_evidence(correspondences, slanted, matches, RADIUS)
    assert np.isfinite(evidence).all() and evidence.inlier_rate == 1


def test_coverage_counts_the_cells_of_the_other_photo_that_hold_inliers():
    assert gather(EVERYWHERE).coverage == 64
    assert gather(MIDDLE).coverage == 16
    # Half as large in a photo of the same size, and beyond its edges.
    half = np.diag([0.5, 0.5, 1.0])
    assert gather(EVERYWHERE, transform=half).coverage == 16
    outside = np.array([[1.0, 0, 80], [0, 1, 80], [0, 0, 1]])
    assert gather(EVERYWHERE, transform=outside).coverage <= 16


@pytest.mark.parametrize(("kinds", "variety"), [(1, 1 / 16), (4, 4 / 16), (16, 1.0)])
def test_variety_is_low_where_one_feature_occurs_over_and_over(kinds, variety):
    agrees = np.zeros(len(GRID), bool)
    agrees[np.arange(16) * 16] = True
    descriptors = np.zeros((len(GRID) + 1, 16), np.float32)
    descriptors[np.arange(16) * 16, np.arange(16) % kinds] = 1
    assert gather(agrees, descriptors=descriptors).variety == pytest.approx(variety)
    # In a codebook's space, in steps of its codes, it is the same.
    steps = (descriptors * 127).astype(np.int8)
    assert gather(agrees, descriptors=steps).variety == pytest.approx(variety)
    # Opposites are not alike; a cosine of .5 counts one part in 256.
    pair = np.zeros((len(GRID) + 1, 2), np.float32)
    pair[[0, 16]] = [[1, 0], [-1, 0]]
    two = np.isin(np.arange(len(GRID)), [0, 16])
    assert gather(two, descriptors=pair).variety == 1
    pair[16] = [0.5, np.sqrt(0.75)]
    assert gather(two, descriptors=pair).variety == pytest.approx(1 / (1 + 0.5**8))


def test_thousands_of_inliers_are_sampled_for_their_variety():
    rng = np.random.default_rng(0)
    agrees = EVERYWHERE
    descriptors = rng.standard_normal((len(GRID) + 1, 112)).astype(np.float32)
    assert gather(agrees, descriptors=descriptors).variety > 0.99
    descriptors[:] = descriptors[0]
    assert gather(agrees, descriptors=descriptors).variety == pytest.approx(1 / 128)
