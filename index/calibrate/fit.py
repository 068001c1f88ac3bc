"""Fit a calibration to pairs that are known to show the same thing, or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.log_odds import probability_of
from index.results import Evidence
from index.verification.calibration import Calibration, Curve, Reliability

# Evidence that speaks against a pair; all other numbers speak for it.
_AGAINST = ("hole",)
# Knots of each curve, at quantiles of its values: half of true pairs, half of false ones.
_KNOTS = 6
# Keeps the steps of a curve small where few pairs tell.
_RIDGE = 0.1
_BINS = 10
# Log-odds by likeness stay below this: it is no proof.
_MAX_LIKENESS = -0.5
_SMALLEST_STEP = 1e-3
# A second look takes no more than this from the log-odds.
_LEAST_SECOND_LOOK = -10.0
# Beside evidence, similarity adds at most this from knot to knot: a model knows the labels that it
# was trained on by sight, and would rely on that with other things.
_MAX_SIMILARITY_STEP = 0.4


@dataclass(frozen=True, eq=False)
class LabelledPairs:
    """Pairs of photos.

    Attributes:
        similarities: float64 (N,), of their global descriptors.
        evidence: float64 (N, fields of :class:`Evidence`); NaN where there is none.
        same: bool (N,), whether both show the same thing.
        weights: float64 (N,).
    """

    similarities: NDArray[np.float64]
    evidence: NDArray[np.float64]
    same: NDArray[np.bool_]
    weights: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.same)

    def where(self, mask: NDArray[np.bool_]) -> LabelledPairs:
        """Those that a mask (N,) selects."""
        return LabelledPairs(
            self.similarities[mask], self.evidence[mask], self.same[mask], self.weights[mask]
        )

    @classmethod
    def concatenate(cls, parts: Sequence[LabelledPairs]) -> LabelledPairs:
        """The pairs of all parts."""
        columns = zip(
            *((p.similarities, p.evidence, p.same, p.weights) for p in parts), strict=True
        )
        return cls(*map(np.concatenate, columns))


def fit_calibration(pairs: LabelledPairs, min_inliers: int) -> Calibration:
    """The calibration under which the labels are most likely, its curves monotonic.

    Args:
        pairs: true and false ones, with evidence and without.
        min_inliers: from which evidence was gathered.
    """
    has_evidence = ~np.isnan(pairs.evidence[:, 0])
    rest = pairs.where(has_evidence)
    names = Evidence._fields
    columns = [rest.similarities, *rest.evidence.T]
    signs = [1.0, *(-1.0 if name in _AGAINST else 1.0 for name in names)]
    limits = [_MAX_SIMILARITY_STEP, *(np.inf for _ in names)]
    bias, curves = _fit_curves(columns, signs, limits, rest.same, rest.weights)
    return Calibration(
        min_inliers=min_inliers,
        likeness=_fit_likeness(pairs.where(~has_evidence)),
        bias=bias,
        similarity=curves[0],
        evidence=dict(zip(names, curves[1:], strict=True)),
    )


def fit_second_look(log_odds: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """What a second look adds to the log-odds; at most 0.

    Args:
        log_odds: float64 (N,), of second looks, as if they were first ones.
        same: bool (N,), whether both photos show the same thing.
    """
    from scipy.optimize import minimize_scalar

    if not len(same) or same.all():
        return 0.0
    target = np.where(same, 1.0, -1.0)
    loss = minimize_scalar(
        lambda added: np.logaddexp(0, -target * (log_odds + added)).sum(),
        bounds=(_LEAST_SECOND_LOOK, 0),
        method="bounded",
    )
    return round(float(loss.x), 4)


def _fit_likeness(pairs: LabelledPairs) -> Curve:
    """On pairs without evidence; strictly rising, so that the order stays, and negative."""
    bias, (curve,) = _fit_curves([pairs.similarities], [1.0], [np.inf], pairs.same, pairs.weights)
    knots = np.array([-1.0, *curve.knots, 1.0])
    inner = np.asarray(curve.log_odds) + bias
    log_odds = np.array([inner[0] - 1, *inner, inner[-1] + 1])
    log_odds += _SMALLEST_STEP * np.arange(len(log_odds))
    log_odds -= max(log_odds.max() - _MAX_LIKENESS, 0)
    return Curve(knots=tuple(knots.tolist()), log_odds=tuple(log_odds.round(4).tolist()))


def _fit_curves(
    columns: Sequence[NDArray[np.float64]],
    signs: Sequence[float],
    limits: Sequence[float],
    same: NDArray[np.bool_],
    weights: NDArray[np.float64],
) -> tuple[float, list[Curve]]:
    """Logistic regression on steps between knots that may not go against the sign.

    Args:
        columns: (N,) each.
        signs: 1 where a higher value speaks for a pair, −1 against.
        limits: of each one's step from knot to knot.

    Returns:
        The bias, and a curve per column that is 0 at its first knot.
    """
    from scipy.optimize import minimize

    knots = [_knots(column, same) for column in columns]
    steps = np.concatenate(
        [sign * _ramps(c, k) for c, k, sign in zip(columns, knots, signs, strict=True)], axis=1
    )
    target = np.where(same, 1.0, -1.0)

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margin = target * (parameters[0] + steps @ parameters[1:])
        cost = weights @ np.logaddexp(0, -margin) + _RIDGE * (parameters[1:] ** 2).sum()
        slope = -target * weights / (1 + np.exp(np.clip(margin, -500, 500)))
        gradient = np.r_[slope.sum(), steps.T @ slope + 2 * _RIDGE * parameters[1:]]
        return float(cost), gradient

    bounds: list[tuple[float | None, float]] = [(None, np.inf)]
    for own, limit in zip(knots, limits, strict=True):
        bounds += [(0, limit)] * (len(own) - 1)
    start = np.r_[0.0, np.full(steps.shape[1], 0.1)]
    fitted = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B").x
    curves, first = [], 1
    for own, sign in zip(knots, signs, strict=True):
        rises = sign * np.cumsum(np.r_[0.0, fitted[first : first + len(own) - 1]])
        curves.append(Curve(knots=tuple(own.tolist()), log_odds=tuple(rises.round(4).tolist())))
        first += len(own) - 1
    return float(fitted[0]), curves


def _knots(values: NDArray[np.float64], same: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Rising values (at most ``_KNOTS``,) among which a curve bends."""
    shares = np.linspace(0, 1, 101)
    halves = [np.quantile(part, shares) for part in (values[same], values[~same]) if len(part)]
    knots = np.unique(np.quantile(np.concatenate(halves), np.linspace(0.01, 0.99, _KNOTS)).round(4))
    return knots if len(knots) > 1 else np.array([knots[0], knots[0] + 1])


