from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from index.results import Verification
from index.settings import VerificationSettings
from index.verification.correspondences import Correspondences
from index.verification.estimators.base import required_trials
from index.verification.geometric import minor_axis_std, transform_points, verify

METHODS = ("affine", "homography", "skimage-affine")
# The two photos differ in size and shape, so that mixed up sides or axes show.
QUERY, OTHER = (1200, 700), (600, 900)


def options(method: str = "affine", **values: object) -> VerificationSettings:
    return VerificationSettings(method=method, **values)


def turn(degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def shift(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def stretch(x: float, y: float) -> np.ndarray:
    return np.diag([x, y, 1.0])


def affine(rng: np.random.Generator) -> np.ndarray:
    """Any turn, a zoom of 0.5 to 2, a shear of up to 2, from photo centre to photo centre."""
    along = turn(rng.uniform(0, 180))
    shear = along @ stretch(*rng.permutation([1.4, 1 / 1.4])) @ along.T
    zoom = rng.uniform(0.5, 2)
    back = shift(-QUERY[0] / 2, -QUERY[1] / 2)
    there = shift(OTHER[0] / 2, OTHER[1] / 2)
    return there @ turn(rng.uniform(0, 360)) @ stretch(zoom, zoom) @ shear @ back


def homography(rng: np.random.Generator) -> np.ndarray:
    """An affine transform and a slant under which the far side is up to a third smaller."""
    slant = np.eye(3)
    slant[2, :2] = rng.uniform(-1, 1, 2) * 0.2 / np.array(QUERY)
    return affine(rng) @ slant


def alone(
    query: np.ndarray, other: np.ndarray, matches: np.ndarray, settings: VerificationSettings
) -> Verification:
    return verify(Correspondences(query, other, matches, QUERY, OTHER), settings)


class Pair:
    """Keypoints of two photos and matches between them, some of which follow a transform.

    Attributes:
        true: for every match, whether it does.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        transform: np.ndarray,
        true: int,
        false: int,
        noise: float = 1.0,
        points: np.ndarray | None = None,
    ) -> None:
        if points is None:
            points = rng.uniform(0, 1, (true, 2)) * QUERY
        total = true + false
        query = np.r_[points, rng.uniform(0, 1, (false, 2)) * QUERY]
        moved = transform_points(transform, points) + rng.normal(0, noise, (true, 2))
        other = np.r_[moved, rng.uniform(0, 1, (false, 2)) * OTHER]
        # Both photos have their features in an order of their own, and some that match nothing.
        a, b = rng.permutation(total + 10), rng.permutation(total + 20)
        self.query = rng.uniform(0, 1, (total + 10, 2)) * QUERY
        self.other = rng.uniform(0, 1, (total + 20, 2)) * OTHER
        self.query[a[:total]], self.other[b[:total]] = query, other
        self.query, self.other = self.query.astype(np.float32), self.other.astype(np.float32)
        order = rng.permutation(total)
        self.matches = np.stack([a[:total], b[:total]], axis=1)[order].astype(np.int32)
        self.true = order < true
        self.transform = transform

    def verify(self, settings: VerificationSettings) -> Verification:
        return alone(self.query, self.other, self.matches, settings)


def same(one: Verification, other: Verification) -> bool:
    return (
        (one.inliers, one.verified) == (other.inliers, other.verified)
        and np.array_equal(one.transform, other.transform)
        and np.array_equal(one.matches, other.matches)
    )


def error(found: Verification, pair: Pair) -> float:
    """How far the found transform is off, in pixels of the other photo, anywhere in the query."""
    corners = np.array([(0, 0), (QUERY[0], 0), (0, QUERY[1]), QUERY], float)
    off = transform_points(found.transform, corners) - transform_points(pair.transform, corners)
    return float(np.linalg.norm(off, axis=1).max())


def check_recovered(found: Verification, pair: Pair, tolerance: float) -> None:
    assert found.verified and found.inliers == len(found.matches)
    assert error(found, pair) < tolerance
    true = {tuple(match) for match in pair.matches[pair.true].tolist()}
    inliers = {tuple(match) for match in found.matches.tolist()}
    assert len(true & inliers) >= 0.95 * len(true)
    # What is an inlier lies near where the transform says, with some room for MAGSAC's margin.
    limit = options().threshold * max(OTHER) / 1024
    mapped = transform_points(found.transform, pair.query[found.matches[:, 0]])
    assert np.linalg.norm(mapped - pair.other[found.matches[:, 1]], axis=1).max() < 1.5 * limit


@pytest.mark.parametrize(("true", "false"), [(60, 0), (40, 40), (40, 160), (40, 360)])
@pytest.mark.parametrize("seed", range(8))
def test_an_affine_transform_is_recovered(seed, true, false):
    rng = np.random.default_rng(seed)
    pair = Pair(rng, affine(rng), true, false)
    check_recovered(pair.verify(options()), pair, tolerance=8)


@pytest.mark.parametrize("seed", range(8))
def test_an_affine_transform_is_recovered_from_one_true_match_in_twenty(seed):
    rng = np.random.default_rng(seed)
    pair = Pair(rng, affine(rng), 40, 760)
    check_recovered(pair.verify(options(max_trials=100_000)), pair, tolerance=8)


def test_the_usual_number_of_trials_finds_most_with_one_true_match_in_twenty():
    verified = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        verified += Pair(rng, affine(rng), 40, 760).verify(options()).verified
    assert verified >= 10


@pytest.mark.parametrize(("true", "false"), [(60, 0), (40, 40), (40, 160)])
@pytest.mark.parametrize("seed", range(8))
def test_a_homography_is_recovered(seed, true, false):
    rng = np.random.default_rng(seed)
    pair = Pair(rng, homography(rng), true, false)
    check_recovered(pair.verify(options("homography")), pair, tolerance=25)


@pytest.mark.parametrize(("true", "false"), [(60, 0), (40, 40), (40, 160)])
@pytest.mark.parametrize("seed", range(3))
def test_an_affine_transform_is_recovered_as_published(seed, true, false):
    rng = np.random.default_rng(seed)
    pair = Pair(rng, affine(rng), true, false)
    found = pair.verify(options("skimage-affine", max_trials=1000))
    check_recovered(found, pair, tolerance=8)


@pytest.mark.parametrize("method", METHODS)
def test_the_transform_maps_the_querys_pixels_to_the_others(method):
    # By hand: the query, 1200×700, lies a quarter of its size in the other photo, turned by 90°
    # clockwise: (x, y) goes to (400 − y / 2, 100 + x / 2).
    transform = np.array([[0, -0.5, 400], [0.5, 0, 100], [0, 0, 1.0]])
    pair = Pair(np.random.default_rng(0), transform, 60, 0, noise=0)
    found = pair.verify(options(method, max_trials=500))
    assert found.verified and found.inliers == 60
    np.testing.assert_allclose(found.transform, transform, atol=0.02)
    np.testing.assert_allclose(
        transform_points(found.transform, np.array([(0, 0), (1200, 0), (0, 700)])),
        [(400, 100), (400, 700), (50, 100)],
        atol=0.05,
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_threshold_is_in_pixels_of_the_reference_side(method):
    # Every other match is off by 10 pixels of the other photo, whose longest side is 900.
    rng = np.random.default_rng(1)
    pair = Pair(rng, shift(10, 20) @ stretch(0.5, 0.5), 80, 0, noise=0)
    off = np.flatnonzero(pair.true)[::2]
    angles = rng.uniform(0, 2 * np.pi, len(off))
    moves = 10 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    pair.other[pair.matches[off, 1]] += moves.astype(np.float32)
    raw = {"reference_side": None, "max_trials": 500}
    assert pair.verify(options(method, threshold=5, **raw)).inliers == 40
    assert pair.verify(options(method, threshold=30, **raw)).inliers == 80
    # With 9 reference pixels to a pixel of this photo the same 30 allow 3.3 pixels only.
    big = {"reference_side": 8100, "max_trials": 500}
    assert pair.verify(options(method, threshold=30, **big)).inliers == 40
    assert pair.verify(options(method, threshold=270, **big)).inliers == 80


def test_without_a_reference_side_pixels_are_as_they_are():
    pair = Pair(np.random.default_rng(2), affine(np.random.default_rng(2)), 60, 60)
    found = pair.verify(options(reference_side=None))
    check_recovered(found, pair, tolerance=8)


@pytest.mark.parametrize("method", ["affine", "homography"])
@pytest.mark.parametrize("count", [20, 50, 100, 200, 500, 1000])
def test_matches_at_random_verify_nothing(method, count):
    for seed in range(60):
        rng = np.random.default_rng(seed + 1000)
        found = Pair(rng, np.eye(3), 0, count).verify(options(method))
        assert not found.verified, seed


@pytest.mark.parametrize("count", [20, 100, 1000])
def test_matches_at_random_verify_nothing_as_published(count):
    for seed in range(4):
        rng = np.random.default_rng(seed + 1000)
        found = Pair(rng, np.eye(3), 0, count).verify(options("skimage-affine", max_trials=500))
        assert not found.verified, seed


@pytest.mark.parametrize("method", ["affine", "homography"])
def test_matches_that_crowd_in_few_spots_verify_nothing(method):
    # Keypoints of real photos lie on a grid of cells, and many matches share one.
    for seed in range(60):
        rng = np.random.default_rng(seed)
        pair = Pair(rng, np.eye(3), 0, 300)
        pair.query, pair.other = np.rint(pair.query / 60) * 60, np.rint(pair.other / 60) * 60
        assert not pair.verify(options(method)).verified, seed


@pytest.mark.parametrize(("method", "sample"), zip(METHODS, (3, 4, 3), strict=True))
def test_no_more_matches_than_fix_a_transform_verify_nothing(method, sample):
    for count in range(sample + 1):
        pair = Pair(np.random.default_rng(0), stretch(0.5, 0.5), count, 0, noise=0)
        found = pair.verify(options(method, min_inliers=4))
        assert (found.inliers, found.verified, found.transform) == (0, False, None)
        assert found.matches.shape == (0, 2) and found.matches.dtype == np.int32


@pytest.mark.parametrize("method", METHODS)
def test_verified_means_at_least_so_many_inliers(method):
    pair = Pair(np.random.default_rng(0), stretch(0.5, 0.5), 20, 0, noise=0)
    fits = pair.verify(options(method, min_inliers=20, max_trials=200))
    assert (fits.inliers, fits.verified) == (20, True)
    short = pair.verify(options(method, min_inliers=21, max_trials=200))
    assert (short.inliers, short.verified) == (20, False)
    assert short.transform is not None and len(short.matches) == 20


def test_a_dozen_and_a_half_among_very_many_is_chance():
    rng = np.random.default_rng(0)
    pair = Pair(rng, stretch(0.5, 0.5), 18, 1200)
    generous = {"max_trials": 300_000, "min_inlier_rate": 0}
    assert pair.verify(options(**generous)).inliers >= 18
    assert pair.verify(options(**{**generous, "min_inlier_rate": 0.03})).inliers == 0


def degenerate(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points (50, 2) of both photos that fit a transform one must not believe."""
    points = rng.uniform(0, 1, (50, 2)) * (600, 500) + (200, 100)
    middle = np.array([500.0, 350.0])
    line = np.linspace(0, 1, 50)[:, None] * (500, 300) + (100, 100)
    spot = rng.normal(0, 2, (50, 2)) + middle
    return {
        "on a line": (line, line * 0.5),
        "on a line in the query": (line, points * 0.5),
        "on a line in the other": (points, line * 0.5),
        "in one spot": (spot, spot * 0.5),
        "in one spot of the query": (spot, points * 0.5),
        "in one spot of the other": (points, spot * 0.5),
        "in one point of both": (np.tile(middle, (50, 1)), np.tile(middle / 2, (50, 1))),
        "in one point of the other": (points, np.tile(middle / 2, (50, 1))),
        "mirrored": (points, points * (-0.5, 0.5) + (500, 0)),
        "upside down in a mirror": (points, points * (0.5, -0.5) + (0, 500)),
        "transposed": (points, points[:, ::-1] * 0.5),
        "collapsed to a line": (points, points * (0.5, 0.01) + (0, 300)),
        "collapsed to a slant": (points, points @ [[0.5, 0.25], [0.02, 0.0]]),
        "zoomed far in": ((points - middle) * 0.08 + middle, (points - middle) * 0.9 + middle),
        "zoomed far out": (points, (points - middle) * 0.08 + middle),
        "torn along": (points, (points - middle) * (1.2, 0.24) + middle),
    }[kind]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "kind",
    [
        "on a line",
        "on a line in the query",
        "on a line in the other",
        "in one spot",
        "in one spot of the query",
        "in one spot of the other",
        "in one point of both",
        "in one point of the other",
        "mirrored",
        "upside down in a mirror",
        "transposed",
        "collapsed to a line",
        "collapsed to a slant",
        "zoomed far in",
        "zoomed far out",
        "torn along",
    ],
)
def test_transforms_one_must_not_believe_are_not_verified(method, kind):
    for seed in range(3):
        query, other = degenerate(kind, np.random.default_rng(seed))
        matches = np.repeat(np.arange(50, dtype=np.int32)[:, None], 2, axis=1)
        found = alone(
            query.astype(np.float32),
            other.astype(np.float32),
            matches,
            options(method, max_trials=300),
        )
        assert not found.verified, seed
        assert found.inliers == 0 or kind not in ("mirrored", "transposed")


def test_the_limits_of_belief_are_those_of_the_settings():
    query, other = degenerate("torn along", np.random.default_rng(0))
    matches = np.repeat(np.arange(50, dtype=np.int32)[:, None], 2, axis=1)
    two = query.astype(np.float32), other.astype(np.float32)
    assert alone(*two, matches, options(max_anisotropy=6)).verified
    query, other = degenerate("zoomed far out", np.random.default_rng(0))
    two = query.astype(np.float32), other.astype(np.float32)
    wide = options(max_zoom=20, threshold=4)
    assert alone(*two, matches, wide).verified


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("method", ["affine", "homography"])
def test_keypoints_out_of_all_bounds_do_no_harm(method, value):
    pair = Pair(np.random.default_rng(0), stretch(0.5, 0.5), 40, 0)
    pair.other[pair.matches[:5, 1]] = value
    found = pair.verify(options(method))
    assert found.transform is None or np.isfinite(found.transform).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_result_repeats_identically(method):
    pair = Pair(np.random.default_rng(4), affine(np.random.default_rng(4)), 40, 100)
    settings = options(method, max_trials=500)
    first = pair.verify(settings)
    assert first.inliers > 0
    for _ in range(3):
        # What ran in between must not matter.
        Pair(np.random.default_rng(5), np.eye(3), 0, 50).verify(settings)
        assert same(pair.verify(settings), first)


@pytest.mark.parametrize("method", METHODS)
def test_pairs_verified_side_by_side_are_as_each_alone(method):
    pairs = [
        Pair(rng := np.random.default_rng(seed), affine(rng), true, false)
        for seed, (true, false) in enumerate([(40, 5), (3, 0), (0, 300), (30, 150), (0, 0), (9, 9)])
    ]
    settings = options(method, max_trials=500)
    apart = [one.verify(settings) for one in pairs]
    assert sum(one.verified for one in apart) >= 1
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: one.verify(settings), pairs * 10))
    for one, found in zip(apart * 10, together, strict=True):
        assert (found.transform is None) == (one.transform is None)
        assert found.transform is None or same(found, one)


