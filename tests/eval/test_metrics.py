import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.benchmark import RevisitedTruth
from eval.metrics import (
    average_precision,
    global_average_precision,
    mean_average_precision,
    precision_at,
    precision_recall_curve,
    recall_at,
    recall_curve,
    recognition_accuracy,
    revisited_average_precision,
    revisited_metrics,
    revisited_query,
    revisited_split,
)

DIFFICULTIES = ("easy", "medium", "hard")
ids = st.sampled_from([f"i{number}" for number in range(12)])
rankings = st.lists(ids, max_size=20)
relevants = st.frozensets(ids, min_size=1)
depths = st.none() | st.integers(1, 15)


# --- Mean average precision ---


def test_average_precision_worked_by_hand():
    # Right at ranks 1, 3 and 6: precision 1/1, 2/3, 3/6; four are relevant.
    ranking = ["a", "x", "b", "y", "z", "c"]
    assert average_precision(ranking, {"a", "b", "c", "d"}) == pytest.approx(
        (1 + 2 / 3 + 3 / 6) / 4
    )


def test_average_precision_divides_by_k_when_more_are_relevant():
    # Both of the first two are right, of three relevant: (1/1 + 2/2) / min(3, 2).
    assert average_precision(["a", "b", "c"], {"a", "b", "c"}, k=2) == 1
    # Without a limit: (1/1 + 2/2) / 3.
    assert average_precision(["a", "b"], {"a", "b", "c"}, k=None) == pytest.approx(2 / 3)


def test_average_precision_looks_no_deeper_than_k():
    assert average_precision(["x", "y", "a"], {"a"}, k=2) == 0
    assert average_precision(["x", "y", "a"], {"a"}, k=3) == pytest.approx(1 / 3)
    late = [f"x{number}" for number in range(100)] + ["a"]
    assert average_precision(late, {"a"}) == 0
    assert average_precision(late, {"a"}, k=None) == pytest.approx(1 / 101)


def test_a_repeated_prediction_is_skipped_but_takes_its_rank():
    # "a" counts at rank 1 only; "b" is the second right one, at rank 3: (1/1 + 2/3) / 2.
    assert average_precision(["a", "a", "b"], ["a", "b"]) == pytest.approx((1 + 2 / 3) / 2)
    # A repeated wrong one wastes a rank too: (1/3) / 1.
    assert average_precision(["x", "x", "a"], ["a"]) == pytest.approx(1 / 3)


def test_repeated_relevant_ids_count_once():
    assert average_precision(["a"], ["a", "a"]) == 1


def test_an_empty_ranking_scores_zero():
    assert average_precision([], {"a"}) == 0
    assert recall_at([], {"a"}, 1) == 0
    assert precision_at([], {"a"}, 1) == 0


def test_a_lone_string_is_one_id_and_not_its_letters():
    assert average_precision(["a", "abc"], "abc") == pytest.approx(1 / 2)
    assert mean_average_precision({"q": ["abc"]}, {"q": "abc"}) == 1


@pytest.mark.parametrize("metric", [average_precision, recall_at, precision_at])
def test_nothing_relevant_is_an_error(metric):
    with pytest.raises(ValueError, match="Nothing is relevant"):
        metric(["a"], [], 1)


@pytest.mark.parametrize("metric", [average_precision, recall_at, precision_at])
def test_k_below_one_is_an_error(metric):
    with pytest.raises(ValueError, match="k is 0"):
        metric(["a"], ["a"], 0)


def test_mean_average_precision_is_over_the_queries_of_the_truth():
    relevant = {"one": ["a"], "two": ["a", "b"], "no ranking": ["a"], "nothing right": []}
    rankings = {"one": ["x", "a"], "two": ["b", "a"], "nothing right": ["a", "b"]}
    # AP 1/2, 1 and 0 for the query without a ranking; the one with nothing right is dropped.
    assert mean_average_precision(rankings, relevant) == pytest.approx((1 / 2 + 1 + 0) / 3)


