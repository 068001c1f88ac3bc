"""Consensus: the affine transform on which the most matches agree.

Random samples propose transforms (Fischler and Bolles, *Random sample consensus*, 1981): triples of
matches, which fix an affine transform, and pairs, which fix a similarity; of few true matches a
pair is hit sooner, and what it proposes is near enough to grow from. All proposals are judged at
once, in matrix products, by the squared misses that they leave, cut off at a bound (Torr and
Zisserman, *MLESAC*, 2000). The best few are fitted again to what agrees with them, ever more
narrowly (Chum et al., *Locally optimized RANSAC*, 2003). Many pairs of photos are worked on at a
time: what Python adds to each step is paid once for all, and other threads run meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
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
_TERMS = 13
_PRODUCTS, _TIMES = [0, 1, 4, 2, 5, 8], np.array([1, 2, 1, 2, 2, 1], np.float32)
_EQUATIONS = [0, 1, 3, 6, 9, 1, 2, 4, 7, 10, 3, 4, 5, 8, 11]

ComplexArray = NDArray[np.complex64]
Numbers = NDArray[np.intp]
Affine = NDArray[np.floating]  # (…, 6): u = p0 x + p1 y + p2, v = p3 x + p4 y + p5.
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
        query, other: their ends, float32 (N, 2), (x, y), N > 3.
        zooms: float32 (N,), from the query to the other photo, as the scales of the features tell;
            a match whose scales say otherwise does not agree. None: they tell nothing.
    """

    query: FloatArray
    other: FloatArray
    zooms: FloatArray | None = None


def agree(
    pairs: Sequence[Matches], threshold: float, trials: Sequence[Trials]
) -> list[Agreement | None]:
    """For each pair of photos the affine transform that leaves the least misses.

    The same matches give the same answer, whichever others are asked for at the same time.

    Args:
        pairs: their matches.
        threshold: distance in ``other`` within which a match agrees, in the points' unit.
        trials: for each pair; they differ in numbers only.

    Returns:
        The transform, float64 (3, 3), from ``query`` to ``other``, and bool (N,), which matches
        agree; None if no sample proposes anything.
    """
    if not pairs:
        return []
    # Places beyond what squares can hold agree with nothing.
    with np.errstate(all="ignore"):
        batch = _Batch(pairs, threshold, trials)
        found, proposed = _propose(batch)
        misses = batch.misses(found)
        for number, bound in enumerate(_NARROWING):
            if number == 1:
                left = batch.left(misses, _LOOSE)
                best = np.argpartition(left, _FINISHED, axis=1)[:, :_FINISHED]
                found = np.take_along_axis(found, best[:, :, None], axis=1)
                misses = np.take_along_axis(misses, best[:, :, None], axis=1)
            found = _fit(misses, batch, bound)
            misses = batch.misses(found)
        chosen = batch.left(misses, 1.0).argmin(axis=1)
        answers: list[Agreement | None] = []
        for number, best in enumerate(chosen.tolist()):
            transform = batch.in_pixels(number, found[number, best])
            agreeing = misses[number, best, : batch.sizes[number]] < 1
            good = proposed[number] and np.isfinite(transform).all()
            answers.append((transform, agreeing) if good else None)
    return answers