@pytest.mark.parametrize(("scales", "small"), [("enlarged", 1), ("shrunk", 2)])
def test_scales_are_told_as_the_model_sees_photos(scales, small):
    """The other photo is the query at half its size: shown as it is, it is seen at half too."""
    rng = np.random.default_rng(0)
    query = rng.uniform(0, 1, (60, 2)).astype(np.float32) * (1000, 800)
    matches = np.repeat(np.arange(60, dtype=np.int32)[:, None], 2, axis=1)
    seen = rng.choice(np.float32([0.5, 1, 2]), 60)
    sizes = (1000, 800), (500, 400)
    right = seen, seen * np.float32(small)
    wrong = seen, seen * np.float32(small * 4)

    def inliers(told: tuple[np.ndarray, np.ndarray] | None, kind: str = scales) -> int:
        half = (query / 2).astype(np.float32)
        return verify(
            Correspondences(query, half, matches, *sizes, told), options(scales=kind)
        ).inliers

    assert (
        inliers(right) == inliers(None) == inliers(wrong, "ignored") == inliers(wrong, "auto") == 60
    )
    assert inliers(wrong) < 10
    one = np.ones(60, np.float32)
    assert inliers((seen, one)) == 60, "photos whose scales tell nothing"


def test_as_published_another_seed_may_draw_other_samples():
    pair = Pair(np.random.default_rng(4), affine(np.random.default_rng(4)), 40, 100)
    found = [
        pair.verify(options("skimage-affine", max_trials=60, seed=seed)).inliers
        for seed in range(6)
    ]
    assert len(set(found)) > 1


