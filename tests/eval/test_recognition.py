import numpy as np
import pytest

from eval.recognition import recognise
from index.results import Ranking

LABELS = {"a1": "A", "a2": "A", "a3": "A", "b1": "B", "b2": "B"}


def ranking(*hits: tuple[str, float, bool]) -> Ranking:
    """Hits as (id, score, verified)."""
    ids, scores, verified = zip(*hits, strict=True) if hits else ((), (), ())
    inliers = np.where(np.array(verified, bool), 30, 0).astype(np.int32)
    proven = np.array(verified, bool)
    probabilities = np.where(proven, 0.9, 0.2).astype(np.float32)
    return Ranking(tuple(ids), np.array(scores, np.float32), inliers, probabilities, proven)


def test_summed_evidence_beats_a_single_better_hit():
    hits = ranking(("b1", 2.75, True), ("a1", 1.5, True), ("a2", 1.375, True))
    assert recognise(hits, LABELS) == ("A", 2.875)


def test_one_strong_hit_beats_several_weak_ones():
    hits = ranking(("b1", 5.5, True), ("a1", 1.25, True), ("a2", 1.25, True))
    assert recognise(hits, LABELS) == ("B", 5.5)


def test_hits_without_proof_add_nothing_to_proven_ones():
    hits = ranking(("b1", 1.5, True), ("a1", -0.25, False), ("a2", -0.25, False))
    assert recognise(hits, LABELS) == ("B", 1.5)
    more = ranking(("b1", 1.5, True), ("b2", -0.5, False))
    assert recognise(more, LABELS) == ("B", 1.5)


def test_without_proof_the_likest_hit_decides_and_likeness_is_not_summed():
    hits = ranking(("b1", -1.5, False), ("a1", -2.0, False), ("a2", -2.0, False))
    assert recognise(hits, LABELS) == ("B", -1.5)
    # The best of the label's hits counts, wherever it stands.
    assert recognise(ranking(("a1", -0.5, False), ("a2", -0.25, False)), LABELS) == ("A", -0.25)


def test_what_is_not_proven_scores_below_0_and_below_all_that_is():
    alike = recognise(ranking(*((image, -0.001, False) for image in LABELS)), LABELS)
    proven = recognise(ranking(("a1", 0.001, True)), LABELS)
    assert alike is not None and proven is not None
    assert alike[1] < 0 < proven[1]


def test_hits_without_a_label_say_nothing():
    hits = ranking(("stranger", 2.9, True), ("other", -0.1, False), ("a1", -0.5, False))
    assert recognise(hits, LABELS) == ("A", -0.5)


@pytest.mark.parametrize("hits", [(), (("stranger", 2.0, True),)])
def test_nothing_is_recognised_where_no_hit_has_a_label(hits):
    assert recognise(ranking(*hits), LABELS) is None


@pytest.mark.parametrize("verified", [True, False])
def test_of_equal_labels_it_is_always_the_first_in_the_alphabet(verified):
    score = 1.5 if verified else -1.5
    hits = [("b1", score, verified), ("a1", score, verified)]
    first = recognise(ranking(*hits), LABELS)
    assert first == recognise(ranking(*hits[::-1]), LABELS)
    assert first is not None and first[0] == "A"