def test_a_ranking_of_an_unknown_query_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="'stray'"):
        mean_average_precision({"stray": ["a"]}, {"q": ["a"]})


def test_a_truth_with_nothing_relevant_is_an_error():
    with pytest.raises(ValueError, match="No query has anything relevant"):
        mean_average_precision({"q": ["a"]}, {"q": []})
    with pytest.raises(ValueError, match="No query has anything relevant"):
        mean_average_precision({}, {})


def naive_average_precision(ranking, relevant, k):
    depth = len(ranking) if k is None else k
    total = 0.0
    for place in range(1, min(depth, len(ranking)) + 1):
        here = ranking[place - 1]
        if here in relevant and here not in ranking[: place - 1]:
            total += len(set(ranking[:place]) & set(relevant)) / place
    return total / min(len(relevant), len(relevant) if k is None else k)


@given(rankings, relevants, depths)
def test_average_precision_agrees_with_its_formula(ranking, relevant, k):
    value = average_precision(ranking, relevant, k)
    assert value == pytest.approx(naive_average_precision(ranking, relevant, k))
    assert 0 <= value <= 1


@given(relevants, depths)
def test_all_relevant_ids_first_scores_one(relevant, k):
    assert average_precision([*sorted(relevant), "x", "y"], relevant, k) == pytest.approx(1)


@given(rankings, relevants, depths, st.lists(st.sampled_from(["x", "y"]), max_size=5))
def test_appending_irrelevant_ids_changes_no_average_precision(ranking, relevant, k, more):
    longer = average_precision(ranking + more, relevant, k)
    assert longer == average_precision(ranking, relevant, k)


@given(st.dictionaries(ids, rankings), st.dictionaries(ids, relevants, min_size=1), st.randoms())
def test_the_order_of_queries_changes_no_mean(rankings, relevant, random):
    rankings = {query: ranking for query, ranking in rankings.items() if query in relevant}
    shuffled = list(relevant)
    random.shuffle(shuffled)
    other = {query: relevant[query] for query in shuffled}
    turned = dict(reversed(rankings.items()))
    assert mean_average_precision(rankings, relevant) == mean_average_precision(turned, other)


# --- Recall, precision and their curves ---


def test_recall_at_k_asks_for_any_right_id():
    ranking = ["x", "a", "y", "b"]
    assert recall_at(ranking, {"a", "b"}, 1) == 0
    assert recall_at(ranking, {"a", "b"}, 2) == 1
    assert recall_at(ranking, {"a", "b"}, 1000) == 1


def test_precision_at_k_divides_by_k():
    ranking = ["a", "x", "b", "b"]
    assert precision_at(ranking, {"a", "b"}, 1) == 1
    assert precision_at(ranking, {"a", "b"}, 2) == 1 / 2
    # The second "b" is a repeat.
    assert precision_at(ranking, {"a", "b"}, 4) == 2 / 4
    # Fewer than k in the ranking.
    assert precision_at(ranking, {"a", "b"}, 10) == 2 / 10


def test_the_precision_recall_curve_worked_by_hand():
    # Right at ranks 1 and 4 of two relevant: precision 1 up to recall 1/2, then 2/4 up to 1.
    # The other query finds one of two at rank 2: precision 1/2 up to recall 1/2, then 0.
    relevant = {"q": ["a", "b"], "r": ["a", "b"], "none": []}
    rankings = {"q": ["a", "x", "y", "b"], "r": ["x", "a"]}
    recall, precision = precision_recall_curve(rankings, relevant)
    np.testing.assert_allclose(recall, np.linspace(0, 1, 101))
    np.testing.assert_allclose(precision[:51], (1 + 1 / 2) / 2)
    np.testing.assert_allclose(precision[51:], (2 / 4 + 0) / 2)


