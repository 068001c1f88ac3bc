"""The affine transform that the most point matches support: locally optimised RANSAC.

Random samples give hypotheses (Fischler and Bolles, *Random sample consensus*, 1981): two matches
fix a similarity, three an affine transform. With few true matches a pair is drawn sooner than a
triple, and its similarity is near enough to be refined. Each hypothesis is judged by its MSAC cost,
the squared residuals of all matches cut off at a bound (Torr and Zisserman, *MLESAC: a new robust
estimator*, 2000). The best few are refitted to the matches that support them, within ever narrower
bounds (Chum et al., *Locally optimized RANSAC*, 2003).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from delg.compiled import compiled
from delg.types import FloatArray
from index.verification.correspondences import PointMatches

# Residuals, distances and areas below are in units of the inlier threshold.
# The bound of the cost that hypotheses are judged by, and the bounds of the successive refits.
_COST_BOUND = 2.0
_REFIT_BOUNDS = (2.0, 1.5, 1.0)
# Points of a sample lie at least this far apart, and triples span a parallelogram of this area.
_MIN_DISTANCE, _MIN_AREA = 1.0, 1.0
# Hypotheses that are refitted once, and those of them that are refitted to the end.
_REFITTED, _FINISHED = 12, 4
# Matches that fix an affine transform.
_SAMPLE_SIZE = 3
# Sampling ends after this many samples at the earliest, once a better hypothesis, if it existed,
# would have been drawn with this probability.
_MIN_SAMPLES, _CONFIDENCE = 96, 0.9999
# Added to the diagonal, so that the equations of points on a line can be solved.
_RIDGE = 1e-3
_SEEDS = 1 << 32
_NO_VALUES = np.zeros(0, np.float32)

# (6,): u = p0 x + p1 y + p2, v = p3 x + p4 y + p5.
Affine = NDArray[np.float64]


@dataclass(frozen=True)
class RansacParams:
    """How much is sampled, and which hypotheses are admitted.

    Attributes:
        pairs, triples: the most samples of two and of three matches.
        max_zoom: similarities that enlarge or reduce more than this are rejected.
        allow_mirror: whether transforms that mirror are admitted.
        seed: of the random samples.
        max_octaves: how far the scale ratio of a match may lie from the transform's zoom.
    """

    pairs: int
    triples: int
    max_zoom: float
    allow_mirror: bool
    seed: int
    max_octaves: float = 1.0


class RansacResult(NamedTuple):
    """A transform and the matches that support it.

    Attributes:
        transform: float64 (3, 3), from the query's (x, y, 1) to the other photo's.
        inliers: bool (N,), for each match whether it supports the transform.
    """

    transform: NDArray[np.float64]
    inliers: NDArray[np.bool_]


def estimate_affine_ransac(
    matches: PointMatches, threshold: float, params: RansacParams
) -> RansacResult | None:
    """Estimate the affine transform of the lowest MSAC cost.

    The same arguments give the same result.

    Args:
        threshold: the residual, in the unit of ``matches.other``, below which a match is an
            inlier.

    Returns:
        None if there are fewer than three matches, or no sample gives an admissible hypothesis.
    """
    if len(matches.query) < _SAMPLE_SIZE:
        return None
    points, means = _normalize(
        matches.query,
        matches.other,
        _NO_VALUES if matches.scale_ratios is None else matches.scale_ratios,
        _NO_VALUES if matches.precisions is None else matches.precisions,
        threshold,
    )
    hypotheses, costs = sample_hypotheses(
        points,
        params.pairs,
        params.triples,
        params.max_zoom,
        params.allow_mirror,
        params.seed % _SEEDS,
        params.max_octaves,
    )
    model = _refine_best(hypotheses, costs, points, params.max_octaves)
    transform = _denormalize(model, means, threshold)
    if not np.isfinite(transform).all():
        return None
    residuals = np.empty(points.shape[1], np.float32)
    squared_residuals(model, points, params.max_octaves, residuals)
    return RansacResult(transform, residuals < 1)


@compiled
def _normalize(
    query: FloatArray,
    other: FloatArray,
    scale_ratios: FloatArray,
    precisions: FloatArray,
    threshold: float,
) -> tuple[FloatArray, NDArray[np.float64]]:
    """Centred points in units of the threshold.

    Returns:
        Float32 (6, N): x and y in the query, x and y in the other photo, log2 of the scale ratio,
        NaN where it is unknown, and the weight in fits; and float64 (4,), the means that were
        subtracted.
    """
    count = len(query)
    points, means = np.empty((6, count), np.float32), np.zeros(4)
    for axis in range(4):
        ends = query if axis < 2 else other
        for match in range(count):
            means[axis] += ends[match, axis % 2] / count
        for match in range(count):
            points[axis, match] = (ends[match, axis % 2] - means[axis]) / threshold
    for match in range(count):
        points[4, match] = math.log2(scale_ratios[match]) if len(scale_ratios) else np.nan
        points[5, match] = precisions[match] if len(precisions) else 1
    return points, means


@compiled
def _denormalize(
    model: Affine, means: NDArray[np.float64], threshold: float
) -> NDArray[np.float64]:
    """The transform (3, 3) between the points as they were before :func:`_normalize`."""
    transform = np.eye(3)
    for row in range(2):
        a, b, c = model[3 * row], model[3 * row + 1], model[3 * row + 2]
        transform[row, 0], transform[row, 1] = a, b
        transform[row, 2] = threshold * c + means[2 + row] - a * means[0] - b * means[1]
    return transform


# Below, rows and numbers are assigned one by one: Numba does not vectorise loops over arrays that
# come from unpacking a tuple.


@compiled
def _refine_best(
    hypotheses: NDArray[np.float64], costs: FloatArray, points: FloatArray, max_octaves: float
) -> Affine:
    """Refit the hypotheses (K, 6), in place; the one of the lowest cost, NaN if there is none."""
    for index in range(len(hypotheses)):
        if costs[index] < np.inf:
            refit_least_squares(hypotheses[index], points, max_octaves, _REFIT_BOUNDS[0])
            costs[index] = msac_cost(hypotheses[index], points, max_octaves, _COST_BOUND)
    best, lowest = np.full(6, np.nan), np.inf
    for _ in range(_FINISHED):
        index = _argmin(costs)
        if costs[index] == np.inf:
            break
        costs[index] = np.inf
        for bound in _REFIT_BOUNDS[1:]:
            refit_least_squares(hypotheses[index], points, max_octaves, bound)
        cost = msac_cost(hypotheses[index], points, max_octaves, 1.0)
        if cost < lowest:
            best, lowest = hypotheses[index], cost
    return best


@compiled
def _argmin(values: FloatArray) -> int:
    lowest = 0
    for index in range(len(values)):
        if values[index] < values[lowest]:
            lowest = index
    return lowest


@compiled
def sample_hypotheses(
    points: FloatArray,
    pairs: int,
    triples: int,
    max_zoom: float,
    allow_mirror: bool,
    seed: int,
    max_octaves: float,
) -> tuple[NDArray[np.float64], FloatArray]:
    """Draw random samples and keep the best hypotheses.

    Returns:
        Float64 (K, 6), the hypotheses, and float32 (K,), their MSAC costs; infinite where there
        are fewer than K.
    """
    count = points.shape[1]
    kept = np.zeros((_REFITTED, 6))
    costs = np.full(_REFITTED, np.float32(np.inf))
    model = np.empty(6)
    worst, lowest, enough = 0, np.inf, np.inf
    # The state must not be 0, and must differ widely between seeds that are close.
    state = np.empty(1, np.uint64)
    state[0] = np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
    for sample in range(max(pairs, triples)):
        if sample >= enough:
            break
        first = _random_index(state, count)
        second = third = first
        while second == first:
            second = _random_index(state, count)
        while third in (first, second):
            third = _random_index(state, count)
        for triple in (False, True):
            if sample >= (triples if triple else pairs):
                continue
            if triple:
                admissible = _affine_of_triple(
                    points, first, second, third, allow_mirror, max_octaves, model
                )
            else:
                admissible = _similarity_of_pair(
                    points, first, second, max_zoom, max_octaves, model
                )
            if not admissible:
                continue
            cost = msac_cost(model, points, max_octaves, _COST_BOUND)
            if cost < costs[worst]:
                for index in range(6):
                    kept[worst, index] = model[index]
                costs[worst] = cost
                worst = _argmin(-costs)
                if cost < lowest:
                    lowest = cost
                    # The cost bounds the share of inliers, and that the samples needed.
                    rate = min(max(1 - lowest / count, 1e-6), 1 - 1e-6)
                    needed = math.log(1 - _CONFIDENCE) / math.log1p(-(rate**3))
                    enough = max(_MIN_SAMPLES, needed)
    return kept, costs


@compiled
def _random_index(state: NDArray[np.uint64], count: int) -> int:
    """A random number below ``count`` (Marsaglia, *Xorshift RNGs*, 2003)."""
    state[0] ^= state[0] << np.uint64(13)
    state[0] ^= state[0] >> np.uint64(7)
    state[0] ^= state[0] << np.uint64(17)
    return int((state[0] >> np.uint64(33)) % np.uint64(count))


@compiled
def _similarity_of_pair(
    points: FloatArray,
    first: int,
    second: int,
    max_zoom: float,
    max_octaves: float,
    model: Affine,
) -> bool:
    """The similarity that two matches fix, into ``model``; whether it is admissible."""
    x, y, u, v, log_ratio = points[0], points[1], points[2], points[3], points[4]
    p, q = x[second] - x[first], y[second] - y[first]
    r, s = u[second] - u[first], v[second] - v[first]
    before, after = math.hypot(p, q), math.hypot(r, s)
    if not (
        min(before, after) > _MIN_DISTANCE
        and after < max_zoom * before
        and before < max_zoom * after
    ):
        return False
    log_zoom = math.log2(after / before)
    if (
        abs(log_ratio[first] - log_zoom) >= max_octaves
        or abs(log_ratio[second] - log_zoom) >= max_octaves
    ):
        return False
    cos, sin = (r * p + s * q) / before**2, (s * p - r * q) / before**2
    model[0], model[1] = cos, -sin
    model[3], model[4] = sin, cos
    model[2] = u[first] - cos * x[first] + sin * y[first]
    model[5] = v[first] - sin * x[first] - cos * y[first]
    return True


@compiled
def _affine_of_triple(
    points: FloatArray,
    first: int,
    second: int,
    third: int,
    allow_mirror: bool,
    max_octaves: float,
    model: Affine,
) -> bool:
    """The affine transform that three matches fix, into ``model``; whether it is admissible."""
    x, y, u, v, log_ratio = points[0], points[1], points[2], points[3], points[4]
    p, q = x[second] - x[first], y[second] - y[first]
    r, s = x[third] - x[first], y[third] - y[first]
    before = p * s - q * r
    a, b = u[second] - u[first], v[second] - v[first]
    c, d = u[third] - u[first], v[third] - v[first]
    after = a * d - b * c
    if not (min(abs(before), abs(after)) > _MIN_AREA and (allow_mirror or before * after > 0)):
        return False
    log_zoom = math.log2(abs(after / before)) / 2
    for match in (first, second, third):
        if abs(log_ratio[match] - log_zoom) >= max_octaves:
            return False
    model[0], model[1] = (a * s - c * q) / before, (c * p - a * r) / before
    model[3], model[4] = (b * s - d * q) / before, (d * p - b * r) / before
    model[2] = u[first] - model[0] * x[first] - model[1] * y[first]
    model[5] = v[first] - model[3] * x[first] - model[4] * y[first]
    return True


@compiled
def squared_residuals(
    model: Affine, points: FloatArray, max_octaves: float, residuals: FloatArray
) -> None:
    """Squared residuals of the matches, into ``residuals`` (N,); infinite where a match's scale
    ratio contradicts the transform's zoom."""
    p, q, r = np.float32(model[0]), np.float32(model[1]), np.float32(model[2])
    s, t, w = np.float32(model[3]), np.float32(model[4]), np.float32(model[5])
    log_zoom = np.float32(math.log2(abs(model[0] * model[4] - model[1] * model[3])) / 2)
    limit = np.float32(max_octaves)
    x, y, u, v, log_ratio = points[0], points[1], points[2], points[3], points[4]
    for match in range(points.shape[1]):
        dx = p * x[match] + q * y[match] + r - u[match]
        dy = s * x[match] + t * y[match] + w - v[match]
        residual = dx * dx + dy * dy
        contradicts = abs(log_ratio[match] - log_zoom) >= limit
        residuals[match] = np.float32(np.inf) if contradicts else residual


