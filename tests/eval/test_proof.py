"""What verified hits are worth, worked out by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
from pages import recognition, retrieval, revisited, run

from eval.benchmark import IGNORED_PART, RetrievalTruth
from eval.predictions import Predictions, plain_ranking
from eval.proof import Proof, measure_proof
from eval.run import load_run, save_run
from index.results import Ranking


def ranking(*hits: tuple[str, float], inliers: int = 30) -> Ranking:
    """Hits as (id, probability); those from .5 up are verified."""
    ids = tuple(image for image, _ in hits)
    probabilities = np.array([value for _, value in hits], np.float32)
    count = np.full(len(hits), inliers, np.int32)
    return Ranking(ids, -np.arange(len(hits), dtype=np.float32), count, probabilities,
                   probabilities >= 0.5)  # fmt: skip


def proof_of(truth: dict[str, set[str]], **rankings: Ranking) -> Proof:
    return measure_proof(retrieval(truth), Predictions({"all": rankings}))["all"]


def test_precision_and_recall_of_verified_hits():
    proof = proof_of(
        {"q1": {"a", "b"}, "q2": {"c"}, "q3": {"d"}, "q4": set(), "q5": set()},
        # Two right proofs, one wrong; b is relevant and seen, and so is c, which is not proven.
        q1=ranking(("a", 0.99), ("x", 0.75), ("b", 0.6)),
        q2=ranking(("c", 0.25), ("x", 0.1)),
        # Nothing was found for q3, as for a query whose photo cannot be read.
        q4=ranking(("x", 0.5)),
        q5=ranking(("x", 0.25)),
    )
    assert (proof.hits, proof.right, proof.precision) == (4, 2, 0.5)
    assert (proof.queries, proof.proven, proof.recall) == (3, 1, pytest.approx(1 / 3))
    assert (proof.relevant_hits, proof.hit_recall) == (3, pytest.approx(2 / 3))
    assert (proof.unanswerable, proof.refuted) == (2, 1)


def test_only_the_first_ten_hits_count_but_every_probability():
    rest = [(f"x{number}", 0.25) for number in range(10)]
    proof = proof_of({"q": {"a"}}, q=ranking(*rest, ("a", 0.75)))
    assert (proof.hits, proof.proven, proof.relevant_hits) == (0, 0, 0)
    assert proof.precision is None and proof.recall == 0 and proof.hit_recall is None
    assert proof.calibration is not None and proof.calibration.count == (10, 1)


def test_the_calibration_error_is_the_distance_from_the_stated_to_the_true_share():
    # Stated .9 four times, right three times; stated .25 twice, never right.
    proof = proof_of(
        {"q": {"a", "b", "c"}},
        q=ranking(("a", 0.9), ("b", 0.9), ("c", 0.9), ("x", 0.9), ("y", 0.25), ("z", 0.25)),
    )
    calibration = proof.calibration
    assert calibration is not None
    assert (calibration.pairs, calibration.count) == (6, (2, 4))
    assert calibration.stated == pytest.approx((0.25, 0.9)) and calibration.right == (0, 0.75)
    assert calibration.expected_calibration_error == pytest.approx(
        (2 * 0.25 + 4 * 0.15) / 6, abs=1e-4
    )


def test_hits_without_evidence_have_no_part_in_the_calibration():
    few = proof_of({"q": {"a"}}, q=ranking(("a", 0.01), ("b", 0.01), inliers=5))
    assert few.calibration is None
    enough = proof_of({"q": {"a"}}, q=ranking(("a", 0.01), ("b", 0.01), inliers=6))
    assert enough.calibration is not None and enough.calibration.pairs == 2


def test_images_that_a_difficulty_ignores_are_neither_right_nor_wrong():
    truth = {"q": ({"e"}, {"h"}, {"j"}), "r": ({"e"}, set(), set())}
    hits = {
        name: {"q": ranking(*[(i, 0.9) for i in "jehn"])} for name in ("easy", "medium", "hard")
    }
    proof = measure_proof(revisited(truth), Predictions(hits))
    assert [(p.hits, p.right, p.queries) for p in proof.values()] == [
        (2, 1, 2),
        (3, 2, 2),
        (2, 1, 1),
    ]
    assert list(proof) == ["easy", "medium", "hard"]
    counted = [p.calibration.pairs for p in proof.values() if p.calibration]
    assert counted == [2, 3, 2]


def test_queries_count_in_their_part_and_ignored_ones_nowhere():
    benchmark = retrieval({"q": {"a"}, "r": {"a"}, "s": {"a"}})
    for query, part in (("q", "Public"), ("r", "Private"), ("s", IGNORED_PART)):
        benchmark.truth[query] = RetrievalTruth(frozenset("a"), part)
    hits = dict.fromkeys("qrs", ranking(("a", 0.9)))
    proof = measure_proof(benchmark, Predictions({"all": hits}))
    assert {part: p.proven for part, p in proof.items()} == {"Public": 1, "all": 2, "Private": 1}


def test_recognition_has_no_hits_to_judge():
    hits = {"all": {"q": ranking(("a", 0.9))}}
    assert measure_proof(recognition({"q": {"A"}}), Predictions(hits, {"q": ("A", 1.0)})) == {}


def test_rankings_without_probabilities_have_no_calibration():
    older = replace(ranking(("a", 0.9), ("b", 0.1)), probabilities=np.full(2, np.nan, np.float32))
    proof = proof_of({"q": {"a"}}, q=older)
    assert (proof.hits, proof.right, proof.calibration) == (1, 1, None)


def test_of_rankings_whose_order_alone_is_known_nothing_is_said():
    hits = {"all": {"q": plain_ranking(("a",))}}
    assert measure_proof(retrieval({"q": {"a"}}), Predictions(hits)) == {}


def test_proof_comes_back_from_a_run_and_is_absent_from_older_ones(tmp_path):
    predictions = Predictions({"all": {"q": ranking(("a", 0.9), ("b", 0.6))}})
    save_run(tmp_path, run(retrieval({"q": {"a"}}), predictions))
    proof = load_run(tmp_path).scores.proof
    assert proof == measure_proof(retrieval({"q": {"a"}}), predictions)
    path = tmp_path / "metrics.json"
    numbers = json.loads(path.read_text())
    assert numbers["proof"]["all"]["precision"] == 0.5
    del numbers["proof"]
    path.write_text(json.dumps(numbers))
    assert load_run(tmp_path).scores.proof == {}
