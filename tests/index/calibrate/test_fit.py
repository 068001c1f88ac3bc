"""Fits against relations that are known, and reliability worked by hand."""

import numpy as np
import pytest

from index.calibrate.fit import (
    LabelledPairs,
    fit_calibration,
    fit_second_look,
    measure_reliability,
    reliability,
)
from index.log_odds import probability_of
from index.results import Evidence

NAMES = Evidence._fields
COUNT = 3000


def pairs(true_log_odds, alone_log_odds, seed: int = 0) -> LabelledPairs:
    """Pairs with evidence, and as many without; labels are drawn with those log-odds."""
    rng = np.random.default_rng(seed)
    evidence = np.stack([rng.uniform(0, 1, COUNT) for _ in NAMES], axis=1)
    evidence[:, 0] = rng.uniform(6, 60, COUNT)
    similarities = rng.uniform(-0.2, 0.9, 2 * COUNT)
    log_odds = np.r_[
        true_log_odds(dict(zip(NAMES, evidence.T, strict=True)), similarities[:COUNT]),
        alone_log_odds(similarities[COUNT:]),
    ]
    same = rng.random(2 * COUNT) < 1 / (1 + np.exp(-log_odds))
    nothing = np.full((COUNT, len(NAMES)), np.nan)
    return LabelledPairs(similarities, np.r_[evidence, nothing], same, np.ones(2 * COUNT))


def relation(evidence, similarity):
    """Inliers speak for a pair, holes against it, nothing else matters."""
    return evidence["inliers"] / 6 - 5 - 3 * evidence["hole"]


@pytest.fixture(scope="module")
def fitted():
    return fit_calibration(pairs(relation, lambda similarity: 4 * similarity - 5), 6)


def evidence_of(**values: float) -> Evidence:
    return Evidence(*(values.get(name, 0.5) for name in NAMES))


def test_a_known_relation_is_recovered(fitted):
    for inliers in (10, 20, 30, 40, 55):
        for hole in (0.1, 0.5, 0.9):
            stated = fitted.log_odds(0.3, evidence_of(inliers=inliers, hole=hole))
            true = relation({"inliers": inliers, "hole": hole}, 0.3)
            assert probability_of(stated) == pytest.approx(probability_of(true), abs=0.1)
    flat = [curve.log_odds[-1] for name, curve in fitted.evidence.items()
            if name not in ("inliers", "hole")]  # fmt: skip
    assert max(map(abs, flat)) < 0.7


def test_similarity_alone_is_recovered_where_it_may_be(fitted):
    for similarity in (0.0, 0.3, 0.6):
        stated = probability_of(fitted.log_odds(similarity, None))
        assert stated == pytest.approx(probability_of(4 * similarity - 5), abs=0.08)


def test_what_speaks_against_all_reason_is_not_learnt():
    """Labels by which more inliers and less of a hole mean another thing."""
    perverse = fit_calibration(
        pairs(lambda e, s: 3 - e["inliers"] / 10 + 3 * e["hole"], lambda s: 2 - 6 * s), 6
    )
    assert set(perverse.evidence["inliers"].log_odds) == {0}
    assert set(perverse.evidence["hole"].log_odds) == {0}
    alone = perverse.likeness
    assert (np.diff(alone.log_odds) > 0).all() and max(alone.log_odds) < 0


def test_fits_repeat(fitted):
    again = fit_calibration(pairs(relation, lambda similarity: 4 * similarity - 5), 6)
    assert again == fitted


def test_a_fit_holds_on_other_pairs_of_its_kind(fitted):
    others = pairs(relation, lambda similarity: 4 * similarity - 5, seed=9)
    measured = measure_reliability(fitted, others)
    # Pairs without evidence have no part in it.
    assert measured.pairs == COUNT == sum(measured.count)
    assert measured.expected_calibration_error < 0.06
    perverse = LabelledPairs(others.similarities, others.evidence, ~others.same, others.weights)
    assert measure_reliability(fitted, perverse).expected_calibration_error > 0.5


def test_reliability_worked_by_hand():
    stated = np.array([0.05, 0.05, 0.45, 0.45, 0.45, 0.45, 1.0, 0.95])
    same = np.array([0, 0, 1, 0, 1, 0, 1, 0], bool)
    measured = reliability(stated, same)
    assert measured.stated == pytest.approx((0.05, 0.45, 0.975))
    assert measured.right == (0, 0.5, 0.5) and measured.count == (2, 4, 2)
    error = (2 * 0.05 + 4 * 0.05 + 2 * 0.475) / 8
    assert measured.expected_calibration_error == pytest.approx(error, abs=1e-4)


def test_probabilities_that_hold_have_no_calibration_error():
    stated = np.full(100, 0.75)
    assert reliability(stated, np.arange(100) < 75).expected_calibration_error == 0


def test_parts_of_pairs():
    both = pairs(relation, lambda similarity: similarity - 5)
    proven = ~np.isnan(both.evidence[:, 0])
    halves = both.where(proven), both.where(~proven)
    again = LabelledPairs.concatenate(halves)
    assert len(halves[0]) == len(halves[1]) == COUNT and len(again) == len(both)
    np.testing.assert_array_equal(again.same, both.same)


def test_a_second_look_takes_what_its_false_pairs_gain():
    log_odds = np.array([6.0, 7.0, 5.0, 2.0, 1.0, -4.0])
    same = np.array([True, True, True, False, False, False])
    added = fit_second_look(log_odds, same)
    # Between the least true and the best false one: 5 and 2.
    assert -5 < added < -2
    assert fit_second_look(log_odds[:3], same[:3]) == fit_second_look(log_odds[:0], same[:0]) == 0
    # It never makes a second look better than a first one.
    assert fit_second_look(np.array([-3.0, -4.0]), np.array([True, False])) > -1e-3
