"""Verification against known transforms, by every estimator."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from index.results import Verification
from index.settings import VerificationSettings
from index.verification.calibration import DEFAULT_CALIBRATION
from index.verification.correspondences import Correspondences
from index.verification.estimators import ESTIMATORS
from index.verification.estimators.base import required_trials
from index.verification.geometric import estimate_transform, minor_axis_std, transform_points

METHODS = tuple(ESTIMATORS)
# The two photos differ in size and shape, so that swapped sides or axes show.
QUERY, OTHER = (1200, 700), (600, 900)


def options(method: str = "affine", **values: object) -> VerificationSettings:
    return VerificationSettings(method=method, **values)


def rotation(degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def translation(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def scaling(x: float, y: float) -> np.ndarray:
    return np.diag([x, y, 1.0])


def random_affine(rng: np.random.Generator) -> np.ndarray:
    """Any rotation, a zoom of 0.5 to 2, a shear of up to 2, from photo centre to photo centre."""
    axis = rotation(rng.uniform(0, 180))
    shear = axis @ scaling(*rng.permutation([1.4, 1 / 1.4])) @ axis.T
    zoom = rng.uniform(0.5, 2)
    from_centre = translation(-QUERY[0] / 2, -QUERY[1] / 2)
    to_centre = translation(OTHER[0] / 2, OTHER[1] / 2)
    return to_centre @ rotation(rng.uniform(0, 360)) @ scaling(zoom, zoom) @ shear @ from_centre


def random_homography(rng: np.random.Generator) -> np.ndarray:
    """An affine transform and a slant under which the far side is up to a third smaller."""
    slant = np.eye(3)
    slant[2, :2] = rng.uniform(-1, 1, 2) * 0.2 / np.array(QUERY)
    return random_affine(rng) @ slant


def verify(
    query: np.ndarray,
    other: np.ndarray,
    matches: np.ndarray,
    settings: VerificationSettings,
    sizes: tuple[tuple[int, int], tuple[int, int]] = (QUERY, OTHER),
    scales: tuple[np.ndarray, np.ndarray] | None = None,
) -> Verification:
    """Verify matches; no other feature has its nearest neighbour where it should be."""
    nearest = np.zeros(len(query), np.int32)
    nearest[matches[:, 0]] = matches[:, 1]
    descriptors = np.eye(len(other), dtype=np.float32)
    correspondences = Correspondences(query, other, matches, nearest, *sizes, descriptors, scales)
    match = estimate_transform(correspondences, settings, evidence_from=6)
    return DEFAULT_CALIBRATION.verify(0.0, match, settings.min_probability)


def verify_points(
    query: np.ndarray, other: np.ndarray, settings: VerificationSettings
) -> Verification:
    """Verify matches whose ends are the rows of both."""
    matches = np.repeat(np.arange(len(query), dtype=np.int32)[:, None], 2, axis=1)
    query, other = query.astype(np.float32), other.astype(np.float32)
    return verify(query, other, matches, settings)


class Pair:
    """Keypoints of two photos and matches between them, some of which follow a transform.

    Attributes:
        true: bool (N,), for every match, whether it does.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        transform: np.ndarray,
        true: int,
        false: int,
        noise: float = 1.0,
    ) -> None:
        total = true + false
        points = rng.uniform(0, 1, (true, 2)) * QUERY
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
        return verify(self.query, self.other, self.matches, settings)


def equal(first: Verification, second: Verification) -> bool:
    return (
        (first.inliers, first.verified) == (second.inliers, second.verified)
        and np.array_equal(first.transform, second.transform)
        and np.array_equal(first.matches, second.matches)
    )