def test_interpolated_precision_is_the_best_at_any_higher_recall():
    # Right at ranks 2, 3, 4 of three: precisions 1/2, 2/3, 3/4, so 3/4 throughout.
    _, precision = precision_recall_curve({"q": ["x", "a", "b", "c"]}, {"q": ["a", "b", "c"]})
    np.testing.assert_allclose(precision, 3 / 4)


@given(rankings, relevants)
def test_the_precision_recall_curve_agrees_with_its_definition(ranking, relevant):
    points = []
    for place in range(1, len(ranking) + 1):
        hits = len(set(ranking[:place]) & relevant)
        points.append((hits, hits / place))
    recall, precision = precision_recall_curve({"q": ranking}, {"q": relevant})
    for step in range(101):
        reached = [p for hits, p in points if 100 * hits >= step * len(relevant)]
        assert recall[step] == step / 100
        assert precision[step] == pytest.approx(max(reached, default=0))


@given(st.dictionaries(ids, relevants, min_size=1), rankings, st.lists(st.integers(1, 25)))
def test_the_recall_curve_is_the_mean_recall_at_each_k(relevant, ranking, ks):
    rankings = {query: ranking[number:] for number, query in enumerate(relevant) if number != 1}
    expected = [
        sum(recall_at(rankings.get(query, []), right, k) for query, right in relevant.items())
        / len(relevant)
        for k in ks
    ]
    np.testing.assert_allclose(recall_curve(rankings, relevant, ks), expected)


@pytest.mark.parametrize("curve", [precision_recall_curve, lambda *a: recall_curve(*a, [1])])
def test_curves_refuse_what_the_mean_refuses(curve):
    with pytest.raises(ValueError, match="'stray'"):
        curve({"stray": ["a"]}, {"q": ["a"]})
    with pytest.raises(ValueError, match="No query has anything relevant"):
        curve({}, {"q": []})


def test_a_recall_curve_at_zero_is_an_error():
    with pytest.raises(ValueError, match="k is 0"):
        recall_curve({}, {"q": ["a"]}, [1, 0])


# --- Global average precision and accuracy ---


def test_global_average_precision_worked_by_hand():
    truth = {"q1": "A", "q2": "B", "q3": "C", "q4": None}
    predictions = {"q1": ("A", 0.9), "q4": ("A", 0.8), "q2": ("B", 0.7), "q3": ("X", 0.6)}
    # Right, wrong (no landmark there), right, wrong: (1/1 + 2/3) / 3 queries with a landmark.
    assert global_average_precision(predictions, truth) == pytest.approx((1 + 2 / 3) / 3)
    # q4 ignored: right, right, wrong: (1/1 + 2/2) / 3.
    ignoring = global_average_precision(predictions, truth, ignore_without_label=True)
    assert ignoring == pytest.approx(2 / 3)


def test_queries_without_a_prediction_still_count():
    truth = {"q1": "A", "q2": "B"}
    assert global_average_precision({"q1": ("A", 1.0)}, truth) == 1 / 2
    assert global_average_precision({"q1": ("A", 1.0), "q2": None}, truth) == 1 / 2
    assert global_average_precision({}, truth) == 0


def test_any_of_several_labels_counts():
    truth = {"q1": ["A", "B"], "q2": frozenset()}
    assert global_average_precision({"q1": ("B", 0.5), "q2": ("A", 0.1)}, truth) == 1


@pytest.mark.parametrize("nothing", [None, "", [], frozenset()])
def test_no_label_may_be_written_in_several_ways(nothing):
    truth = {"q1": "A", "q2": nothing}
    predictions = {"q1": ("A", 0.5), "q2": ("", 0.9)}
    assert global_average_precision(predictions, truth) == 1 / 2
    assert global_average_precision(predictions, truth, ignore_without_label=True) == 1


