import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.verification.correspondences import PointMatches
from index.verification.ransac import RansacParams, RansacResult, estimate_affine_ransac

PARAMS = RansacParams(pairs=300, triples=1500, max_zoom=8, allow_mirror=False, seed=0)
SIDE = 1000.0


def estimate(
    query: np.ndarray,
    other: np.ndarray,
    threshold: float,
    params: RansacParams,
    scale_ratios: np.ndarray | None = None,
) -> RansacResult | None:
    return estimate_affine_ransac(PointMatches(query, other, scale_ratios), threshold, params)


def transform(angle: float, zoom: float, shear: float, shift: tuple[float, float]) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.eye(3)
    matrix[:2, :2] = zoom * np.array([[cos, -sin], [sin, cos]]) @ np.diag([shear, 1 / shear])
    matrix[:2, 2] = shift
    return matrix


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def matches(
    rng: np.random.Generator, matrix: np.ndarray, true: int, false: int, noise: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The first ``true`` follow the transform; float32 (N, 2) each."""
    query = rng.uniform(0, SIDE, (true + false, 2))
    other = rng.uniform(0, SIDE, (true + false, 2))
    other[:true] = apply(matrix, query[:true]) + rng.normal(0, noise, (true, 2))
    return query.astype(np.float32), other.astype(np.float32)


def corner_error(estimated: np.ndarray, matrix: np.ndarray) -> float:
    """The largest distance between the transforms' images of the corners."""
    corners = np.array([(0, 0), (SIDE, 0), (0, SIDE), (SIDE, SIDE)])
    return float(np.linalg.norm(apply(estimated, corners) - apply(matrix, corners), axis=1).max())


@settings(max_examples=60, deadline=None)
@given(
    angle=st.floats(-np.pi, np.pi),
    zoom=st.floats(0.3, 3),
    shear=st.floats(0.7, 1.4),
    shift=st.tuples(st.floats(-900, 900), st.floats(-900, 900)),
    seed=st.integers(0, 1000),
)
def test_any_affine_transform_is_recovered(angle, zoom, shear, shift, seed):
    rng, matrix = np.random.default_rng(seed), transform(angle, zoom, shear, shift)
    query, other = matches(rng, matrix, 40, 40)
    estimated, inliers = estimate(query, other, 24, PARAMS)
    assert corner_error(estimated, matrix) < 12 * max(zoom, 1)
    assert inliers[:40].all() and inliers[40:].sum() <= 6


def test_inliers_lie_within_the_threshold():
    rng = np.random.default_rng(0)
    query, other = matches(rng, transform(0.3, 0.8, 1.2, (50, 20)), 60, 60, noise=8)
    estimated, inliers = estimate(query, other, 24, PARAMS)
    residuals = np.linalg.norm(apply(estimated, query.astype(np.float64)) - other, axis=1)
    np.testing.assert_array_equal(inliers, residuals < 24)


def test_the_same_matches_give_the_same_answer_and_another_seed_much_the_same():
    rng = np.random.default_rng(1)
    matrix = transform(1.0, 1.2, 0.9, (-300, 100))
    query, other = matches(rng, matrix, 30, 170)
    first, again = (estimate(query, other, 24, PARAMS) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    for seed in range(1, 6):
        estimated, _ = estimate(query, other, 24, RansacParams(300, 1500, 8, False, seed))
        assert corner_error(estimated, matrix) < 15


def test_far_from_the_origin_it_is_as_exact():
    rng = np.random.default_rng(2)
    query, other = matches(rng, transform(0.2, 1.1, 1.0, (0, 0)), 50, 20, noise=0)
    near, _ = estimate(query, other, 24, PARAMS)
    shift = np.float32([20_000, -30_000])
    far, inliers = estimate(query + shift, other + shift, 24, PARAMS)
    assert inliers[:50].all()
    np.testing.assert_allclose(apply(far, query + shift) - shift, apply(near, query), atol=0.5)


def test_mirrors_are_admitted_on_request():
    rng = np.random.default_rng(3)
    mirror = np.diag([-1.0, 1, 1])
    mirror[0, 2] = SIDE
    query, other = matches(rng, mirror, 40, 80)
    estimated, inliers = estimate(query, other, 24, RansacParams(100, 1000, 8, True, 0))
    assert inliers[:40].all() and corner_error(estimated, mirror) < 12


def test_matches_whose_scale_ratio_contradicts_are_no_inliers():
    rng = np.random.default_rng(4)
    matrix = transform(0.1, 0.5, 1.0, (100, 100))
    query, other = matches(rng, matrix, 60, 60)
    ratios = np.full(120, 0.5, np.float32)
    ratios[:20] = 2.0
    estimated, inliers = estimate(query, other, 24, PARAMS, ratios)
    assert not inliers[:20].any() and inliers[20:60].all()
    assert corner_error(estimated, matrix) < 12


@pytest.mark.parametrize("zoom", [0.25, 1.0, 3.0])
def test_scale_ratios_find_the_transform_among_more_false_matches(zoom):
    """Fourteen true matches of two hundred: by points alone, as many agree by chance."""
    rng = np.random.default_rng(5)
    matrix = transform(-0.4, zoom, 1.1, (200, 0))
    query, other = matches(rng, matrix, 14, 186)
    ratios = np.exp2(rng.uniform(-3, 3, 200)).astype(np.float32)
    ratios[:14] = zoom * np.exp2(rng.uniform(-0.5, 0.5, 14))
    estimated, inliers = estimate(query, other, 24, RansacParams(1000, 4000, 8, False, 0), ratios)
    assert inliers[:14].sum() >= 13 and corner_error(estimated, matrix) < 40


@pytest.mark.parametrize("count", range(4))
def test_fewer_than_three_matches_give_nothing(count):
    query, other = matches(np.random.default_rng(7), np.eye(3), count, 0)
    assert (estimate(query, other, 24, PARAMS) is None) == (count < 3)


@pytest.mark.parametrize("count", [4, 5, 30])
def test_coincident_points_give_nothing(count):
    point = np.full((count, 2), 7, np.float32)
    assert estimate(point, point, 24, PARAMS) is None


@pytest.mark.parametrize("far", [1e20, 3e38])
def test_points_out_of_all_bounds_do_no_harm(far):
    rng = np.random.default_rng(6)
    query, other = matches(rng, np.eye(3), 40, 0)
    query[7] = far
    with np.errstate(all="raise"):
        result = estimate(query, other, 24, PARAMS)
    assert result is None or np.isfinite(result.transform).all()