def _ramps(values: NDArray[np.float64], knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, knots − 1): how far each value has come from one knot to the next, 0 to 1."""
    return np.clip((values[:, None] - knots[:-1]) / np.diff(knots), 0, 1)


def measure_reliability(calibration: Calibration, pairs: LabelledPairs) -> Reliability:
    """How well the probabilities of pairs with evidence hold; see :class:`Reliability`."""
    proven = pairs.where(~np.isnan(pairs.evidence[:, 0]))
    stated = np.array(
        [
            probability_of(calibration.log_odds(similarity, Evidence(*row)))
            for similarity, row in zip(proven.similarities, proven.evidence.tolist(), strict=True)
        ]
    )
    return reliability(stated, proven.same)


def reliability(stated: NDArray[np.floating], same: NDArray[np.bool_]) -> Reliability:
    """How well probabilities hold.

    Args:
        stated: float (N,), 0 to 1.
        same: bool (N,), what was true.
    """
    bins = np.minimum((stated * _BINS).astype(int), _BINS - 1)
    used = np.unique(bins)
    counts = np.array([(bins == number).sum() for number in used], int)
    means = np.array([stated[bins == number].mean() for number in used])
    shares = np.array([same[bins == number].mean() for number in used])
    error = float(counts @ np.abs(means - shares) / max(len(stated), 1))
    return Reliability(
        pairs=len(stated),
        expected_calibration_error=round(error, 4),
        stated=tuple(means.round(4).tolist()),
        right=tuple(shares.round(4).tolist()),
        count=tuple(counts.tolist()),
    )