def test_equal_scores_are_ordered_by_query_id():
    truth = {"b": "B", "a": "A"}
    # a before b: wrong, right.
    assert global_average_precision({"b": ("B", 1), "a": ("X", 1)}, truth) == (1 / 2) / 2
    # a before b: right, wrong.
    assert global_average_precision({"b": ("X", 1), "a": ("A", 1)}, truth) == (1 / 1) / 2


def test_a_prediction_for_an_unknown_query_is_an_error_that_names_it():
    for metric in (global_average_precision, recognition_accuracy):
        with pytest.raises(ValueError, match="'stray'"):
            metric({"stray": ("A", 1.0)}, {"q": "A"})
        with pytest.raises(ValueError, match="'stray'"):
            metric({"stray": None}, {"q": "A"})


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_an_error_that_names_the_query(score):
    with pytest.raises(ValueError, match="'q2'"):
        global_average_precision({"q1": ("A", 1), "q2": ("A", score)}, {"q1": "A", "q2": None})


def test_a_truth_without_labels_is_an_error():
    for metric in (global_average_precision, recognition_accuracy):
        with pytest.raises(ValueError, match="No query has a label"):
            metric({"q": ("A", 1.0)}, {"q": None})
        with pytest.raises(ValueError, match="No query has a label"):
            metric({}, {})


def test_accuracy_is_over_the_queries_with_a_label():
    truth = {"q1": "A", "q2": ["B", "C"], "q3": "D", "q4": "E", "q5": None}
    predictions = {"q1": ("A", -5), "q2": ("C", 2), "q3": ("A", 9), "q5": ("A", 1)}
    assert recognition_accuracy(predictions, truth) == 2 / 4


def naive_gap(predictions, truth, ignore):
    kept = [q for q in truth if truth[q] or not ignore]
    rows = [(-predictions[q][1], q) for q in kept if predictions.get(q)]
    total, right = 0.0, 0
    for place, (_, query) in enumerate(sorted(rows), start=1):
        if predictions[query][0] in truth[query]:
            right += 1
            total += right / place
    return total / sum(bool(truth[q]) for q in kept)


guesses = st.dictionaries(ids, st.none() | st.tuples(st.sampled_from("ABC"), st.integers(0, 3)))
labels = st.fixed_dictionaries(
    {f"i{number}": st.lists(st.sampled_from("ABC"), max_size=2) for number in range(12)}
).filter(lambda truth: any(truth.values()))


@given(guesses, labels, st.booleans())
def test_global_average_precision_agrees_with_its_formula(predictions, truth, ignore):
    value = global_average_precision(predictions, truth, ignore)
    assert value == pytest.approx(naive_gap(predictions, truth, ignore))
    assert 0 <= value <= 1


@given(guesses, labels, st.booleans())
def test_the_order_of_queries_changes_no_gap(predictions, truth, ignore):
    turned = dict(reversed(predictions.items())), dict(reversed(truth.items()))
    value = global_average_precision(predictions, truth, ignore)
    assert global_average_precision(*turned, ignore) == value


@given(guesses, labels, st.booleans())
def test_gap_depends_on_the_order_of_scores_only(predictions, truth, ignore):
    other = {q: p and (p[0], math.exp(p[1]) - 7) for q, p in predictions.items()}
    value = global_average_precision(predictions, truth, ignore)
    assert global_average_precision(other, truth, ignore) == value


@given(guesses, labels)
def test_wrong_predictions_below_all_others_change_no_gap(predictions, truth):
    more = dict(predictions)
    for query in truth:
        if not more.get(query):
            more[query] = ("none", -1)
    value = global_average_precision(predictions, truth)
    assert global_average_precision(more, truth) == value


@given(labels)
def test_right_predictions_above_those_without_a_label_score_one(truth):
    predictions = {q: (right[0], 2.0) if right else ("A", 1.0) for q, right in truth.items()}
    assert global_average_precision(predictions, truth) == pytest.approx(1)
    assert recognition_accuracy(predictions, truth) == 1


# --- Revisited Oxford/Paris ---