@compiled
def msac_cost(model: Affine, points: FloatArray, max_octaves: float, bound: float) -> float:
    """The squared residuals, each cut off at ``bound`` squared, summed up and divided by that.

    0 if every match fits exactly, N if none lies within the bound: an estimate of the outliers.
    """
    p, q, r = np.float32(model[0]), np.float32(model[1]), np.float32(model[2])
    s, t, w = np.float32(model[3]), np.float32(model[4]), np.float32(model[5])
    log_zoom = np.float32(math.log2(abs(model[0] * model[4] - model[1] * model[3])) / 2)
    limit, cut, cost = np.float32(max_octaves), np.float32(bound**2), np.float32(0)
    x, y, u, v, log_ratio = points[0], points[1], points[2], points[3], points[4]
    for match in range(points.shape[1]):
        dx = p * x[match] + q * y[match] + r - u[match]
        dy = s * x[match] + t * y[match] + w - v[match]
        residual = dx * dx + dy * dy
        residual = cut if abs(log_ratio[match] - log_zoom) >= limit else residual
        cost += residual if residual < cut else cut
    return float(cost / cut)


@compiled
def refit_least_squares(
    model: Affine, points: FloatArray, max_octaves: float, bound: float
) -> None:
    """Refit ``model``, in place, to the matches within the bound of it.

    Least squares, weighted by 1 − residual² / bound² and by how exactly the features lie.
    """
    residuals = np.empty(points.shape[1], np.float32)
    squared_residuals(model, points, max_octaves, residuals)
    x, y, u, v, precision = points[0], points[1], points[2], points[3], points[5]
    xx = xy = yy = sx = sy = total = ux = uy = su = vx = vy = sv = 0.0
    for match in range(points.shape[1]):
        residual = residuals[match]
        weight = 1 - np.float64(residual) / bound**2 if residual < bound**2 else 0.0
        weight *= precision[match]
        a, b = weight * x[match], weight * y[match]
        xx += a * x[match]
        xy += a * y[match]
        yy += b * y[match]
        sx += a
        sy += b
        total += weight
        ux += a * u[match]
        uy += b * u[match]
        su += weight * u[match]
        vx += a * v[match]
        vy += b * v[match]
        sv += weight * v[match]
    xx, yy, total = xx + _RIDGE, yy + _RIDGE, total + _RIDGE
    # Cramer's rule, with the cofactors of [[xx, xy, sx], [xy, yy, sy], [sx, sy, total]].
    aa, ab, ac = yy * total - sy * sy, sx * sy - xy * total, xy * sy - yy * sx
    bb, bc, cc = xx * total - sx * sx, xy * sx - xx * sy, xx * yy - xy * xy
    determinant = xx * aa + xy * ab + sx * ac
    for row, (m, n, o) in enumerate(((ux, uy, su), (vx, vy, sv))):
        model[3 * row] = (aa * m + ab * n + ac * o) / determinant
        model[3 * row + 1] = (ab * m + bb * n + bc * o) / determinant
        model[3 * row + 2] = (ac * m + bc * n + cc * o) / determinant