def check_recovered(result: Verification, pair: Pair, tolerance: float) -> None:
    """The transform is right to ``tolerance`` pixels of the other photo anywhere in the query."""
    assert result.verified and result.inliers == len(result.matches)
    corners = np.array([(0, 0), (QUERY[0], 0), (0, QUERY[1]), QUERY], float)
    errors = transform_points(result.transform, corners) - transform_points(pair.transform, corners)
    assert np.linalg.norm(errors, axis=1).max() < tolerance
    true = {tuple(match) for match in pair.matches[pair.true].tolist()}
    inliers = {tuple(match) for match in result.matches.tolist()}
    assert len(true & inliers) >= 0.95 * len(true)
    # Inliers lie near where the transform puts them, with some room for MAGSAC's margin.
    limit = options().threshold * max(OTHER) / 1024
    mapped = transform_points(result.transform, pair.query[result.matches[:, 0]])
    residuals = np.linalg.norm(mapped - pair.other[result.matches[:, 1]], axis=1)
    assert residuals.max() < 1.5 * limit


@pytest.mark.parametrize(
    ("true", "false", "trials"),
    [(60, 0, None), (40, 40, None), (40, 160, None), (40, 360, None), (40, 760, 100_000)],
)
def test_an_affine_transform_is_recovered(true, false, trials):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        pair = Pair(rng, random_affine(rng), true, false)
        check_recovered(pair.verify(options(max_trials=trials)), pair, tolerance=8)


def test_the_usual_number_of_trials_verifies_most_pairs_with_one_true_match_in_twenty():
    verified = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        verified += Pair(rng, random_affine(rng), 40, 760).verify(options()).verified
    assert verified >= 10


@pytest.mark.parametrize(("true", "false"), [(60, 0), (40, 40), (40, 160)])
def test_a_homography_is_recovered(true, false):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        pair = Pair(rng, random_homography(rng), true, false)
        check_recovered(pair.verify(options("homography")), pair, tolerance=25)


@pytest.mark.parametrize(("true", "false"), [(60, 0), (40, 40), (40, 160)])
def test_scikit_image_recovers_an_affine_transform(true, false):
    rng = np.random.default_rng(true + false)
    pair = Pair(rng, random_affine(rng), true, false)
    check_recovered(pair.verify(options("skimage-affine")), pair, tolerance=8)


@pytest.mark.parametrize("method", METHODS)
def test_the_transform_maps_the_querys_pixels_to_the_others(method):
    # By hand: the query, 1200×700, lies at half its size in the other photo, rotated by 90°
    # clockwise: (x, y) goes to (400 − y / 2, 100 + x / 2).
    transform = np.array([[0, -0.5, 400], [0.5, 0, 100], [0, 0, 1.0]])
    pair = Pair(np.random.default_rng(0), transform, 60, 0, noise=0)
    result = pair.verify(options(method, max_trials=500))
    assert result.verified and result.inliers == 60
    np.testing.assert_allclose(result.transform, transform, atol=0.02)
    np.testing.assert_allclose(
        transform_points(result.transform, np.array([(0, 0), (1200, 0), (0, 700)])),
        [(400, 100), (400, 700), (50, 100)],
        atol=0.05,
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_threshold_is_in_pixels_of_the_reference_side(method):
    # Every other match is off by 10 pixels of the other photo, whose longest side is 900.
    rng = np.random.default_rng(1)
    pair = Pair(rng, translation(10, 20) @ scaling(0.5, 0.5), 80, 0, noise=0)
    displaced = np.flatnonzero(pair.true)[::2]
    angles = rng.uniform(0, 2 * np.pi, len(displaced))
    moves = 10 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    pair.other[pair.matches[displaced, 1]] += moves.astype(np.float32)

    def inliers(threshold: float, side: int | None) -> int:
        spec = options(method, threshold=threshold, reference_side=side, max_trials=500)
        return pair.verify(spec).inliers

    assert inliers(5, None) == 40
    assert inliers(30, None) == 80
    # With 9 reference pixels to a pixel of this photo the same 30 allow 3.3 pixels only.
    assert inliers(30, 8100) == 40
    assert inliers(270, 8100) == 80


def test_without_a_reference_side_the_threshold_is_in_the_photos_own_pixels():
    pair = Pair(np.random.default_rng(2), random_affine(np.random.default_rng(2)), 60, 60)
    check_recovered(pair.verify(options(reference_side=None)), pair, tolerance=8)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [20, 100, 1000])
