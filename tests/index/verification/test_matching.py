import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.settings import MatchingSettings
from index.verification import matching
from index.verification.int8_matmul import INT8_SCALE, quantize
from index.verification.matching import match_descriptors

OPEN = MatchingSettings(mutual=False, ratio=1, max_distance=2)


def at(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane at these angles."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def pairs(query: np.ndarray, other: np.ndarray, settings: MatchingSettings) -> list:
    matches = match_descriptors(query, other, settings).pairs
    assert matches.dtype == np.int32
    return matches.tolist()


def test_each_feature_goes_to_its_nearest():
    assert pairs(at(0, 90, 180), at(170, 5, 80), OPEN) == [[0, 1], [1, 2], [2, 0]]


def test_mutual_drops_those_that_are_not_the_nearest_of_their_nearest():
    # Both 0° and 8° are nearest to 10°, which itself is nearest to 8°.
    query, other = at(0, 8), at(10, 200)
    assert pairs(query, other, OPEN) == [[0, 0], [1, 0]]
    assert pairs(query, other, OPEN.model_copy(update={"mutual": True})) == [[1, 0]]


def test_ratio_compares_distances_not_their_squares():
    # Chords: 10° from 0° is 0.1743, 20° is 0.3473; their ratio is 0.502.
    query, other = at(0), at(10, 20)
    assert pairs(query, other, OPEN.model_copy(update={"ratio": 0.51})) == [[0, 0]]
    assert pairs(query, other, OPEN.model_copy(update={"ratio": 0.49})) == []


def test_ratio_drops_features_with_two_equally_near_neighbours():
    assert pairs(at(0), at(10, -10), OPEN.model_copy(update={"ratio": 0.99})) == []


def test_ratio_has_nothing_to_compare_with_a_single_feature():
    assert pairs(at(0), at(60), OPEN.model_copy(update={"ratio": 0.5})) == [[0, 0]]


def test_ratio_of_one_switches_it_off():
    assert pairs(at(0), at(10, 10), OPEN) == [[0, 0]]


def test_max_distance_is_the_length_of_the_chord():
    # A chord of 60° has length 1.
    near = OPEN.model_copy(update={"max_distance": 1.0})
    assert pairs(at(0), at(59), near) == [[0, 0]]
    assert pairs(at(0), at(61), near) == []


@pytest.mark.parametrize(("n", "m"), [(0, 5), (5, 0), (0, 0)])
def test_without_features_there_are_no_matches(n, m):
    matches, nearest = match_descriptors(
        np.zeros((n, 8), np.float32), np.zeros((m, 8), np.float32), MatchingSettings()
    )
    assert matches.shape == (0, 2) and matches.dtype == np.int32 and len(nearest) == 0


def test_nearest_neighbours_are_kept_whether_they_match_or_not():
    strict = MatchingSettings(mutual=True, ratio=0.5, max_distance=0.1)
    matches, nearest = match_descriptors(at(0, 90, 180), at(170, 5, 80), strict)
    assert matches.tolist() == [[0, 1]] and nearest.tolist() == [1, 2, 0]


def test_the_descriptors_are_left_as_they_are():
    query, other = at(0, 90), at(5, 80)
    match_descriptors(query, other, MatchingSettings())
    np.testing.assert_array_equal(query, at(0, 90))
    np.testing.assert_array_equal(other, at(5, 80))


def reference(query: np.ndarray, other: np.ndarray, settings: MatchingSettings) -> list:
    """One feature after the other, from the words of the settings."""
    distances = np.linalg.norm(query[:, None].astype(float) - other[None], axis=2)
    matches = []
    for i, row in enumerate(distances):
        j = int(row.argmin())
        others = np.delete(row, j)
        if (
            row[j] <= settings.max_distance
            and (not settings.mutual or distances[:, j].argmin() == i)
            and (settings.ratio == 1 or len(row) == 1 or row[j] < settings.ratio * others.min())
        ):
            matches.append([i, j])
    return matches


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 30),
    m=st.integers(1, 30),
    settings=st.builds(
        MatchingSettings,
        mutual=st.booleans(),
        ratio=st.sampled_from([0.6, 0.8, 0.95, 1.0]),
        max_distance=st.sampled_from([0.5, 0.9, 1.2, 2.0]),
    ),
)
def test_matches_are_those_of_brute_force(seed, n, m, settings):
    rng = np.random.default_rng(seed)
    other = rng.normal(size=(m, 16))
    # Half of the query's features have a partner, more or less near.
    query = rng.normal(size=(n, 16))
    for i in range(0, n, 2):
        query[i] = other[rng.integers(m)] + rng.normal(0, rng.uniform(0, 0.6), 16)
    query, other = (
        (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (query, other)
    )
    assert pairs(query, other, settings) == reference(query, other, settings)


def unit_vectors(rng: np.random.Generator, n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Half of the query's vectors are much like one of the other photo's."""
    other = rng.normal(size=(m, 24))
    query = rng.normal(size=(n, 24))
    query[::2] = other[rng.integers(m, size=len(query[::2]))] + rng.normal(
        0, 0.2, (len(query[::2]), 24)
    )
    query, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, other))
    return query.astype(np.float32), other.astype(np.float32)


@pytest.mark.parametrize("mutual", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_int8_descriptors_are_matched_by_their_exact_products(seed, mutual):
    """Few values, so that many products are equal: of those the first counts."""
    rng = np.random.default_rng(seed)
    query, other = (rng.integers(-3, 4, (n, 6)).astype(np.int8) for n in (37, 53))
    products = query.astype(int) @ other.T.astype(int)
    expected = []
    for i, row in enumerate(products):
        j = int(row.argmax())
        if not mutual or (
            row[j] == products[:, j].max() and j not in [neighbour for _, neighbour in expected]
        ):
            expected.append([i, j])
    settings = OPEN.model_copy(update={"mutual": mutual})
    assert all(product < INT8_SCALE**2 for product in products.ravel())
    assert pairs(query, other, settings) == expected


@pytest.mark.parametrize("block", [1, 50, 333])
@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_in_blocks_the_matches_are_the_same(monkeypatch, block, dtype):
    query, other = unit_vectors(np.random.default_rng(1), 41, 67)
    if dtype is np.int8:
        query, other = quantize(query), quantize(other)
    settings = MatchingSettings(ratio=0.9)
    expected = pairs(query, other, settings)
    assert len(expected) > 10
    monkeypatch.setattr(matching, "_BLOCK", block)
    assert pairs(query, other, settings) == expected
