"""Calibrations: probabilities worked by hand, what they may not do, and files of them."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import delg.zoo.registry
from delg.errors import ModelError
from index.results import Evidence, as_percent
from index.verification.calibration import (
    DEFAULT_CALIBRATION,
    Calibration,
    Curve,
    read_calibration,
)
from index.verification.geometric import GeometricMatch

SHIPPED = read_calibration(delg.zoo.registry.find_model("delg-lite").calibration)
BY_HAND = Calibration(
    min_inliers=6,
    likeness=Curve(knots=(-1.0, 0.0, 1.0), log_odds=(-5.0, -4.0, -1.0)),
    bias=-2.0,
    similarity=Curve(knots=(0.0, 1.0), log_odds=(0.0, 1.0)),
    evidence={
        "inliers": Curve(knots=(6.0, 16.0), log_odds=(0.0, 5.0)),
        "hole": Curve(knots=(0.0, 10.0), log_odds=(0.0, -3.0)),
    },
)
PROVEN = Evidence(
    inliers=10, inlier_rate=0.5, agreement=0.5, contrast=1, hole=5, coverage=12, variety=0.9
)
VALUES = {
    "inliers": st.floats(6, 2000),
    "inlier_rate": st.floats(0, 1),
    "agreement": st.floats(0, 1),
    "contrast": st.floats(0, 20),
    "hole": st.floats(0, 500),
    "coverage": st.floats(1, 64),
    "variety": st.floats(0, 1),
}
NUMBERS = [VALUES.get(name, st.floats(0, 100)) for name in Evidence._fields]
evidences = st.tuples(*NUMBERS).map(Evidence._make)
similarities = st.floats(-1, 1)


def test_log_odds_worked_by_hand():
    # −2 + .5 + 4 · .5 − 5 · .3 = −1
    assert BY_HAND.log_odds(0.5, PROVEN) == pytest.approx(-1.0)
    assert BY_HAND.log_odds(0.5, PROVEN._replace(inliers=16)) == pytest.approx(2.0)
    # Curves are flat beyond their ends.
    assert BY_HAND.log_odds(0.5, PROVEN._replace(inliers=999, hole=0)) == pytest.approx(3.5)
    assert BY_HAND.log_odds(0.5, None) == pytest.approx(-2.5)
    assert BY_HAND.log_odds(-1, None) == -5.0
    # Features without a global descriptor are no likeness at all.
    assert BY_HAND.log_odds(math.nan, None) == -5.0
    assert BY_HAND.log_odds(math.nan, PROVEN) == pytest.approx(-1.5)


@pytest.mark.parametrize(
    ("min_probability", "verified"), [(0.5, True), (0.88, True), (0.89, False)]
)
def test_verified_means_at_least_the_probability_asked_for(min_probability, verified):
    # Log-odds of 2 are a probability of .8808.
    match = GeometricMatch(np.eye(3), np.zeros((16, 2), np.int32), PROVEN._replace(inliers=16))
    verdict = BY_HAND.verify(0.5, match, min_probability)
    assert verdict.verified is verified and verdict.inliers == 16
    assert verdict.probability == pytest.approx(0.8808, abs=1e-4)


def test_without_a_transform_nothing_is_verified_however_alike():
    verdict = BY_HAND.verify(1.0, None, 0.5)
    assert (verdict.verified, verdict.inliers, verdict.log_odds) == (False, 0, -1.0)
    few = GeometricMatch(np.eye(3), np.zeros((5, 2), np.int32), None)
    assert BY_HAND.verify(1.0, few, 0.5).verified is False


@pytest.mark.parametrize("calibration", [SHIPPED, DEFAULT_CALIBRATION], ids=["shipped", "default"])
@pytest.mark.parametrize("name", Evidence._fields)
@given(evidence=evidences, similarity=similarities, data=st.data())
def test_each_number_speaks_one_way(calibration, name, evidence, similarity, data):
    low, high = sorted((getattr(evidence, name), data.draw(VALUES.get(name, st.floats(0, 100)))))
    less, more = (
        calibration.log_odds(similarity, evidence._replace(**{name: value}))
        for value in (low, high)
    )
    assert (more <= less + 1e-9) if name == "hole" else (less <= more + 1e-9)


@pytest.mark.parametrize("calibration", [SHIPPED, DEFAULT_CALIBRATION], ids=["shipped", "default"])
@given(first=similarities, second=similarities, evidence=st.none() | evidences)
def test_likeness_never_speaks_against_and_alone_proves_nothing(
    calibration, first, second, evidence
):
    low, high = sorted((first, second))
    assert calibration.log_odds(low, evidence) <= calibration.log_odds(high, evidence) + 1e-12
    assert calibration.log_odds(high, None) < 0


@pytest.mark.parametrize("calibration", [SHIPPED, DEFAULT_CALIBRATION], ids=["shipped", "default"])
def test_similarity_alone_keeps_the_global_order(calibration):
    values = [calibration.log_odds(similarity, None) for similarity in np.linspace(-1, 1, 201)]
    assert all(np.diff(values) > 0)


def test_the_shipped_calibration_was_measured_on_other_pairs():
    reliability = SHIPPED.reliability
    assert reliability is not None and reliability.pairs == sum(reliability.count) > 1000
    assert reliability.expected_calibration_error < 0.05


def plain(**changes: object) -> dict:
    return {**json.loads(BY_HAND.model_dump_json()), **changes}


def test_a_calibration_comes_back_from_its_file(tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(SHIPPED.model_dump_json())
    assert read_calibration(path) == SHIPPED


def test_without_a_file_inliers_decide(tmp_path):
    assert read_calibration(tmp_path / "none.json") is DEFAULT_CALIBRATION


CURVE = {"knots": [0, 1], "log_odds": [-2, -1]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no calibration"),
        (b"\xff\xfe", "is no calibration"),
        (b"[" * 100_000, "is no calibration"),
        (b" " * (1 << 20) + b"{}", "larger than 1 MiB"),
        (b"[]", "calibration.json"),
        (b"{}", "min_inliers"),
        (plain(min_inliers=3), "min_inliers"),
        (plain(bias=math.nan), "bias"),
        (plain(bias=math.inf), "bias"),
        (plain(surprise=1), "surprise"),
        (plain(evidence={"magic": CURVE}), "magic"),
        (plain(likeness={"knots": [-1, 1], "log_odds": [-1, 0]}), "negative"),
        (plain(likeness={"knots": [-1, 1], "log_odds": [-1, -2]}), "must rise"),
        (plain(likeness={"knots": [0, 1], "log_odds": [-2, -1]}), "from -1 to 1"),
        (plain(likeness={"knots": [1, -1], "log_odds": [-2, -1]}), "knots must rise"),
        (plain(similarity={"knots": [0, 1], "log_odds": [1]}), "differ in number"),
        (plain(similarity={"knots": [], "log_odds": []}), "knots"),
        (plain(similarity={"knots": list(range(65)), "log_odds": [0] * 65}), "knots"),
    ],
    ids=str,
)
def test_other_files_are_refused_by_name(tmp_path, content, said):
    path = tmp_path / "calibration.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(ModelError) as caught:
        read_calibration(path)
    assert str(path) in str(caught.value) and said in str(caught.value)


def test_a_folder_in_its_place_is_refused_by_name(tmp_path):
    with pytest.raises(ModelError, match="cannot be read"):
        read_calibration(tmp_path)


def test_there_is_no_evidence_of_other_names():
    with pytest.raises(ValidationError, match="no evidence called 'luck'"):
        Calibration.model_validate(plain(evidence={"luck": CURVE}))


@pytest.mark.parametrize(
    ("probability", "text"),
    [(0, "< 0.1%"), (0.0004, "< 0.1%"), (0.5, "50.0%"), (0.998, "99.8%"), (1, "> 99.9%")],
)
def test_percentages_are_never_certain(probability, text):
    assert as_percent(probability) == text


def test_a_second_look_proves_less_with_the_same_evidence():
    doubted = BY_HAND.model_copy(update={"second_look": -2.0})
    assert doubted.log_odds(0.5, PROVEN) == BY_HAND.log_odds(0.5, PROVEN)
    again = doubted.of_second_look
    for evidence in (PROVEN, PROVEN._replace(inliers=16)):
        by_evidence = BY_HAND.log_odds_by_evidence(0.5, evidence)
        assert again.log_odds_by_evidence(0.5, evidence) == pytest.approx(by_evidence - 2)
    # Likeness is what it was, and it is not taken twice.
    assert again.log_odds(0.5, None) == BY_HAND.log_odds(0.5, None)
    assert again.of_second_look == again
