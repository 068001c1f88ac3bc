"""Consensus: the affine transform on which the most matches agree.

Random samples propose transforms (Fischler and Bolles, *Random sample consensus*, 1981): pairs of
matches, which fix a similarity, and triples, which fix an affine transform; of few true matches a
pair is hit sooner, and what it proposes is near enough to grow from. Each is judged by the squared
misses that it leaves over all matches, cut off at a bound (Torr and Zisserman, *MLESAC*, 2000). The
best few are fitted again to what agrees with them, ever more narrowly (Chum et al., *Locally
optimized RANSAC*, 2003).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from delg.compiled import compiled
from delg.types import FloatArray

# Everything below is in units of the threshold.
# What proposals are judged by, and how the bound narrows while they are fitted again.
_LOOSE = 2.0
_NARROWING = (2.0, 1.5, 1.0)
# Sampled points lie so far apart at least, and triples span so much area.
_APART, _AREA = 1.0, 1.0
# So many proposals are fitted again at first, and so many to the end.
_FITTED, _FINISHED = 12, 4
# Matches that fix a transform.
_SAMPLE = 3
# After so many samples of each size it may be enough: when better ones would have been drawn this
# surely, were there any.
_FIRST, _SURE = 96, 0.9999
# Keeps the equations of points that lie on a line solvable.
_RIDGE = 1e-3
_SEEDS = 1 << 32

# (6,): u = p0 x + p1 y + p2, v = p3 x + p4 y + p5.
Affine = NDArray[np.float64]
Agreement = tuple[NDArray[np.float64], NDArray[np.bool_]]


@dataclass(frozen=True)
class Trials:
    """How much is tried.

    Attributes:
        pairs, triples: samples of each size, at most.
        max_zoom: similarities beyond it are not proposed.
        mirrored: whether transforms that mirror are proposed.
        seed: of the samples.
        octaves: how far the zoom that a match's scales tell may lie off the transform's.
    """

    pairs: int
    triples: int
    max_zoom: float
    mirrored: bool
    seed: int
    octaves: float = 1.0


@dataclass(frozen=True, eq=False)
class Matches:
    """Matches of two photos.

    Attributes:
        query, other: their ends, float32 (N, 2), (x, y).
        zooms: float32 (N,), from the query to the other photo, as the scales of the features tell;
            a match whose scales say otherwise does not agree. None: they tell nothing.
    """

    query: FloatArray
    other: FloatArray
    zooms: FloatArray | None = None


def agree(matches: Matches, threshold: float, trials: Trials) -> Agreement | None:
    """The affine transform that leaves the least misses.

    Args:
        threshold: distance in ``other`` within which a match agrees, in the points' unit.

    Returns:
        The transform, float64 (3, 3), from ``query`` to ``other``, and bool (N,), which matches
        agree; None if no sample proposes anything, and of fewer than three matches.
    """
    if len(matches.query) < _SAMPLE:
        return None
    matrix, agreeing = _consensus(
        matches.query,
        matches.other,
        np.zeros(0, np.float32) if matches.zooms is None else matches.zooms,
        threshold,
        trials.pairs,
        trials.triples,
        trials.max_zoom,
        trials.mirrored,
        trials.seed % _SEEDS,
        trials.octaves,
    )
    return (matrix, agreeing) if np.isfinite(matrix).all() else None


@compiled
def _consensus(
    query: FloatArray,
    other: FloatArray,
    zooms: FloatArray,
    threshold: float,
    pairs: int,
    triples: int,
    max_zoom: float,
    mirrored: bool,
    seed: int,
    octaves: float,
) -> Agreement:
    """The transform (3, 3), not finite if nothing is proposed, and which matches agree."""
    points, middles = _points(query, other, zooms, threshold)
    found, misses = _best(points, pairs, triples, max_zoom, mirrored, seed, octaves)
    matrix = np.eye(3)
    for row in range(2):
        a, b, c = found[3 * row], found[3 * row + 1], found[3 * row + 2]
        matrix[row, 0], matrix[row, 1] = a, b
        matrix[row, 2] = threshold * c + middles[2 + row] - a * middles[0] - b * middles[1]
    return matrix, misses < 1


@compiled
def _points(
    query: FloatArray, other: FloatArray, zooms: FloatArray, threshold: float
) -> tuple[FloatArray, NDArray[np.float64]]:
    """Float32 (5, N): x and y in the query, x and y in the other photo, each around their middle
    and in units of the threshold, and the logarithm of the zoom that scales tell, NaN where they
    tell nothing; and the middles, (4,)."""
    count = len(query)
    points, middles = np.empty((5, count), np.float32), np.zeros(4)
    for side in range(4):
        ends = query if side < 2 else other
        for match in range(count):
            middles[side] += ends[match, side % 2] / count
        for match in range(count):
            points[side, match] = (ends[match, side % 2] - middles[side]) / threshold
    for match in range(count):
        points[4, match] = math.log2(zooms[match]) if len(zooms) else np.nan
    return points, middles


# From here on rows and numbers are taken one by one: what is unpacked at once is not worked on side
# by side.


@compiled
def _best(
    points: FloatArray,
    pairs: int,
    triples: int,
    max_zoom: float,
    mirrored: bool,
    seed: int,
    octaves: float,
) -> tuple[Affine, FloatArray]:
    """The transform, NaN if nothing is proposed, and its squared misses."""
    found, left = _propose(points, pairs, triples, max_zoom, mirrored, seed, octaves)
    for number in range(len(found)):
        if left[number] < np.inf:
            _fit(found[number], points, octaves, _NARROWING[0])
            left[number] = _left(found[number], points, octaves, _LOOSE)
    best, least = np.full(6, np.nan), np.inf
    for _ in range(_FINISHED):
        number = _place_of_least(left)
        if left[number] == np.inf:
            break
        left[number] = np.inf
        for bound in _NARROWING[1:]:
            _fit(found[number], points, octaves, bound)
        unexplained = _left(found[number], points, octaves, 1.0)
        if unexplained < least:
            best, least = found[number], unexplained
    misses = np.empty(points.shape[1], np.float32)
    _measure(best, points, octaves, misses)
    return best, misses


@compiled
def _place_of_least(numbers: FloatArray) -> int:
    least = 0
    for place in range(len(numbers)):
        if numbers[place] < numbers[least]:
            least = place
    return least


@compiled
def _propose(
    points: FloatArray,
    pairs: int,
    triples: int,
    max_zoom: float,
    mirrored: bool,
    seed: int,
    octaves: float,
) -> tuple[NDArray[np.float64], FloatArray]:
    """The best of the sampled transforms, (K, 6), and what they leave unexplained; infinite where
    there are fewer."""
    count = points.shape[1]
    kept = np.zeros((_FITTED, 6))
    left = np.full(_FITTED, np.float32(np.inf))
    proposed = np.empty(6)
    worst, least, enough = 0, np.inf, np.inf
    # Any but 0, and not much the same for seeds that are.
    state = np.empty(1, np.uint64)
    state[0] = np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
    for number in range(max(pairs, triples)):
        if number >= enough:
            break
        first = _drawn(state, count)
        second = third = first
        while second == first:
            second = _drawn(state, count)
        while third in (first, second):
            third = _drawn(state, count)
        for triple in (False, True):
            if number >= (triples if triple else pairs):
                continue
            if triple:
                good = _affine(points, first, second, third, mirrored, octaves, proposed)
            else:
                good = _similarity(points, first, second, max_zoom, octaves, proposed)
            if not good:
                continue
            unexplained = _left(proposed, points, octaves, _LOOSE)
            if unexplained < left[worst]:
                for place in range(6):
                    kept[worst, place] = proposed[place]
                left[worst] = unexplained
                worst = _place_of_least(-left)
                if unexplained < least:
                    least = unexplained
                    # The part of the matches that it explains, from what it leaves.
                    explained = min(max(1 - least / count, 1e-6), 1 - 1e-6)
                    enough = max(_FIRST, math.log(1 - _SURE) / math.log1p(-(explained**3)))
    return kept, left


@compiled
def _drawn(state: NDArray[np.uint64], count: int) -> int:
    """A random number below ``count``, by Marsaglia's *Xorshift RNGs* (2003)."""
    state[0] ^= state[0] << np.uint64(13)
    state[0] ^= state[0] >> np.uint64(7)
    state[0] ^= state[0] << np.uint64(17)
    return int((state[0] >> np.uint64(33)) % np.uint64(count))


