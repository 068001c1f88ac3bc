import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.bootstrap import gap_interval, mean_interval, paired_difference
from eval.metrics import global_average_precision

values = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30)


# --- Means ---


def test_the_interval_of_two_values_covers_all_their_means():
    # Two draws of 0 and 1 have mean 0, 1/2 or 1, with chances 1/4, 1/2, 1/4.
    assert mean_interval([0, 1]) == (0, 1)
    assert mean_interval([0, 1], level=0.4) == (0.5, 0.5)


def test_the_interval_of_many_values_is_the_normal_one():
    numbers = np.random.default_rng(5).uniform(size=400)
    low, high = mean_interval(numbers, draws=20_000)
    half = 1.96 * numbers.std() / math.sqrt(400)
    assert low == pytest.approx(numbers.mean() - half, abs=0.05 * half)
    assert high == pytest.approx(numbers.mean() + half, abs=0.05 * half)


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for trial in range(200):
        low, high = mean_interval(rng.uniform(size=60), draws=500, seed=trial)
        covered += low <= 0.5 <= high
    # 190 of 200 are expected, give or take 3.
    assert 178 <= covered <= 199


def test_a_single_value_and_equal_values_have_no_width():
    assert mean_interval([0.25]) == (0.25, 0.25)
    assert mean_interval([0.1] * 7) == pytest.approx((0.1, 0.1))


def test_nan_is_dropped():
    assert mean_interval([0.2, math.nan, 0.9, 0.4]) == mean_interval([0.2, 0.9, 0.4])


@pytest.mark.parametrize("nothing", [[], [math.nan, math.nan]])
def test_without_values_the_interval_is_nan(nothing):
    assert all(math.isnan(end) for end in mean_interval(nothing))


def test_the_same_seed_repeats_and_another_differs():
    numbers = np.random.default_rng(0).uniform(size=50)
    assert mean_interval(numbers, seed=3) == mean_interval(numbers, seed=3)
    assert mean_interval(numbers, seed=3) != mean_interval(numbers, seed=4)


def test_more_values_than_fit_at_once_are_drawn_in_parts():
    numbers = np.random.default_rng(0).uniform(size=30_000)
    low, high = mean_interval(numbers, draws=300)
    half = 1.96 * numbers.std() / math.sqrt(len(numbers))
    assert (high - low) / 2 == pytest.approx(half, rel=0.2)


@settings(deadline=None, max_examples=25)
@given(values)
def test_the_interval_lies_within_the_values(numbers):
    low, high = mean_interval(numbers, draws=50)
    assert min(numbers) - 1e-9 <= low <= high <= max(numbers) + 1e-9


@settings(deadline=None, max_examples=25)
@given(values)
def test_a_higher_level_gives_a_wider_interval(numbers):
    low, high = mean_interval(numbers, level=0.5, draws=100)
    outer_low, outer_high = mean_interval(numbers, level=0.9, draws=100)
    assert outer_low <= low and high <= outer_high


@pytest.mark.parametrize("settings", [{"level": 0}, {"level": 1}, {"level": 95}, {"draws": 0}])
def test_settings_out_of_range_are_an_error(settings):
    name = next(iter(settings))
    with pytest.raises(ValueError, match=name):
        mean_interval([0.5], **settings)
    with pytest.raises(ValueError, match=name):
        gap_interval({}, {"q": "A"}, **settings)
    with pytest.raises(ValueError, match=name):
        paired_difference({"q": 1.0}, {"q": 1.0}, **settings)


# --- GAP ---


def guesses(count: int) -> tuple[dict, dict]:
    """Predictions and truth: a third without a label, some without a prediction, many ties."""
    rng = np.random.default_rng(7)
    truth: dict[str, str | None] = {}
    predictions: dict[str, tuple[str, float] | None] = {}
    for number in range(count):
        query = f"q{number}"
        truth[query] = None if rng.random() < 1 / 3 else str(rng.choice(list("ABC")))
        if rng.random() < 0.8:
            right = truth[query] is not None and rng.random() < 0.6
            score = round(float(rng.normal(1.0 if right else 0.0)), 1)
            predictions[query] = (str(truth[query]) if right else "X", score)
    return predictions, truth


def test_the_interval_of_gap_has_the_quantiles_of_all_resamples():
    predictions = {"a": ("A", 0.9), "b": ("X", 0.7), "c": ("C", 0.5)}
    truth = {"a": "A", "b": None, "c": "C", "d": "D"}
    # Each of the 4⁴ resamples of the queries, scored under new names.
    gaps = []
    for drawn in itertools.product("abcd", repeat=4):
        names = [f"{query}{number}" for number, query in enumerate(drawn)]
        new_truth = {name: truth[name[0]] for name in names}
        new = {name: predictions[name[0]] for name in names if name[0] in predictions}
        if any(new_truth.values()):
            gaps.append(global_average_precision(new, new_truth))
    for level in (0.95, 0.8, 0.5):
        expected = np.quantile(gaps, [(1 - level) / 2, (1 + level) / 2])
        assert gap_interval(predictions, truth, level=level, draws=20_000) == pytest.approx(
            expected, abs=0.02
        )