def test_random_matches_are_not_verified(method, count):
    seeds, trials = (4, 500) if method == "skimage-affine" else (60, None)
    for seed in range(seeds):
        pair = Pair(np.random.default_rng(seed + 1000), np.eye(3), 0, count)
        assert not pair.verify(options(method, max_trials=trials)).verified, seed


@pytest.mark.parametrize("method", ["affine", "homography"])
def test_matches_that_crowd_in_few_spots_are_not_verified(method):
    # Keypoints of real photos lie on a grid of cells, and many matches share a cell.
    for seed in range(60):
        pair = Pair(np.random.default_rng(seed), np.eye(3), 0, 300)
        pair.query, pair.other = np.rint(pair.query / 60) * 60, np.rint(pair.other / 60) * 60
        assert not pair.verify(options(method)).verified, seed


@pytest.mark.parametrize("method", METHODS)
def test_no_more_matches_than_fix_a_transform_verify_nothing(method):
    for count in range(ESTIMATORS[method].sample_size + 1):
        pair = Pair(np.random.default_rng(0), scaling(0.5, 0.5), count, 0, noise=0)
        result = pair.verify(options(method, sought_inliers=4))
        assert (result.inliers, result.verified, result.transform) == (0, False, None)
        assert result.matches.shape == (0, 2) and result.matches.dtype == np.int32


@pytest.mark.parametrize("method", METHODS)
def test_without_a_calibration_of_the_model_20_inliers_prove(method):
    enough = Pair(np.random.default_rng(0), scaling(0.5, 0.5), 20, 0, noise=0)
    result = enough.verify(options(method, max_trials=200))
    assert (result.inliers, result.verified) == (20, True)
    short = Pair(np.random.default_rng(0), scaling(0.5, 0.5), 19, 0, noise=0)
    result = short.verify(options(method, max_trials=200))
    assert (result.inliers, result.verified) == (19, False)


def test_inliers_must_be_a_part_of_very_many_matches():
    rng = np.random.default_rng(0)
    pair = Pair(rng, scaling(0.5, 0.5), 18, 1200)
    assert pair.verify(options(max_trials=300_000, min_inlier_rate=0)).inliers >= 18
    assert pair.verify(options(max_trials=300_000, min_inlier_rate=0.03)).inliers == 0


IMPLAUSIBLE = (
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
    "sheared",
)