@compiled
def _similarity(
    points: FloatArray,
    first: int,
    second: int,
    max_zoom: float,
    octaves: float,
    proposed: Affine,
) -> bool:
    """Turn, zoom and shift of two matches, into ``proposed``; whether they may be true."""
    x, y, u, v, told = points[0], points[1], points[2], points[3], points[4]
    p, q = x[second] - x[first], y[second] - y[first]
    r, s = u[second] - u[first], v[second] - v[first]
    here, there = math.hypot(p, q), math.hypot(r, s)
    if not (min(here, there) > _APART and there < max_zoom * here and here < max_zoom * there):
        return False
    octave = math.log2(there / here)
    if abs(told[first] - octave) >= octaves or abs(told[second] - octave) >= octaves:
        return False
    along, across = (r * p + s * q) / here**2, (s * p - r * q) / here**2
    proposed[0], proposed[1] = along, -across
    proposed[3], proposed[4] = across, along
    proposed[2] = u[first] - along * x[first] + across * y[first]
    proposed[5] = v[first] - across * x[first] - along * y[first]
    return True


@compiled
def _affine(
    points: FloatArray,
    first: int,
    second: int,
    third: int,
    mirrored: bool,
    octaves: float,
    proposed: Affine,
) -> bool:
    """The transform of three matches, into ``proposed``; whether they may be true."""
    x, y, u, v, told = points[0], points[1], points[2], points[3], points[4]
    p, q = x[second] - x[first], y[second] - y[first]
    r, s = x[third] - x[first], y[third] - y[first]
    before = p * s - q * r
    a, b = u[second] - u[first], v[second] - v[first]
    c, d = u[third] - u[first], v[third] - v[first]
    after = a * d - b * c
    if not (min(abs(before), abs(after)) > _AREA and (mirrored or before * after > 0)):
        return False
    octave = math.log2(abs(after / before)) / 2
    for match in (first, second, third):
        if abs(told[match] - octave) >= octaves:
            return False
    proposed[0], proposed[1] = (a * s - c * q) / before, (c * p - a * r) / before
    proposed[3], proposed[4] = (b * s - d * q) / before, (d * p - b * r) / before
    proposed[2] = u[first] - proposed[0] * x[first] - proposed[1] * y[first]
    proposed[5] = v[first] - proposed[3] * x[first] - proposed[4] * y[first]
    return True


