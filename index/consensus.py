"""Consensus: the affine transform on which the most matches agree.

Random samples propose transforms (Fischler and Bolles, *Random sample consensus*, 1981): triples of
matches, which fix an affine transform, and pairs, which fix a similarity; of few true matches a
pair is hit sooner, and what it proposes is near enough to grow from. All proposals are judged at
once, in matrix products, by the squared misses that they leave, cut off at a bound (Torr and
Zisserman, *MLESAC*, 2000). The best few are fitted again to what agrees with them, ever more
narrowly (Chum et al., *Locally optimized RANSAC*, 2003).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from delg.values import FloatArray

# Everything below is in units of the threshold.
# What proposals are judged by, and how the bound narrows while they are fitted again.
_LOOSE = 2.0
_NARROWING = (2.0, 1.5, 1.0)
# Sampled points lie so far apart at least, and triples span so much area.
_APART, _AREA = 1.0, 1.0
# So many proposals are fitted again at first, and so many to the end.
_FITTED, _FINISHED = 12, 4
# Matches on which proposals are judged at first, and how many of those then on all, or a tenth.
_FEW, _PROMISING = 128, 40
# Samples of each kind that are tried before a look at whether they are enough.
_FIRST = 96
# Enough is when better ones would have been drawn this surely, were there any.
_SURE = 0.9999
# Keeps the equations of points that lie on a line solvable.
_RIDGE = 1e-3 * np.eye(3)
# Which products of a transform's parts weigh the first six terms, and how often; and which sums of
# terms make the three equations of its least squares for each coordinate.
_PRODUCTS, _TIMES = [0, 1, 4, 2, 5, 8], np.float32([1, 2, 1, 2, 2, 1])
_EQUATIONS = [0, 1, 3, 6, 9, 1, 2, 4, 7, 10, 3, 4, 5, 8, 11]

ComplexArray = NDArray[np.complex64]
Affine = NDArray[np.floating]  # (K, 6): u = p0 x + p1 y + p2, v = p3 x + p4 y + p5.


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
class _Matches:
    """Matches, centred and in units of the threshold.

    Attributes:
        x, y: complex64 (N,), places in the query and in the other photo.
        terms: see :func:`_terms`.
        octaves: float32 (N,), the logarithms of the zoom that the scales tell, or None.
    """

    x: ComplexArray
    y: ComplexArray
    terms: FloatArray
    octaves: FloatArray | None

    def __len__(self) -> int:
        return len(self.x)


def agree(
    query: FloatArray,
    other: FloatArray,
    threshold: float,
    trials: Trials,
    zooms: FloatArray | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]] | None:
    """The affine transform that leaves the least misses; the same input gives the same answer.

    Args:
        query, other: ends of the matches, float32 (N, 2), (x, y), N > 3.
        threshold: distance in ``other`` within which a match agrees, in the points' unit.
        zooms: float32 (N,), from the query to the other photo, as the scales of the features tell;
            a match whose scales say otherwise does not agree.

    Returns:
        The transform, float64 (3, 3), from ``query`` to ``other``, and bool (N,), which matches
        agree; None if no sample proposes anything.
    """
    # Places beyond what squares can hold agree with nothing.
    with np.errstate(all="ignore"):
        middles = query.mean(axis=0), other.mean(axis=0)
        a, b = (
            (ends - at) / np.float32(threshold)
            for ends, at in zip((query, other), middles, strict=True)
        )
        x, y = a.view(np.complex64)[:, 0], b.view(np.complex64)[:, 0]
        matches = _Matches(x, y, _terms(a, b), None if zooms is None else np.log2(zooms))
        found = _propose(matches, trials)
        if not len(found):
            return None
        misses = _misses(found, matches, trials)
        for number, bound in enumerate(_NARROWING):
            if number == 1:
                best = _best(_left(misses, _LOOSE), _FINISHED)
                found, misses = found[best], misses[best]
            found = _fit(misses, matches, bound)
            misses = _misses(found, matches, trials)
        chosen = int(_left(misses, 1.0).argmin())
        transform = _in_pixels(found[chosen], middles, threshold)
    return (transform, misses[chosen] < 1) if np.isfinite(transform).all() else None


def _propose(matches: _Matches, trials: Trials) -> Affine:
    """The best of the sampled transforms."""
    count, terms = len(matches), matches.terms
    most = max(trials.pairs, trials.triples)
    draws = _draws(trials.seed, most)
    few = np.ascontiguousarray(terms[:, :: -(-count // _FEW)])
    kept, left = np.zeros((0, 6), np.float32), np.zeros(0, np.float32)
    for part in (slice(0, _FIRST), slice(_FIRST, most)):
        samples = _samples(draws[:, part], count)
        pairs, triples = (
            samples[:, : max(0, many - part.start)] for many in (trials.pairs, trials.triples)
        )
        made = np.concatenate(
            [_similarities(matches, pairs, trials), _affines(matches, triples, trials)]
        )
        left_of_few = _left(_by_place(made, few), _LOOSE)
        made = made[_best(left_of_few, max(_PROMISING, len(made) // 10))]
        kept = np.concatenate([kept, made])
        left = np.concatenate([left, _left(_by_place(made, terms), _LOOSE)])
        best = _best(left, _FITTED)
        kept, left = kept[best], left[best]
        # The part of the matches that the best proposal explains, from what it leaves.
        explained = 1 - left.min(initial=count) / count
        if (1 - explained**3) ** _FIRST < 1 - _SURE:
            break
    return kept


@lru_cache(maxsize=4)
def _draws(seed: int, count: int) -> FloatArray:
    """Uniform numbers (3, count), from which samples are taken."""
    return np.random.default_rng(seed).random((count, 3), np.float32).T.copy()


def _samples(draws: FloatArray, count: int) -> NDArray[np.intp]:
    """Three different numbers below ``count`` for each draw: (3, draws)."""
    ranges = np.array([[count], [count - 1], [count - 2]], np.float32)
    first, second, third = (draws * ranges).astype(np.intp)
    second = (first + 1 + second) % count
    third = (first + 1 + third) % count
    # The third may come out as the second; the one after it cannot, unless it is the first.
    third += third == second
    third %= count
    return np.stack([first, second, (third + (third == first)) % count])


# Places are complex numbers from here on: a transform takes z to α z + β conj(z) + γ, and β is zero
# for a similarity.


def _similarities(matches: _Matches, samples: NDArray[np.intp], trials: Trials) -> Affine:
    """Turn, zoom and shift of pairs of matches."""
    x, y = matches.x, matches.y
    first, second = samples[:2]
    before, after = x[second] - x[first], y[second] - y[first]
    here, there, most = np.abs(before), np.abs(after), trials.max_zoom
    good = (np.minimum(here, there) > _APART) & (there < most * here) & (here < most * there)
    good &= _consistent(there / here, samples[:2], matches, trials)
    kept = np.flatnonzero(good)
    first, turn = first[kept], after[kept] / before[kept]
    return _real(turn, np.zeros_like(turn), y[first] - turn * x[first])


def _affines(matches: _Matches, samples: NDArray[np.intp], trials: Trials) -> Affine:
    """The transforms of triples of matches."""
    x, y = matches.x, matches.y
    first, second, third = samples
    p, q, u, v = (
        x[second] - x[first],
        x[third] - x[first],
        y[second] - y[first],
        y[third] - y[first],
    )
    before, after = (p.conj() * q).imag, (u.conj() * v).imag
    good = np.minimum(np.abs(before), np.abs(after)) > _AREA
    good &= trials.mirrored | (before * after > 0)
    good &= _consistent(np.sqrt(np.abs(after / before)), samples, matches, trials)
    kept = np.flatnonzero(good)
    first, p, q, u, v = first[kept], p[kept], q[kept], u[kept], v[kept]
    scale = np.complex64(0.5j) / before[kept]
    turn, mirror = (u * q.conj() - v * p.conj()) * scale, (v * p - u * q) * scale
    return _real(turn, mirror, y[first] - turn * x[first] - mirror * x[first].conj())


def _consistent(
    zooms: FloatArray, samples: NDArray[np.intp], matches: _Matches, trials: Trials
) -> np.ndarray | bool:
    """Whether the scales of all matches of a sample tell about its zoom."""
    if matches.octaves is None:
        return True
    off = np.abs(matches.octaves[samples] - np.log2(zooms))
    return np.asarray((off < trials.octaves).all(axis=0))


def _real(turn: ComplexArray, mirror: ComplexArray, shift: ComplexArray) -> Affine:
    across, down = turn + mirror, 1j * (turn - mirror)
    return np.stack(
        [across.real, down.real, shift.real, across.imag, down.imag, shift.imag], axis=1
    )


def _terms(a: FloatArray, b: FloatArray) -> FloatArray:
    """Of every match the 13 products that its squared miss is made of: float32 (13, N).

    |A a + t − b|² is a sum of the places' products, weighted by what depends on A and t only.
    """
    (x, y), (u, v) = a.T, b.T
    one = np.ones_like(x)
    return np.stack(
        [x * x, x * y, y * y, x, y, one, u * x, u * y, u, v * x, v * y, v, u * u + v * v]
    )


def _by_place(found: Affine, terms: FloatArray) -> FloatArray:
    """Squared distances (K, N) from where the transforms put the matches."""
    halves = found.reshape(-1, 2, 3)
    weights = np.empty((len(found), 13), np.float32)
    weights[:, :6] = (halves.transpose(0, 2, 1) @ halves).reshape(-1, 9)[:, _PRODUCTS] * _TIMES
    weights[:, 6:12] = -2 * found
    weights[:, 12] = 1
    return np.asarray(weights @ terms)


def _misses(found: Affine, matches: _Matches, trials: Trials) -> FloatArray:
    """The same, and infinite where a match's scales tell another zoom."""
    misses = _by_place(found, matches.terms)
    if matches.octaves is not None:
        octaves = np.log2(np.abs(found[:, 0] * found[:, 4] - found[:, 1] * found[:, 3])) / 2
        wrong = np.abs(octaves[:, None].astype(np.float32) - matches.octaves) >= trials.octaves
        misses[wrong] = np.inf
    return misses