def implausible(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (50, 2) of both photos that fit a transform which no change of viewpoint makes."""
    rng = np.random.default_rng(seed)
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
        "sheared": (points, (points - middle) * (1.2, 0.24) + middle),
    }[kind]


@pytest.mark.parametrize("kind", IMPLAUSIBLE)
def test_implausible_transforms_are_not_verified(kind):
    for method in METHODS:
        for seed in range(3):
            result = verify_points(*implausible(kind, seed), options(method, max_trials=300))
            assert not result.verified, (method, seed)
            assert result.inliers == 0 or kind not in ("mirrored", "transposed")


def test_the_limits_of_plausibility_are_those_of_the_settings():
    sheared, small = implausible("sheared", 0), implausible("zoomed far out", 0)
    assert verify_points(*sheared, options(max_anisotropy=6)).verified
    assert verify_points(*small, options(max_zoom=20, threshold=4)).verified
    mirrored = implausible("mirrored", 0)
    assert verify_points(*mirrored, options(check_plausibility=False)).inliers == 50


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("method", ["affine", "homography"])
def test_keypoints_out_of_all_bounds_do_no_harm(method, value):
    pair = Pair(np.random.default_rng(0), scaling(0.5, 0.5), 40, 0)
    pair.other[pair.matches[:5, 1]] = value
    result = pair.verify(options(method))
    assert result.transform is None or np.isfinite(result.transform).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_result_repeats_identically_and_in_parallel(method):
    pairs = [
        Pair(rng := np.random.default_rng(seed), random_affine(rng), true, false)
        for seed, (true, false) in enumerate([(40, 5), (3, 0), (0, 300), (30, 150), (0, 0), (9, 9)])
    ]
    settings = options(method, max_trials=50 if method == "skimage-affine" else 500)
    expected = [pair.verify(settings) for pair in pairs]
    assert sum(result.verified for result in expected) >= 1
    with ThreadPoolExecutor(4) as threads:
        repeated = list(threads.map(lambda pair: pair.verify(settings), pairs * 4))
    for first, again in zip(expected * 4, repeated, strict=True):
        assert (first.transform is None) == (again.transform is None)
        assert first.transform is None or equal(first, again)


@pytest.mark.parametrize(("scales", "factor"), [("enlarged", 1), ("shrunk", 2)])
def test_scales_count_as_the_model_sees_the_photos(scales, factor):
    """The other photo is the query at half its size: unless enlarged, it is seen at half too."""
    rng = np.random.default_rng(0)
    query = rng.uniform(0, 1, (60, 2)).astype(np.float32) * (1000, 800)
    matches = np.repeat(np.arange(60, dtype=np.int32)[:, None], 2, axis=1)
    query_scales = rng.choice(np.float32([0.5, 1, 2]), 60)
    consistent = query_scales * np.float32(factor)
    contradictory = query_scales * np.float32(factor * 4)

    def inliers(other_scales: np.ndarray | None, kind: str = scales) -> int:
        both = None if other_scales is None else (query_scales, other_scales)
        half = (query / 2).astype(np.float32)
        sizes = (1000, 800), (500, 400)
        return verify(query, half, matches, options(scales=kind), sizes, both).inliers

    assert inliers(consistent) == inliers(None) == 60
    assert inliers(contradictory, "ignored") == inliers(contradictory, "auto") == 60
    assert inliers(contradictory) < 10
    # Scales that are all equal say nothing.
    assert inliers(np.ones(60, np.float32)) == 60


def test_another_seed_draws_other_samples():
    pair = Pair(np.random.default_rng(4), random_affine(np.random.default_rng(4)), 40, 100)
    inliers = {
        pair.verify(options("skimage-affine", max_trials=60, seed=seed)).inliers
        for seed in range(6)
    }
    assert len(inliers) > 1


def test_the_inputs_are_left_as_they_are():
    pair = Pair(np.random.default_rng(4), scaling(0.5, 0.5), 40, 100)
    before = pair.query.copy(), pair.other.copy(), pair.matches.copy()
    pair.verify(options())
    for array, copy in zip((pair.query, pair.other, pair.matches), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_transform_points_worked_by_hand():
    slanted = np.array([[1, 0, 2], [0, 1, 3], [0.1, 0, 1]])
    np.testing.assert_allclose(
        transform_points(slanted, np.array([(0, 0), (10, 10)])), [(2, 3), (6, 6.5)]
    )


def test_minor_axis_std_is_that_of_the_thinnest_direction():
    square = np.array([(0, 0), (2, 0), (0, 2), (2, 2)], np.float32)
    rotated = (square * (10, 1)) @ rotation(30)[:2, :2]
    assert minor_axis_std(square) == pytest.approx(1)
    assert minor_axis_std((square * (10, 1)).astype(np.float32)) == pytest.approx(1)
    assert minor_axis_std(rotated.astype(np.float32)) == pytest.approx(1, rel=1e-5)
    line = np.array([(0, 0), (5, 5), (9, 9)], np.float32)
    assert minor_axis_std(line) == pytest.approx(0, abs=1e-5)


def test_required_trials_grow_with_the_share_of_false_matches():
    settings = options(sought_inliers=16, max_trials=10_000)
    trials = [required_trials(count, 3, 4000, settings) for count in (4, 16, 50, 100, 200, 1000)]
    assert trials == sorted(trials)
    assert trials[0] == trials[1] == 50 and trials[-1] == 10_000
    # With 16 inliers of 100, three matches in 244 samples are all inliers: 99 % sure after 1122.
    assert required_trials(100, 3, 4000, settings) == pytest.approx(1122, abs=2)