@compiled
def _measure(found: Affine, points: FloatArray, octaves: float, misses: FloatArray) -> None:
    """Squared distances from where a transform puts the matches, into ``misses`` (N,), infinite
    where a match's scales tell another zoom."""
    p, q, r = np.float32(found[0]), np.float32(found[1]), np.float32(found[2])
    s, t, w = np.float32(found[3]), np.float32(found[4]), np.float32(found[5])
    octave = np.float32(math.log2(abs(found[0] * found[4] - found[1] * found[3])) / 2)
    most = np.float32(octaves)
    x, y, u, v, told = points[0], points[1], points[2], points[3], points[4]
    for match in range(points.shape[1]):
        across = p * x[match] + q * y[match] + r - u[match]
        down = s * x[match] + t * y[match] + w - v[match]
        miss = across * across + down * down
        misses[match] = np.float32(np.inf) if abs(told[match] - octave) >= most else miss


@compiled
def _left(found: Affine, points: FloatArray, octaves: float, bound: float) -> float:
    """What a transform leaves unexplained, in matches."""
    p, q, r = np.float32(found[0]), np.float32(found[1]), np.float32(found[2])
    s, t, w = np.float32(found[3]), np.float32(found[4]), np.float32(found[5])
    octave = np.float32(math.log2(abs(found[0] * found[4] - found[1] * found[3])) / 2)
    most, cut, left = np.float32(octaves), np.float32(bound**2), np.float32(0)
    x, y, u, v, told = points[0], points[1], points[2], points[3], points[4]
    for match in range(points.shape[1]):
        across = p * x[match] + q * y[match] + r - u[match]
        down = s * x[match] + t * y[match] + w - v[match]
        miss = across * across + down * down
        miss = cut if abs(told[match] - octave) >= most else miss
        left += miss if miss < cut else cut
    return left / cut


@compiled
def _fit(found: Affine, points: FloatArray, octaves: float, bound: float) -> None:
    """Fit a transform again: least squares over what agrees with it within the bound, the nearer
    the more it counts."""
    misses = np.empty(points.shape[1], np.float32)
    _measure(found, points, octaves, misses)
    x, y, u, v = points[0], points[1], points[2], points[3]
    xx = xy = yy = sx = sy = one = ux = uy = su = vx = vy = sv = 0.0
    for match in range(points.shape[1]):
        miss = misses[match]
        weight = 1 - np.float64(miss) / bound**2 if miss < bound**2 else 0.0
        a, b = weight * x[match], weight * y[match]
        xx += a * x[match]
        xy += a * y[match]
        yy += b * y[match]
        sx += a
        sy += b
        one += weight
        ux += a * u[match]
        uy += b * u[match]
        su += weight * u[match]
        vx += a * v[match]
        vy += b * v[match]
        sv += weight * v[match]
    xx, yy, one = xx + _RIDGE, yy + _RIDGE, one + _RIDGE
    # Cramer's rule, with the cofactors of [[xx, xy, sx], [xy, yy, sy], [sx, sy, one]].
    aa, ab, ac = yy * one - sy * sy, sx * sy - xy * one, xy * sy - yy * sx
    bb, bc, cc = xx * one - sx * sx, xy * sx - xx * sy, xx * yy - xy * xy
    whole = xx * aa + xy * ab + sx * ac
    for row, (m, n, o) in enumerate(((ux, uy, su), (vx, vy, sv))):
        found[3 * row] = (aa * m + ab * n + ac * o) / whole
        found[3 * row + 1] = (ab * m + bb * n + bc * o) / whole
        found[3 * row + 2] = (ac * m + bc * n + cc * o) / whole