class _Batch:
    """Matches of many pairs, one pair after the other.

    Attributes:
        trials: the first pair's; the others differ in numbers only.
        numbers: (pairs, 2), how many pairs and triples of matches are tried.
        sizes, starts: (pairs,), how many matches each pair has, and where they begin.
        x, y: complex64 (matches,), places in the query and in the other photo, in units of the
            threshold, around their middles.
        octaves: float32 (matches,), logarithms of the zooms that scales tell; NaN: nothing.
        terms: float32 (pairs, 13, most matches), see :func:`_terms`.
    """

    def __init__(
        self, pairs: Sequence[Matches], threshold: float, trials: Sequence[Trials]
    ) -> None:
        self.trials, self._threshold = trials[0], threshold
        self.numbers = np.array([(one.pairs, one.triples) for one in trials])
        self.sizes = np.array([len(one.query) for one in pairs])
        self.starts = np.cumsum(self.sizes) - self.sizes
        self._middles, sides = [], []
        for ends in ([one.query for one in pairs], [one.other for one in pairs]):
            places = np.concatenate(ends).astype(np.float32).view(np.complex64)[:, 0]
            middles = np.array([one.mean(axis=0) for one in ends], np.float32).view(np.complex64)[
                :, 0
            ]
            self._middles.append(middles)
            sides.append((places - np.repeat(middles, self.sizes)) / np.float32(threshold))
        self.x, self.y = sides
        zooms = [
            np.full(len(one.query), np.nan, np.float32) if one.zooms is None else one.zooms
            for one in pairs
        ]
        self.octaves = np.log2(np.concatenate(zooms))
        shape = len(pairs), int(self.sizes.max())
        self.terms = np.zeros((shape[0], _TERMS, shape[1]), np.float32)
        self._octaves = np.full((shape[0], 1, shape[1]), np.nan, np.float32)
        terms, ends = _terms(self.x, self.y), self.starts + self.sizes
        for number, (start, end) in enumerate(zip(self.starts, ends, strict=True)):
            self.terms[number, :, : end - start] = terms[:, start:end]
            self._octaves[number, 0, : end - start] = self.octaves[start:end]

    def __len__(self) -> int:
        return len(self.sizes)

    def own(self, number: int, step: int = 1) -> FloatArray:
        """Every ``step``-th column of the terms of one pair."""
        return self.terms[number, :, : self.sizes[number] : step]

    def misses(self, found: Affine) -> FloatArray:
        """Squared distances from where transforms (pairs, K, 6) put the matches, and infinite ones
        where a match's scales tell another zoom: (pairs, K, most matches)."""
        weights = _weights(found)
        misses = np.full((*found.shape[:2], self.terms.shape[2]), np.inf, np.float32)
        # One pair at a time, so that its numbers do not depend on the others'.
        for number, size in enumerate(self.sizes.tolist()):
            np.matmul(weights[number], self.own(number), out=misses[number, :, :size])
        zooms = np.abs(found[..., 0] * found[..., 4] - found[..., 1] * found[..., 3])
        octaves = (np.log2(zooms) / 2).astype(np.float32)[..., None]
        misses[np.abs(octaves - self._octaves) >= self.trials.octaves] = np.inf
        return misses

    def left(self, misses: FloatArray, bound: float) -> FloatArray:
        """What transforms leave unexplained, in matches: (pairs, K)."""
        return np.stack(
            [_left(one[:, :size], bound) for one, size in zip(misses, self.sizes, strict=True)]
        )

    def in_pixels(self, number: int, found: Affine) -> NDArray[np.float64]:
        """A transform of one pair between points neither centred nor in units of the threshold."""
        matrix = np.eye(3)
        matrix[:2] = found.reshape(2, 3)
        before, after = (complex(middles[number]) for middles in self._middles)
        shift = self._threshold * matrix[:2, 2] + [after.real, after.imag]
        matrix[:2, 2] = shift - matrix[:2, :2] @ [before.real, before.imag]
        return matrix


