"""Each protocol's numbers, worked out by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.benchmark import (
    BenchmarkSpec,
    QueryPhoto,
    RecognitionTruth,
    RetrievalTruth,
    RevisitedTruth,
    Truth,
)
from eval.predictions import Predictions, plain_ranking
from eval.scoring import Scores, main_metric, query_metric, score
from index.results import Ranking


def benchmark(protocol: str, truth: Truth, **more: object) -> BenchmarkSpec:
    queries = tuple(QueryPhoto(query, Path(query)) for query in truth)
    return BenchmarkSpec(name="test", protocol=protocol, queries=queries, truth=truth, **more)


def ranking(words: str, first: float = 0.0) -> Ranking:
    """Ids, best first; the first has that score."""
    order = plain_ranking(tuple(words.split()))
    return replace(order, scores=order.scores + np.float32(first))


def rankings(**answers: str) -> Predictions:
    return Predictions({"all": {query: ranking(words) for query, words in answers.items()}})


# --- Revisited Oxford and Paris ---


def revisited(**lists: dict[str, str]) -> Scores:
    """Scores of two queries, of which the second has nothing hard, and of a third with only junk;
    the rankings by difficulty and query."""
    truth = {
        "p": RevisitedTruth(frozenset("e"), frozenset("hH"), frozenset("j")),
        "q": RevisitedTruth(frozenset("e"), frozenset(), frozenset("h")),
        "junk": RevisitedTruth(frozenset(), frozenset(), frozenset("e")),
    }
    lists = {
        level: {query: ranking(words) for query, words in by_query.items()}
        for level, by_query in lists.items()
    }
    return score(benchmark("revisited", truth), Predictions(lists))


def test_each_difficulty_is_scored_by_its_own_list():
    scores = revisited(
        easy={"p": "x e", "q": "e"},
        medium={"p": "e x h H", "q": "e"},
        hard={"p": "x h"},
    )
    # Easy: "p" finds its one right image at rank 1 (from 0): (0/1 + 1/2) / 2 = 1/4; "q" 1.
    assert scores.queries["easy"]["p"]["AP"] == pytest.approx(1 / 4)
    assert scores.metrics["easy"]["mAP"] == pytest.approx((1 / 4 + 1) / 2)
    # Medium: ranks 0, 2, 3 of three right: (1 + 1)/2, (1/2 + 2/3)/2, (2/3 + 3/4)/2, over 3.
    medium = (1 + (1 / 2 + 2 / 3) / 2 + (2 / 3 + 3 / 4) / 2) / 3
    assert scores.queries["medium"]["p"]["AP"] == pytest.approx(medium)
    assert scores.metrics["medium"]["mAP"] == pytest.approx((medium + 1) / 2)
    # Hard: "q" has nothing hard. "p" finds one of two at rank 1: (0 + 1/2) / 2, over 2.
    assert scores.metrics["hard"]["mAP"] == pytest.approx(1 / 8)


def test_precisions_divide_by_the_last_right_rank_if_it_comes_earlier():
    scores = revisited(medium={"p": "e x h H", "q": "x e"}, hard={"p": "x h"})
    # "p": P@1 = 1, the last is the fourth: P@5 = P@10 = 3/4. "q": P@1 = 0, P@5 = P@10 = 1/2.
    assert scores.queries["medium"]["p"] == pytest.approx(
        {"AP": scores.queries["medium"]["p"]["AP"], "P@1": 1, "P@5": 3 / 4, "P@10": 3 / 4}
    )
    assert scores.metrics["medium"]["mP@1"] == pytest.approx(1 / 2)
    assert scores.metrics["medium"]["mP@5"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    # A right one is missing, so it is not known where the last stands: 1 of 5, 1 of 10.
    assert scores.metrics["hard"]["mP@5"] == pytest.approx(1 / 5)
    assert scores.metrics["hard"]["mP@10"] == pytest.approx(1 / 10)


def test_ignored_images_in_a_list_take_no_rank():
    # Easy ignores hard and junk, hard ignores easy and junk.
    scores = revisited(easy={"p": "j h e", "q": "h e"}, hard={"p": "e j h H"})
    assert scores.metrics["easy"]["mAP"] == 1
    assert scores.metrics["hard"]["mAP"] == 1


def test_queries_without_right_images_are_dropped_from_a_difficulty():
    scores = revisited(easy={"p": "e", "q": "e", "junk": "e x"})
    assert {level: set(queries) for level, queries in scores.queries.items()} == {
        "easy": {"p", "q"},
        "medium": {"p", "q"},
        "hard": {"p"},
    }


def test_a_difficulty_without_any_query_is_left_out():
    truth = {"q": RevisitedTruth(frozenset("e"), frozenset(), frozenset())}
    scores = score(benchmark("revisited", truth), Predictions({"easy": {"q": ranking("e")}}))
    assert set(scores.metrics) == set(scores.intervals) == set(scores.queries) == {"easy", "medium"}


def test_revisited_queries_without_an_answer_count_0():
    scores = revisited(easy={"p": "e"})
    assert scores.queries["easy"]["q"] == {"AP": 0, "P@1": 0, "P@5": 0, "P@10": 0}
    assert scores.metrics["easy"]["mAP"] == 1 / 2
    assert scores.metrics["medium"]["mAP"] == scores.metrics["hard"]["mAP"] == 0


# --- Retrieval ---


def test_retrieval_worked_by_hand():
    truth = {
        "q": RetrievalTruth(frozenset({"a", "b"})),
        "r": RetrievalTruth(frozenset({"c"})),
        "none": RetrievalTruth(frozenset({"a"})),
    }
    scores = score(benchmark("retrieval", truth), rankings(q="a x b", r="x y z v w c"))
    # "q": (1/1 + 2/3) / 2; "r": (1/6) / 1; "none" has no answer.
    assert scores.queries["all"]["q"]["AP@100"] == pytest.approx((1 + 2 / 3) / 2)
    assert scores.metrics["all"] == pytest.approx(
        {
            "mAP@100": ((1 + 2 / 3) / 2 + 1 / 6 + 0) / 3,
            # "q" at once, "r" at rank 6.
            "recall@1": 1 / 3,
            "recall@5": 1 / 3,
            "recall@10": 2 / 3,
            # "q" 1/1, 2/5, 2/10; "r" 0, 0, 1/10.
            "precision@1": 1 / 3,
            "precision@5": 2 / 5 / 3,
            "precision@10": (2 / 10 + 1 / 10) / 3,
        }
    )
    assert scores.queries["all"]["none"] == dict.fromkeys(scores.queries["all"]["q"], 0)


def test_retrieval_by_parts_and_without_what_is_ignored():
    truth = {
        "pub": RetrievalTruth(frozenset("a"), "Public"),
        "priv": RetrievalTruth(frozenset("a"), "Private"),
        "other": RetrievalTruth(frozenset("a"), "Private"),
        "ignored": RetrievalTruth(frozenset("a"), "Ignored"),
        "void": RetrievalTruth(frozenset(), "Ignored"),
    }
    predictions = rankings(pub="x a", priv="a", ignored="x y z a", void="a")
    scores = score(benchmark("retrieval", truth), predictions)
    assert {part: values["mAP@100"] for part, values in scores.metrics.items()} == {
        "Public": 1 / 2,
        "Private": (1 + 0) / 2,
        "all": (1 / 2 + 1 + 0) / 3,
    }
    assert set(scores.queries["all"]) == {"pub", "priv", "other"}
    # Ignored queries do not make it a benchmark with unanswerable ones.
    assert not any("GAP" in values for values in scores.metrics.values())


def test_retrieval_looks_as_deep_as_the_question_says():
    truth = {"q": RetrievalTruth(frozenset({"a", "b", "c"}))}
    predictions = rankings(q="a x b c")
    short = score(benchmark("retrieval", truth, depth=2, recalls=(1, 2, 4)), predictions)
    # One of the first two is right, of at most two: (1/1) / 2.
    assert short.metrics["all"]["mAP@2"] == 1 / 2
    assert {"recall@1", "recall@2", "recall@4"} < set(short.metrics["all"])
    full = score(benchmark("retrieval", truth, depth=None), predictions)
    # (1/1 + 2/3 + 3/4) / 3.
    assert full.metrics["all"]["mAP"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


def test_gap_is_told_where_some_queries_have_no_match():
    truth = {
        "q": RetrievalTruth(frozenset({"a", "b"})),
        "r": RetrievalTruth(frozenset("c")),
        "s": RetrievalTruth(frozenset("d")),
        "no match": RetrievalTruth(frozenset()),
    }
    hits = {
        "q": ranking("b x", 3.0),
        "no match": ranking("a", 2.0),
        "r": ranking("c", 1.0),
        "s": ranking("x d", 0.5),
    }
    scores = score(benchmark("retrieval", truth), Predictions({"all": hits}))
    # First hits by score: right, wrong (nothing matches), right, wrong: (1/1 + 2/3) / 3.
    assert scores.metrics["all"]["GAP"] == pytest.approx((1 + 2 / 3) / 3)
    # The others are means over those that have a match: 1/1 of "q" counts half, as two are right.
    assert scores.metrics["all"]["mAP@100"] == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    assert "no match" not in scores.queries["all"]
    sunk = {**hits, "no match": ranking("a", -1.0)}
    better = score(benchmark("retrieval", truth), Predictions({"all": sunk}))
    assert better.metrics["all"]["GAP"] == pytest.approx((1 + 1) / 3)


def test_gap_by_part_has_only_that_parts_queries():
    truth = {
        "q": RetrievalTruth(frozenset("a"), "Public"),
        "no match": RetrievalTruth(frozenset(), "Public"),
        "r": RetrievalTruth(frozenset("a"), "Private"),
        "ignored": RetrievalTruth(frozenset(), "Ignored"),
    }
    high = {"ignored": ranking("a", 9.0), "no match": ranking("a", 5.0)}
    hits = {**high, "q": ranking("a", 3.0), "r": ranking("a", 1.0)}
    scores = score(benchmark("retrieval", truth), Predictions({"all": hits}))
    # Public: wrong, right: 1/2. Private: right: 1. All: wrong, right, right: (1/2 + 2/3) / 2.
    assert {part: values["GAP"] for part, values in scores.metrics.items()} == pytest.approx(
        {"Public": 1 / 2, "Private": 1, "all": (1 / 2 + 2 / 3) / 2}
    )


# --- Recognition ---

SHOWN = {
    "q": RecognitionTruth(frozenset({"1"})),
    "r": RecognitionTruth(frozenset({"2", "3"})),
    "s": RecognitionTruth(frozenset({"4"})),
    "nothing": RecognitionTruth(frozenset()),
}


def test_recognition_worked_by_hand():
    labels = {"q": ("1", 0.9), "nothing": ("1", 0.8), "r": ("3", 0.7), "s": ("9", 0.6)}
    scores = score(benchmark("recognition", SHOWN), Predictions({}, labels))
    # By score: right, wrong (it shows nothing), right, wrong. Three queries have a label.
    assert scores.metrics["all"] == pytest.approx(
        {
            "GAP": (1 / 1 + 2 / 3) / 3,
            # Without the query that shows nothing: right, right, wrong.
            "GAP-": (1 / 1 + 2 / 2) / 3,
            "accuracy": 2 / 3,
        }
    )
    assert scores.queries["all"] == {
        "q": {"accuracy": 1},
        "r": {"accuracy": 1},
        "s": {"accuracy": 0},
    }


@pytest.mark.parametrize("unsure", [{}, {"s": None, "nothing": None}])
def test_queries_that_are_given_no_label_are_wrong_and_in_nobodys_way(unsure):
    labels = {"q": ("9", 0.9), "r": ("2", 0.7), **unsure}
    scores = score(benchmark("recognition", SHOWN), Predictions({}, labels))
    # Wrong, right: (1/2) / 3.
    assert scores.metrics["all"] == pytest.approx(
        {"GAP": 1 / 2 / 3, "GAP-": 1 / 2 / 3, "accuracy": 1 / 3}
    )
    assert scores.queries["all"]["s"] == {"accuracy": 0}


def test_recognition_by_parts_and_without_what_is_ignored():
    truth = {
        "pub": RecognitionTruth(frozenset("1"), "Public"),
        "pub none": RecognitionTruth(frozenset(), "Public"),
        "priv": RecognitionTruth(frozenset("1"), "Private"),
        "ignored": RecognitionTruth(frozenset("1"), "Ignored"),
    }
    labels = {
        "ignored": ("2", 9.0),
        "pub none": ("1", 3.0),
        "pub": ("1", 2.0),
        "priv": ("1", 1.0),
    }
    scores = score(benchmark("recognition", truth), Predictions({}, labels))
    # Public: wrong, right. Private: right. All: wrong, right, right.
    assert {part: values["GAP"] for part, values in scores.metrics.items()} == pytest.approx(
        {"Public": 1 / 2, "Private": 1, "all": (1 / 2 + 2 / 3) / 2}
    )
    assert set(scores.queries["all"]) == {"pub", "priv"}


def test_a_part_in_which_nothing_is_shown_is_left_out():
    truth = {
        "pub": RecognitionTruth(frozenset(), "Public"),
        "priv": RecognitionTruth(frozenset("1"), "Private"),
    }
    scores = score(benchmark("recognition", truth), Predictions({}, {"priv": ("1", 1.0)}))
    assert set(scores.metrics) == {"Private", "all"}


# --- All protocols ---

BENCHMARKS = [
    benchmark("revisited", {"q": RevisitedTruth(frozenset("a"), frozenset("b"), frozenset())}),
    benchmark("retrieval", {"q": RetrievalTruth(frozenset("a"))}),
    benchmark("recognition", {"q": RecognitionTruth(frozenset("1"))}),
]


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda spec: spec.protocol)
def test_an_answer_to_an_unknown_query_is_an_error_that_names_it(benchmark):
    lists = {"all": {"stray": ranking("a")}, "hard": {"stray": ranking("a")}}
    with pytest.raises(ValueError, match="'stray'"):
        score(benchmark, Predictions(lists, {"stray": ("1", 1.0)}))


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda spec: spec.protocol)
def test_no_answers_at_all_score_0(benchmark):
    scores = score(benchmark, Predictions({}))
    assert scores.metrics
    assert {value for values in scores.metrics.values() for value in values.values()} == {0}


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda spec: spec.protocol)
def test_every_number_has_an_interval_around_it(benchmark):
    lists = {name: {"q": ranking("x a b")} for name in ("all", "easy", "medium", "hard")}
    scores = score(benchmark, Predictions(lists, {"q": ("1", 1.0)}))
    for part, values in scores.metrics.items():
        assert set(scores.intervals[part]) == set(values)
        for name, value in values.items():
            low, high = scores.intervals[part][name]
            assert low - 1e-12 <= value <= high + 1e-12


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda spec: spec.protocol)
def test_the_main_metric_is_among_the_metrics_and_its_part_among_each_querys(benchmark):
    scores = score(benchmark, Predictions({}))
    assert all(main_metric(benchmark) in values for values in scores.metrics.values())
    assert all(query_metric(benchmark) in values["q"] for values in scores.queries.values())