def test_trapezoidal_average_precision_worked_by_hand():
    # At rank 0: before 1, with it 1/1. At rank 3: before 1/3, with it 2/4. Of two positives.
    expected = ((1 + 1) / 2 + (1 / 3 + 2 / 4) / 2) / 2
    assert revisited_average_precision([0, 3], 2) == pytest.approx(expected)
    # A single positive at rank 1: before it 0/1, with it 1/2.
    assert revisited_average_precision([1], 1) == pytest.approx((0 + 1 / 2) / 2)


def test_positives_that_are_not_found_add_nothing():
    assert revisited_average_precision([0], 4) == 1 / 4
    assert revisited_average_precision([], 4) == 0


@pytest.mark.parametrize(
    ("ranks", "count"), [([0, 0], 3), ([-1], 1), ([0, 1], 1), ([], 0)], ids=str
)
def test_impossible_ranks_of_positives_are_an_error(ranks, count):
    with pytest.raises(ValueError, match=r"[Pp]ositives"):
        revisited_average_precision(ranks, count)


TRUTH = RevisitedTruth(frozenset({"e1", "e2"}), frozenset({"h1"}), frozenset({"j1", "j2"}))


def test_each_difficulty_worked_by_hand():
    ranking = ["j1", "e1", "x", "h1", "j2", "e2"]
    # Easy, without j1, h1 and j2: e1 x e2. Ranks 0 and 2: before 1 and 1/2, with 1 and 2/3.
    assert revisited_query(ranking, TRUTH, "easy", (1, 2, 5)) == pytest.approx(
        # The last positive is third, so P@5 divides by 3.
        {"AP": (1 + (1 / 2 + 2 / 3) / 2) / 2, "P@1": 1, "P@2": 1 / 2, "P@5": 2 / 3}
    )
    # Medium, without j1 and j2: e1 x h1 e2. Ranks 0, 2, 3.
    assert revisited_query(ranking, TRUTH, "medium", (1, 2, 5)) == pytest.approx(
        {
            "AP": (1 + (1 / 2 + 2 / 3) / 2 + (2 / 3 + 3 / 4) / 2) / 3,
            "P@1": 1,
            "P@2": 1 / 2,
            "P@5": 3 / 4,
        }
    )
    # Hard, without e1, e2, j1 and j2: x h1. Rank 1: before 0/1, with 1/2; P@5 divides by 2.
    assert revisited_query(ranking, TRUTH, "hard", (1, 2, 5)) == pytest.approx(
        {"AP": (0 + 1 / 2) / 2, "P@1": 0, "P@2": 1 / 2, "P@5": 1 / 2}
    )


def test_with_a_positive_missing_precision_divides_by_k():
    # e2 is not in the ranking, so it would come after all of it.
    assert revisited_query(["e1"], TRUTH, "easy", (5,)) == {"AP": 1 / 2, "P@5": 1 / 5}
    assert revisited_query([], TRUTH, "easy", (5,)) == {"AP": 0, "P@5": 0}


def test_a_repeated_positive_counts_once_and_takes_its_ranks():
    # e1 e1 e2: ranks 0 and 2.
    once = revisited_query(["e1", "x", "e2"], TRUTH, "easy")
    assert revisited_query(["e1", "e1", "e2"], TRUTH, "easy") == once


def test_a_query_without_positives_has_no_scores():
    truth = RevisitedTruth(frozenset({"e"}), frozenset(), frozenset())
    assert revisited_query(["e"], truth, "hard") is None
    assert revisited_query(["e"], truth, "easy") is not None
    metrics = revisited_metrics(np.array([[0]]), [{"easy": [0], "hard": [], "junk": []}])
    assert metrics["easy"]["mAP"] == 1
    assert math.isnan(metrics["hard"]["mAP"]) and math.isnan(metrics["hard"]["mP@1"])
    assert np.isnan(metrics["hard"]["AP"]).all() and np.isnan(metrics["hard"]["P@5"]).all()