def _left(misses: FloatArray, bound: float) -> FloatArray:
    """What transforms leave unexplained, in matches: float32 (K,)."""
    return np.minimum(misses, np.float32(bound**2)).sum(axis=1) / np.float32(bound**2)


def _best(left: FloatArray, count: int) -> NDArray[np.intp]:
    if len(left) <= count:
        return np.arange(len(left))
    return np.argpartition(left, count)[:count]


def _fit(misses: FloatArray, matches: _Matches, bound: float) -> Affine:
    """Least squares over what agrees within the bound, the nearer the more it counts."""
    weights = np.maximum(1 - misses / np.float32(bound**2), 0)
    sums = (weights @ matches.terms.T).astype(np.float64)
    equations = sums[:, _EQUATIONS].reshape(-1, 3, 5)
    left, right = equations[:, :, :3] + _RIDGE, equations[:, :, 3:]
    return np.linalg.solve(left, right).transpose(0, 2, 1).reshape(-1, 6)


def _in_pixels(
    found: Affine, middles: tuple[FloatArray, FloatArray], threshold: float
) -> NDArray[np.float64]:
    """The transform between points that are neither centred nor in units of the threshold."""
    matrix = np.eye(3)
    matrix[:2] = found.reshape(2, 3)
    matrix[:2, 2] = threshold * matrix[:2, 2] + middles[1] - matrix[:2, :2] @ middles[0]
    return matrix