def test_the_inputs_are_left_as_they_are():
    pair = Pair(np.random.default_rng(4), stretch(0.5, 0.5), 40, 100)
    before = pair.query.copy(), pair.other.copy(), pair.matches.copy()
    pair.verify(options())
    for one, other in zip(before, (pair.query, pair.other, pair.matches), strict=True):
        np.testing.assert_array_equal(one, other)


def test_points_through_a_transform_worked_by_hand():
    slanted = np.array([[1, 0, 2], [0, 1, 3], [0.1, 0, 1]])
    np.testing.assert_allclose(
        transform_points(slanted, np.array([(0, 0), (10, 10)])), [(2, 3), (6, 6.5)]
    )


def test_spread_is_that_of_the_thinnest_direction():
    square = np.array([(0, 0), (2, 0), (0, 2), (2, 2)])
    assert minor_axis_std(square) == pytest.approx(1)
    assert minor_axis_std(square * (10, 1)) == pytest.approx(1)
    assert minor_axis_std((square * (10, 1)) @ turn(30)[:2, :2]) == pytest.approx(1)
    assert minor_axis_std(np.array([(0, 0), (5, 5), (9, 9)])) == pytest.approx(0, abs=1e-5)


def test_trials_grow_with_the_share_of_false_matches():
    settings = options(min_inliers=16, max_trials=10_000)
    counts = [required_trials(count, 3, 4000, settings) for count in (4, 16, 50, 100, 200, 1000)]
    assert counts == sorted(counts)
    assert counts[0] == counts[1] == 50 and counts[-1] == 10_000
    # At 16 of 100 one sample of three in 244 is all true: 99 % sure after 1122 of them.
    assert required_trials(100, 3, 4000, settings) == pytest.approx(1122, abs=2)