def test_queries_without_positives_are_left_out_of_the_means():
    gnd = [{"easy": [1], "hard": [2], "junk": []}, {"easy": [2], "hard": [], "junk": [0]}]
    ranks = np.array([[0, 0], [1, 1], [2, 2]])
    metrics = revisited_metrics(ranks, gnd, kappas=(1,))
    # Hard: the first query, without image 1: 0 2. Rank 1: (0/1 + 1/2) / 2.
    assert metrics["hard"]["mAP"] == pytest.approx(1 / 4)
    np.testing.assert_allclose(metrics["hard"]["AP"], [1 / 4, np.nan])
    # Easy: the first without 2: 0 1, rank 1; the second without 0: 1 2, rank 1.
    assert metrics["easy"]["mAP"] == pytest.approx(1 / 4)
    assert metrics["easy"]["mP@1"] == 0
    # Medium: the first 0 1 2, ranks 1, 2: ((0 + 1/2) / 2 + (1/2 + 2/3) / 2) / 2.
    np.testing.assert_allclose(metrics["medium"]["AP"], [(1 / 4 + (1 / 2 + 2 / 3) / 2) / 2, 1 / 4])


def test_the_split_says_what_is_right_and_what_is_ignored():
    easy, hard, junk = TRUTH.easy, TRUTH.hard, TRUTH.junk
    assert revisited_split(TRUTH, "easy") == (easy, hard | junk)
    assert revisited_split(TRUTH, "medium") == (easy | hard, junk)
    assert revisited_split(TRUTH, "hard") == (hard, easy | junk)


def test_an_unknown_difficulty_is_an_error_that_names_the_known():
    with pytest.raises(ValueError, match=r"'heavy'.*easy, medium, hard"):
        revisited_query([], TRUTH, "heavy")


def test_an_image_in_two_lists_is_an_error():
    twice = RevisitedTruth(frozenset({"e"}), frozenset({"e"}), frozenset())
    with pytest.raises(ValueError, match="two of a query's lists"):
        revisited_query([], twice, "easy")
    with pytest.raises(ValueError, match="two of a query's lists"):
        revisited_metrics(np.array([[0]]), [{"easy": [0], "hard": [], "junk": [0]}])


def test_rankings_and_truth_of_different_sizes_are_an_error():
    with pytest.raises(ValueError, match=r"\(3, 2\)"):
        revisited_metrics(np.zeros((3, 2), int), [{"easy": [0], "hard": [], "junk": []}])


def test_revisited_precision_at_zero_is_an_error():
    with pytest.raises(ValueError, match="k is 0"):
        revisited_query(["e1"], TRUTH, "easy", (0,))


def naive_revisited(ranking, easy, hard, junk, level, kappas):
    """The definitions, step by step, on a list of one query's ranking without repeats."""
    right = {"easy": easy, "medium": easy + hard, "hard": hard}[level]
    ignored = {"easy": hard + junk, "medium": junk, "hard": easy + junk}[level]
    if not right:
        return None
    right, ignored = set(right), set(ignored)
    marks = [image in right for image in ranking if image not in ignored]
    # The points (recall, precision) before and with each positive, and the area between them.
    area, hits = 0.0, 0
    for place, is_right in enumerate(marks):
        if is_right:
            before = hits / place if place else 1.0
            hits += 1
            area += (before + hits / (place + 1)) / 2 * (1 / len(right))
    scores = {"AP": area}
    for k in kappas:
        # Shorten the ranking to what could still hold a positive.
        depth = k
        while hits == len(right) and not any(marks[depth - 1 :]):
            depth -= 1
        scores[f"P@{k}"] = sum(marks[:depth]) / depth
    return scores