def _propose(batch: _Batch) -> tuple[Affine, NDArray[np.bool_]]:
    """The best of the sampled transforms of each pair, (pairs, K, 6), and whether there is any."""
    draws = _draws(batch.trials.seed, int(batch.numbers.max()))
    kept = np.zeros((len(batch), _FITTED, 6), np.float32)
    left = np.full((len(batch), _FITTED), np.inf, np.float32)
    undecided = np.arange(len(batch))
    for part in (slice(0, _FIRST), slice(_FIRST, draws.shape[1])):
        samples, owners, drawn = _samples(batch, draws, part, undecided)
        similar, affine = (
            make(batch, samples[:, used], owners[used])
            for make, most in zip((_similarities, _affines), batch.numbers.T, strict=True)
            for used in [drawn < most[owners]]
        )
        made = np.concatenate([similar[0], affine[0]])
        owners = np.concatenate([similar[1], affine[1]])
        order = np.argsort(owners, kind="stable")
        weights, bounds = (
            _weights(made[order]),
            np.searchsorted(owners[order], np.arange(len(batch) + 1)),
        )
        made = made[order]
        for number in undecided.tolist():
            here = slice(bounds[number], bounds[number + 1])
            best, values = _promising(batch, number, weights[here])
            both = np.concatenate([left[number], values])
            first = np.argpartition(both, _FITTED - 1)[:_FITTED]
            kept[number] = np.concatenate([kept[number], made[here][best]])[first]
            left[number] = both[first]
        # The part of the matches that the best proposal explains, from what it leaves.
        explained = np.maximum(1 - left.min(axis=1) / batch.sizes, 0)
        sure = (1 - explained**3) ** _FIRST < 1 - _SURE
        undecided = np.flatnonzero(~sure & (batch.numbers.max(axis=1) > _FIRST))
        if not len(undecided):
            break
    return kept, np.asarray(np.isfinite(left).any(axis=1))