@pytest.mark.parametrize("ignore", [False, True])
def test_the_interval_of_gap_holds_it(ignore):
    predictions, truth = guesses(300)
    low, high = gap_interval(predictions, truth, ignore, draws=300)
    assert low < global_average_precision(predictions, truth, ignore) < high
    assert low > 0 and high < 1


def test_ignored_queries_are_not_drawn():
    predictions, truth = guesses(60)
    kept = {query: label for query, label in truth.items() if label}
    less = {query: guess for query, guess in predictions.items() if query in kept}
    assert gap_interval(predictions, truth, True) == gap_interval(less, kept)


def test_the_interval_of_gap_repeats_with_its_seed_and_in_any_order():
    predictions, truth = guesses(100)
    once = gap_interval(predictions, truth, draws=100, seed=1)
    assert gap_interval(predictions, truth, draws=100, seed=1) == once
    assert gap_interval(dict(reversed(predictions.items())), truth, draws=100, seed=1) == once
    assert gap_interval(predictions, truth, draws=100, seed=2) != once


def test_more_queries_than_many_are_drawn_less_often():
    predictions, truth = guesses(20_001)
    few = gap_interval(predictions, truth, draws=500)
    assert gap_interval(predictions, truth, draws=100_000) == few


def test_without_labels_the_interval_of_gap_is_nan():
    assert all(math.isnan(end) for end in gap_interval({"q": ("A", 1.0)}, {"q": None}))


def test_the_interval_of_gap_refuses_what_gap_refuses():
    with pytest.raises(ValueError, match="'stray'"):
        gap_interval({"stray": ("A", 1.0)}, {"q": "A"})
    with pytest.raises(ValueError, match="finite"):
        gap_interval({"q": ("A", math.nan)}, {"q": "A"})


# --- Pairs ---


def test_a_paired_difference_worked_by_hand():
    a = {"q1": 0.5, "q2": 0.2, "q3": 0.4, "q4": 1.0, "only a": 0.0}
    b = {"q1": 0.7, "q2": 0.3, "q3": 0.3, "q4": 1.0, "only b": 1.0}
    # b − a = 0.2, 0.1, −0.1, 0; mean 0.05.
    difference = paired_difference(a, b)
    assert difference.mean == pytest.approx(0.05)
    assert (difference.better, difference.worse, difference.equal) == (2, 1, 1)
    assert difference.low < 0.05 < difference.high
    # Of the eight signs of 0.2, 0.1, 0.1 the sums are ±0.4, ±0.2 twice each, ±0 once each:
    # six of eight are at least 0.2 in size.
    assert difference.p_value == 6 / 8


def test_only_one_way_out_of_many_has_the_smallest_p():
    a = {f"q{number}": 0.0 for number in range(10)}
    b = {f"q{number}": 0.1 for number in range(10)}
    # All ten signs plus or all minus.
    assert paired_difference(a, b).p_value == 2 / 2**10


def test_equal_runs_do_not_differ():
    run = {f"q{number}": number / 7 for number in range(7)}
    difference = paired_difference(run, run)
    assert (difference.mean, difference.low, difference.high, difference.p_value) == (0, 0, 0, 1)
    assert (difference.better, difference.worse, difference.equal) == (0, 0, 7)


def test_drawn_signs_agree_with_the_normal_approximation():
    rng = np.random.default_rng(0)
    differences = rng.normal(0.1, 1, size=200)
    a = dict.fromkeys(map(str, range(200)), 0.0)
    b = dict(zip(map(str, range(200)), differences, strict=True))
    z = abs(differences.sum()) / math.sqrt((differences**2).sum())
    expected = math.erfc(z / math.sqrt(2))
    assert paired_difference(a, b, draws=20_000).p_value == pytest.approx(expected, abs=0.015)


def test_a_large_difference_has_a_small_p_that_is_never_zero():
    a = {f"q{number}": 0.0 for number in range(100)}
    b = {f"q{number}": 1.0 for number in range(100)}
    assert paired_difference(a, b, draws=999).p_value == 1 / 1000


def test_queries_without_a_value_are_left_out():
    difference = paired_difference(
        {"q": math.nan, "r": 0.5, "s": 0.1}, {"q": 1, "r": 0.6, "s": math.nan}
    )
    assert (difference.better, difference.worse, difference.equal) == (1, 0, 0)


@pytest.mark.parametrize("b", [{}, {"r": 1.0}, {"q": math.nan}])
def test_runs_without_common_queries_are_an_error(b):
    with pytest.raises(ValueError, match="no scored query in common"):
        paired_difference({"q": 1.0}, b)


runs = st.dictionaries(st.sampled_from("abcdefghijklmnop"), st.floats(0, 1, width=16), min_size=16)


@settings(deadline=None, max_examples=25)
@given(runs, runs)
def test_swapping_the_runs_turns_the_difference(a, b):
    there = paired_difference(a, b, draws=200)
    back = paired_difference(b, a, draws=200)
    assert (back.better, back.worse, back.equal) == (there.worse, there.better, there.equal)
    assert back.mean == pytest.approx(-there.mean)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
    assert back.p_value == there.p_value
    assert 0 < there.p_value <= 1


@settings(deadline=None, max_examples=25)
@given(runs, runs)
def test_the_order_of_queries_changes_nothing(a, b):
    turned = dict(reversed(a.items())), dict(reversed(b.items()))
    assert paired_difference(a, b, draws=100) == paired_difference(*turned, draws=100)