@st.composite
def revisited_cases(draw):
    """Images in all, ranking of some, the lists of a query."""
    count = draw(st.integers(1, 25))
    order = draw(st.permutations(range(count)))
    roles = [draw(st.sampled_from(["easy", "hard", "junk", "none", "none"])) for _ in order]
    lists = {
        role: [image for image in range(count) if roles[image] == role]
        for role in ("easy", "hard", "junk")
    }
    return order[: draw(st.integers(0, count))], lists


@given(revisited_cases(), st.sampled_from(DIFFICULTIES))
def test_one_ranking_agrees_with_the_definition(case, level):
    ranking, lists = case
    truth = RevisitedTruth(**{name: frozenset(map(str, lists[name])) for name in lists})
    scores = revisited_query([str(image) for image in ranking], truth, level, (1, 3, 10))
    assert scores == pytest.approx(
        naive_revisited(ranking, **lists, level=level, kappas=(1, 3, 10))
    )
    assert scores is None or all(0 <= value <= 1 for value in scores.values())


@given(revisited_cases(), st.lists(st.integers(0, 24), max_size=8))
def test_arrays_and_ids_score_exactly_alike(case, repeats):
    ranking, lists = case
    column = [*ranking, *repeats]
    truth = RevisitedTruth(**{name: frozenset(map(str, lists[name])) for name in lists})
    metrics = revisited_metrics(np.array(column, np.int64)[:, None], [lists])
    for level in DIFFICULTIES:
        scores = revisited_query([str(image) for image in column], truth, level)
        for name in ("AP", "P@1", "P@5", "P@10"):
            expected = math.nan if scores is None else scores[name]
            np.testing.assert_equal(metrics[level][name][0], expected)
            np.testing.assert_equal(metrics[level][f"m{name}"], expected)


@given(revisited_cases(), st.sampled_from(DIFFICULTIES), st.data())
def test_inserting_ignored_images_changes_nothing(case, level, data):
    ranking, lists = case
    truth = RevisitedTruth(**{name: frozenset(map(str, lists[name])) for name in lists})
    _, ignored = revisited_split(truth, level)
    plain = [str(image) for image in ranking if str(image) not in ignored]
    more = list(plain)
    for image in ignored:
        more.insert(data.draw(st.integers(0, len(more))), image)
    assert revisited_query(more, truth, level) == revisited_query(plain, truth, level)


@given(revisited_cases(), st.sampled_from(DIFFICULTIES), st.integers(0, 5))
def test_appending_irrelevant_images_changes_nothing(case, level, count):
    ranking, lists = case
    truth = RevisitedTruth(**{name: frozenset(map(str, lists[name])) for name in lists})
    plain = [str(image) for image in ranking]
    more = plain + [f"new{number}" for number in range(count)]
    assert revisited_query(more, truth, level) == revisited_query(plain, truth, level)


@given(revisited_cases(), st.sampled_from(DIFFICULTIES))
def test_all_positives_first_scores_one(case, level):
    _, lists = case
    truth = RevisitedTruth(**{name: frozenset(map(str, lists[name])) for name in lists})
    right, ignored = revisited_split(truth, level)
    scores = revisited_query([*ignored, *sorted(right), "x"], truth, level)
    assert scores is None or scores == pytest.approx(dict.fromkeys(scores, 1))


# --- Ground truth of the real size ---

KAPPAS = (1, 5, 10)


def made_up_gnd(images: int = 4993, queries: int = 70) -> list[dict]:
    """Lists of the sizes that gnd_roxford5k.pkl has; two queries lack easy, three hard images."""
    rng = np.random.default_rng(0)
    gnd = []
    for query in range(queries):
        easy = 0 if query in (7, 30) else int(rng.integers(1, 250))
        hard = 0 if query in (12, 30, 31) else int(rng.integers(1, 285))
        listed = rng.choice(images, easy + hard + int(rng.integers(1, 75)), replace=False)
        parts = np.split(listed, [easy, easy + hard])
        gnd.append(dict(zip(("easy", "hard", "junk"), map(np.ndarray.tolist, parts), strict=True)))
    return gnd


