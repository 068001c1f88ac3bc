"""Calibration: from evidence to the probability that two photos show the same thing.

The log-odds of a pair with evidence are a sum of monotonic curves, one for each number of the
evidence and one for the similarity of the global descriptors (a generalised additive model, Hastie
and Tibshirani, 1986). Where likeness alone, the similarity raised by the inliers, gives more, that
counts: it never reaches one half, so that it proves nothing, but views of a landmark that have
little in common keep their order. The curves come with the model, fitted on its training photos by
:mod:`index.calibrate`.
"""

from __future__ import annotations

import math
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, FiniteFloat, field_validator, model_validator

from delg.errors import ModelError, UsageError
from delg.limits import MIB
from delg.paths import exists
from delg.plain_values import parse_json
from delg.settings import Settings, parse
from index.log_odds import probability_of
from index.results import Evidence, Verification

if TYPE_CHECKING:
    from index.verification.geometric import GeometricMatch

_MAX_BYTES = MIB
_MAX_KNOTS = 64
# Inliers that raise a likeness half of the way to 1.
_HALF_WAY = 40.0


class Curve(Settings):
    """A piecewise linear function, constant beyond its first and last knots.

    Attributes:
        knots: rising.
        log_odds: its value at each.
    """

    knots: tuple[FiniteFloat, ...] = Field(min_length=1, max_length=_MAX_KNOTS)
    log_odds: tuple[FiniteFloat, ...]

    @model_validator(mode="after")
    def _check(self) -> Curve:
        if len(self.knots) != len(self.log_odds):
            raise ValueError("knots and log_odds differ in number")
        if any(left >= right for left, right in pairwise(self.knots)):
            raise ValueError("the knots must rise")
        return self

    def at(self, value: float) -> float:
        """The value at a point."""
        return float(np.interp(value, self.knots, self.log_odds))


class Reliability(Settings):
    """How well the probabilities hold on pairs that the calibration was not fitted on.

    Attributes:
        pairs: their number.
        expected_calibration_error: mean distance between stated probability and share that is
            right, over ten bins of equal width weighted by their pairs (Naeini et al., AAAI 2015).
        stated, right: of each bin that has pairs: the mean probability, and the share of true
            pairs.
        count: pairs of each.
    """

    pairs: int
    expected_calibration_error: FiniteFloat
    stated: tuple[FiniteFloat, ...]
    right: tuple[FiniteFloat, ...]
    count: tuple[int, ...]


def _in_range(similarity: float) -> float:
    return -1.0 if math.isnan(similarity) else min(max(similarity, -1.0), 1.0)


def likeness(similarity: float, inliers: float) -> float:
    """The similarity, −1 to 1, raised towards 1 by matches that agree."""
    return similarity + (1 - similarity) * inliers / (inliers + _HALF_WAY)


class Calibration(Settings):
    """What evidence is worth.

    Attributes:
        min_inliers: inliers from which there is evidence; fewer agree by chance.
        likeness: log-odds by likeness (:func:`likeness`). They rise, and are negative: that photos
            look alike proves nothing.
        bias: log-odds where there is evidence, before the curves are added.
        similarity: what the similarity adds to evidence.
        evidence: what each number of the evidence adds.
        second_look: what it adds that a photo was warped into the other one's pose before, so that
            they agree in it by construction; not above 0.
        reliability: measured when it was fitted.
    """

    min_inliers: int = Field(ge=4)
    likeness: Curve
    bias: FiniteFloat
    similarity: Curve
    evidence: dict[str, Curve]
    second_look: FiniteFloat = Field(0.0, le=0)
    reliability: Reliability | None = None

    @field_validator("evidence")
    @classmethod
    def _check_names(cls, value: dict[str, Curve]) -> dict[str, Curve]:
        unknown = sorted(set(value) - set(Evidence._fields))
        if unknown:
            raise ValueError(f"there is no evidence called {unknown[0]!r}")
        return value

    @field_validator("likeness")
    @classmethod
    def _check_likeness(cls, value: Curve) -> Curve:
        if any(left >= right for left, right in pairwise((*value.log_odds, 0.0))):
            raise ValueError("the log-odds must rise, and be negative")
        if value.knots[0] > -1 or value.knots[-1] < 1:
            raise ValueError("the knots must reach from -1 to 1")
        return value

    @cached_property
    def _curves(self) -> tuple[tuple[int, Curve], ...]:
        return tuple((Evidence._fields.index(name), curve) for name, curve in self.evidence.items())

    @cached_property
    def of_second_look(self) -> Calibration:
        """What evidence is worth when a pair is verified again; see
        :mod:`index.verification.reverify`."""
        return self.model_copy(update={"bias": self.bias + self.second_look, "second_look": 0.0})

    def log_odds(self, similarity: float, evidence: Evidence | None) -> float:
        """Log-odds, natural logarithm, that two photos show the same thing.

        Args:
            similarity: inner product of the global descriptors, −1 to 1; NaN: there are none.
            evidence: None: no transform, or too few inliers.
        """
        inliers = 0.0 if evidence is None else evidence.inliers
        by_likeness = self.likeness.at(likeness(_in_range(similarity), inliers))
        return max(by_likeness, self.log_odds_by_evidence(similarity, evidence))

    def log_odds_by_evidence(self, similarity: float, evidence: Evidence | None) -> float:
        """The same by the evidence, whatever the likeness; without evidence −∞."""
        if evidence is None:
            return -math.inf
        curves = (curve.at(evidence[number]) for number, curve in self._curves)
        return self.bias + self.similarity.at(_in_range(similarity)) + math.fsum(curves)

    def verify(
        self, similarity: float, match: GeometricMatch | None, min_probability: float
    ) -> Verification:
        """The verdict on two photos.

        Args:
            similarity: as in :meth:`log_odds`.
            match: the transform on which their features agree; None: there is none.
            min_probability: from which they are verified, at least .5.
        """
        if match is None:
            return Verification.none(self.log_odds(similarity, None))
        by_evidence = self.log_odds_by_evidence(similarity, match.evidence)
        return Verification(
            inliers=len(match.inliers),
            log_odds=self.log_odds(similarity, match.evidence),
            verified=probability_of(by_evidence) >= min_probability,
            transform=match.transform,
            matches=match.inliers,
            log_odds_by_evidence=by_evidence,
        )


# For models that come without one: 20 inliers prove, whatever they look like. Chosen on photos of
# landmarks and of covers with features of several models.
DEFAULT_CALIBRATION = Calibration(
    min_inliers=6,
    likeness=Curve(knots=(-1.0, 0.0, 1.0), log_odds=(-9.0, -6.0, -0.5)),
    bias=0.0,
    similarity=Curve(knots=(0.0,), log_odds=(0.0,)),
    evidence={
        "inliers": Curve(
            knots=(6.0, 12.0, 20.0, 40.0, 80.0, 200.0, 1000.0),
            log_odds=(-4.0, -2.0, 1.75, 2.5, 4.5, 7.0, 10.0),
        )
    },
)


def read_calibration(path: Path) -> Calibration:
    """Read a calibration file (JSON).

    Raises:
        ModelError: it cannot be read, or is none.
    """
    if not exists(path):
        return DEFAULT_CALIBRATION

    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ModelError(f"{path}: is no calibration of a model: larger than 1 MiB")
        return parse(Calibration, parse_json(content), str(path))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: is no calibration of a model: {error}") from None
    except UsageError as error:
        raise ModelError(str(error)) from None
