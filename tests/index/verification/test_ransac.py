import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.verification.ransac import (
    PointMatches,
    RansacParams,
    RansacResult,
    estimate_affine_ransac,
)

TRIALS = RansacParams(pairs=300, triples=1500, max_zoom=8, allow_mirror=False, seed=0)
SIDE = 1000.0


def agree(
    query: np.ndarray,
    other: np.ndarray,
    threshold: float,
    trials: RansacParams,
    zooms: np.ndarray | None = None,
) -> RansacResult | None:
    return estimate_affine_ransac(PointMatches(query, other, zooms), threshold, trials)


def transform(angle: float, zoom: float, shear: float, shift: tuple[float, float]) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.eye(3)
    matrix[:2, :2] = zoom * np.array([[cos, -sin], [sin, cos]]) @ np.diag([shear, 1 / shear])
    matrix[:2, 2] = shift
    return matrix


def through(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def matches(
    rng: np.random.Generator, matrix: np.ndarray, true: int, false: int, noise: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The first ``true`` follow the transform; float32 (N, 2) each."""
    query = rng.uniform(0, SIDE, (true + false, 2))
    other = rng.uniform(0, SIDE, (true + false, 2))
    other[:true] = through(matrix, query[:true]) + rng.normal(0, noise, (true, 2))
    return query.astype(np.float32), other.astype(np.float32)


def off(found: np.ndarray, matrix: np.ndarray) -> float:
    """The largest distance between the transforms' images of the corners."""
    corners = np.array([(0, 0), (SIDE, 0), (0, SIDE), (SIDE, SIDE)])
    return float(np.linalg.norm(through(found, corners) - through(matrix, corners), axis=1).max())


@settings(max_examples=60, deadline=None)
@given(
    angle=st.floats(-np.pi, np.pi),
    zoom=st.floats(0.3, 3),
    shear=st.floats(0.7, 1.4),
    shift=st.tuples(st.floats(-900, 900), st.floats(-900, 900)),
    seed=st.integers(0, 1000),
)
def test_any_affine_transform_is_found(angle, zoom, shear, shift, seed):
    rng, matrix = np.random.default_rng(seed), transform(angle, zoom, shear, shift)
    query, other = matches(rng, matrix, 40, 40)
    found, agreeing = agree(query, other, 24, TRIALS)
    assert off(found, matrix) < 12 * max(zoom, 1)
    assert agreeing[:40].all() and agreeing[40:].sum() <= 6


def test_what_agrees_lies_within_the_threshold():
    rng = np.random.default_rng(0)
    query, other = matches(rng, transform(0.3, 0.8, 1.2, (50, 20)), 60, 60, noise=8)
    found, agreeing = agree(query, other, 24, TRIALS)
    miss = np.linalg.norm(through(found, query.astype(np.float64)) - other, axis=1)
    np.testing.assert_array_equal(agreeing, miss < 24)


def test_the_same_matches_give_the_same_answer_and_another_seed_much_the_same():
    rng = np.random.default_rng(1)
    matrix = transform(1.0, 1.2, 0.9, (-300, 100))
    query, other = matches(rng, matrix, 30, 170)
    first, again = (agree(query, other, 24, TRIALS) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    for seed in range(1, 6):
        found, _ = agree(query, other, 24, RansacParams(300, 1500, 8, False, seed))
        assert off(found, matrix) < 15


def test_far_from_the_origin_it_is_as_exact():
    rng = np.random.default_rng(2)
    query, other = matches(rng, transform(0.2, 1.1, 1.0, (0, 0)), 50, 20, noise=0)
    near, _ = agree(query, other, 24, TRIALS)
    away = np.float32([20_000, -30_000])
    far, agreeing = agree(query + away, other + away, 24, TRIALS)
    assert agreeing[:50].all()
    np.testing.assert_allclose(through(far, query + away) - away, through(near, query), atol=0.5)


def test_mirrors_are_found_where_they_may_be():
    rng = np.random.default_rng(3)
    mirror = np.diag([-1.0, 1, 1])
    mirror[0, 2] = SIDE
    query, other = matches(rng, mirror, 40, 80)
    found, agreeing = agree(query, other, 24, RansacParams(100, 1000, 8, True, 0))
    assert agreeing[:40].all() and off(found, mirror) < 12


def test_scales_that_tell_another_zoom_do_not_agree():
    rng = np.random.default_rng(4)
    matrix = transform(0.1, 0.5, 1.0, (100, 100))
    query, other = matches(rng, matrix, 60, 60)
    told = np.full(120, 0.5, np.float32)
    told[:20] = 2.0
    found, agreeing = agree(query, other, 24, TRIALS, told)
    assert not agreeing[:20].any() and agreeing[20:60].all()
    assert off(found, matrix) < 12


@pytest.mark.parametrize("zoom", [0.25, 1.0, 3.0])
def test_scales_that_tell_the_zoom_find_it_among_more(zoom):
    """Twelve true matches of two hundred: by places alone, chance agrees on about as many."""
    rng = np.random.default_rng(5)
    matrix = transform(-0.4, zoom, 1.1, (200, 0))
    query, other = matches(rng, matrix, 14, 186)
    told = np.exp2(rng.uniform(-3, 3, 200)).astype(np.float32)
    told[:14] = zoom * np.exp2(rng.uniform(-0.5, 0.5, 14))
    found, agreeing = agree(query, other, 24, RansacParams(1000, 4000, 8, False, 0), told)
    assert agreeing[:14].sum() >= 13 and off(found, matrix) < 40


@pytest.mark.parametrize("count", range(4))
def test_too_few_matches_end_at_once(count):
    query, other = matches(np.random.default_rng(7), np.eye(3), count, 0)
    assert (agree(query, other, 24, TRIALS) is None) == (count < 3)


@pytest.mark.parametrize("count", [4, 5, 30])
def test_points_in_one_place_propose_nothing(count):
    same = np.full((count, 2), 7, np.float32)
    assert agree(same, same, 24, TRIALS) is None


@pytest.mark.parametrize("far", [1e20, 3e38])
def test_places_beyond_all_bounds_do_no_harm(far):
    rng = np.random.default_rng(6)
    query, other = matches(rng, np.eye(3), 40, 0)
    query[7] = far
    with np.errstate(all="raise"):
        found = agree(query, other, 24, TRIALS)
    assert found is None or np.isfinite(found[0]).all()