def ranked(images: int, gnd: list[dict], how: str) -> np.ndarray:
    """A column for each query: easy, hard, the rest, junk; or that reversed; or any order."""
    rng = np.random.default_rng(1)
    columns = []
    for truth in gnd:
        listed = set(truth["easy"]) | set(truth["hard"]) | set(truth["junk"])
        rest = [image for image in range(images) if image not in listed]
        perfect = [*truth["easy"], *truth["hard"], *rest, *truth["junk"]]
        columns.append({"perfect": perfect, "reversed": perfect[::-1]}.get(how))
        if how == "random":
            columns[-1] = rng.permutation(images).tolist()
    return np.array(columns).T


def assert_scored_as_defined(images: int, gnd: list[dict], how: str) -> None:
    """Compare with the step-by-step definitions, for every query and in the mean."""
    ranks = ranked(images, gnd, how)
    metrics = revisited_metrics(ranks, gnd, KAPPAS)
    for level in DIFFICULTIES:
        expected = [
            naive_revisited(
                column, truth["easy"], truth["hard"], truth["junk"], level=level, kappas=KAPPAS
            )
            for column, truth in zip(ranks.T.tolist(), gnd, strict=True)
        ]
        for name in ("AP", *(f"P@{k}" for k in KAPPAS)):
            values = [math.nan if scores is None else scores[name] for scores in expected]
            np.testing.assert_allclose(metrics[level][name], values, rtol=1e-12)
            kept = [value for value in values if not math.isnan(value)]
            assert metrics[level][f"m{name}"] == pytest.approx(sum(kept) / len(kept))


def assert_scored_in_closed_form(images: int, gnd: list[dict]) -> None:
    """Perfect rankings score 1; in reversed ones all positives stand in a row at the end."""
    perfect = revisited_metrics(ranked(images, gnd, "perfect"), gnd, KAPPAS)
    backwards = revisited_metrics(ranked(images, gnd, "reversed"), gnd, KAPPAS)
    for level in DIFFICULTIES:
        assert [perfect[level][name] for name in ("mAP", "mP@1", "mP@5", "mP@10")] == [
            pytest.approx(1)
        ] * 4
        areas = []
        for truth in gnd:
            easy, hard = len(truth["easy"]), len(truth["hard"])
            n = {"easy": easy, "medium": easy + hard, "hard": hard}[level]
            # Only images in no list are left before the positives.
            w = images - easy - hard - len(truth["junk"])
            steps = [(j / (w + j) + (j + 1) / (w + j + 1)) / (2 * n) for j in range(n)]
            areas.append(math.fsum(steps) if n else math.nan)
        np.testing.assert_allclose(backwards[level]["AP"], areas, rtol=1e-12)
        assert backwards[level]["mP@10"] == 0


@pytest.mark.parametrize("how", ["perfect", "reversed", "random"])
def test_made_up_rankings_of_a_whole_benchmark_score_as_defined(how):
    assert_scored_as_defined(4993, made_up_gnd(), how)


def test_perfect_and_reversed_rankings_of_a_whole_benchmark_in_closed_form():
    assert_scored_in_closed_form(4993, made_up_gnd())


@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_made_up_rankings_score_as_defined_on_the_official_ground_truth(name):
    folder = os.environ.get("DELG_GND")
    if folder is None:
        pytest.skip("DELG_GND names no folder with gnd_roxford5k.pkl and gnd_rparis6k.pkl")
    from eval.datasets.safe_pickle import load_plain_pickle

    official = load_plain_pickle(Path(folder) / f"gnd_{name}.pkl")
    images, gnd = len(official["imlist"]), official["gnd"]
    assert (images, len(gnd)) == ({"roxford5k": 4993, "rparis6k": 6322}[name], 70)
    for how in ("perfect", "reversed", "random"):
        assert_scored_as_defined(images, gnd, how)
    assert_scored_in_closed_form(images, gnd)