def _promising(batch: _Batch, number: int, weights: FloatArray) -> tuple[Numbers, FloatArray]:
    """Of one pair's proposals those that are worth a judgement by all matches, and what they leave
    unexplained."""
    step = -(-int(batch.sizes[number]) // _FEW)
    chosen = np.arange(len(weights))
    most = max(_PROMISING, len(weights) // 10)
    if step > 1 and len(weights) > most:
        few = np.ascontiguousarray(batch.own(number, step))
        chosen = np.argpartition(_left(weights @ few, _LOOSE), most)[:most]
    return chosen, _left(weights[chosen] @ batch.own(number), _LOOSE)


@lru_cache(maxsize=4)
def _draws(seed: int, count: int) -> FloatArray:
    """Uniform numbers (3, count), from which samples are taken."""
    return np.random.default_rng(seed).random((count, 3), np.float32).T.copy()


def _samples(
    batch: _Batch, draws: FloatArray, part: slice, numbers: Numbers
) -> tuple[Numbers, Numbers, Numbers]:
    """Three different matches (3, samples), whose they are, and which of the draws they come from.

    Args:
        part: of the draws; each pair takes as many of them as its trials allow.
        numbers: the pairs that samples are taken of.
    """
    most = batch.numbers[numbers].max(axis=1)
    many = np.clip(most, part.start, part.stop) - part.start
    owners = np.repeat(numbers, many)
    drawn = np.arange(len(owners)) - np.repeat(np.cumsum(many) - many, many) + part.start
    count = batch.sizes[owners]
    first, second, third = draws[:, drawn]
    first = (first * count).astype(np.intp)
    second = (first + 1 + (second * (count - 1)).astype(np.intp)) % count
    third = (first + 1 + (third * (count - 2)).astype(np.intp)) % count
    # The third may come out as the second; the one after it cannot, unless it is the first.
    third = (third + (third == second)) % count
    third = (third + (third == first)) % count
    return np.stack([first, second, third]) + batch.starts[owners], owners, drawn


# Places are complex numbers from here on: a transform takes z to α z + β conj(z) + γ, and β is zero
# for a similarity.


def _similarities(batch: _Batch, samples: Numbers, owners: Numbers) -> tuple[Affine, Numbers]:
    """Turn, zoom and shift of pairs of matches, and whose they are."""
    x, y, most = batch.x, batch.y, batch.trials.max_zoom
    first, second = samples[:2]
    before, after = x[second] - x[first], y[second] - y[first]
    here, there = np.abs(before), np.abs(after)
    good = (np.minimum(here, there) > _APART) & (there < most * here) & (here < most * there)
    kept = np.flatnonzero(good & _consistent(batch, there / here, samples[:2]))
    first, turn = first[kept], after[kept] / before[kept]
    return _real(turn, np.zeros_like(turn), y[first] - turn * x[first]), owners[kept]


def _affines(batch: _Batch, samples: Numbers, owners: Numbers) -> tuple[Affine, Numbers]:
    """The transforms of triples of matches, and whose they are."""
    x, y = batch.x, batch.y
    first, second, third = samples
    p, q, u, v = (
        x[second] - x[first],
        x[third] - x[first],
        y[second] - y[first],
        y[third] - y[first],
    )
    before, after = (p.conj() * q).imag, (u.conj() * v).imag
    good = np.minimum(np.abs(before), np.abs(after)) > _AREA
    good &= batch.trials.mirrored | (before * after > 0)
    kept = np.flatnonzero(good & _consistent(batch, np.sqrt(np.abs(after / before)), samples))
    first, p, q, u, v = first[kept], p[kept], q[kept], u[kept], v[kept]
    scale = np.complex64(0.5j) / before[kept]
    turn, mirror = (u * q.conj() - v * p.conj()) * scale, (v * p - u * q) * scale
    shift = y[first] - turn * x[first] - mirror * x[first].conj()
    return _real(turn, mirror, shift), owners[kept]


def _consistent(batch: _Batch, zooms: FloatArray, samples: Numbers) -> NDArray[np.bool_]:
    """Whether the scales of no match of a sample tell another zoom."""
    off = np.abs(batch.octaves[samples] - np.log2(zooms))
    return ~(off >= batch.trials.octaves).any(axis=0)


def _real(turn: ComplexArray, mirror: ComplexArray, shift: ComplexArray) -> Affine:
    across, down = turn + mirror, 1j * (turn - mirror)
    return np.stack(
        [across.real, down.real, shift.real, across.imag, down.imag, shift.imag], axis=1
    )


def _terms(x: ComplexArray, y: ComplexArray) -> FloatArray:
    """Of every match the 13 products that its squared miss is made of: float32 (13, N).

    |A a + t − b|² is a sum of the places' products, weighted by what depends on A and t only.
    """
    a, b, u, v = x.real, x.imag, y.real, y.imag
    one = np.ones_like(a)
    return np.stack(
        [a * a, a * b, b * b, a, b, one, u * a, u * b, u, v * a, v * b, v, u * u + v * v]
    )


def _weights(found: Affine) -> FloatArray:
    """What weighs the terms for transforms (…, 6): float32 (…, 13)."""
    halves = found.reshape(*found.shape[:-1], 2, 3)
    weights = np.empty((*found.shape[:-1], _TERMS), np.float32)
    products = np.swapaxes(halves, -1, -2) @ halves
    weights[..., :6] = products.reshape(*found.shape[:-1], 9)[..., _PRODUCTS] * _TIMES
    weights[..., 6:12] = -2 * found
    weights[..., 12] = 1
    return weights


def _left(misses: FloatArray, bound: float) -> FloatArray:
    """What transforms leave unexplained, in matches: the last axis is summed up."""
    return np.minimum(misses, np.float32(bound**2)).sum(axis=-1) / np.float32(bound**2)


def _fit(misses: FloatArray, batch: _Batch, bound: float) -> Affine:
    """Least squares over what agrees within the bound, the nearer the more it counts."""
    weights = np.maximum(1 - misses / np.float32(bound**2), 0)
    sums = np.empty((*misses.shape[:2], _TERMS))
    for number, size in enumerate(batch.sizes.tolist()):
        sums[number] = weights[number, :, :size] @ batch.own(number).T
    equations = sums[..., _EQUATIONS].reshape(*sums.shape[:-1], 3, 5)
    left, right = equations[..., :3] + _RIDGE, equations[..., 3:]
    return np.swapaxes(np.linalg.solve(left, right), -1, -2).reshape(*sums.shape[:-1], 6)
