"""The answer to a query: hits grouped by label, in words."""

from __future__ import annotations

import math

import pytest
from dots import dots, gallery

from index.answers.answer import Answer
from index.labels import GivenLabels, Label
from index.log_odds import probability_of
from index.results import Hit


def hit(rank: int, image: str, label: str | None, log_odds: float, **metadata: str) -> Hit:
    verified = log_odds > 0
    probability = probability_of(log_odds)
    inliers = 30 if verified else 0
    path = f"/{image}"
    return Hit(
        rank, image, path, label, log_odds, 0.5, inliers, probability, verified, None, metadata
    )


def test_evidence_of_a_label_is_summed_and_its_metadata_is_what_all_hits_share():
    answer = Answer.of(
        [
            hit(1, "b", "B", 2.75),
            hit(2, "a1", "A", 2.5, room="1", view="front"),
            hit(3, "a2", "A", 2.25, room="1", view="back"),
            hit(4, "c", None, -3.0),
        ]
    )
    assert [group.name for group in answer.groups] == ["A", "B", "c"]
    assert answer.best is not None and answer.best.score == 4.75
    assert answer.best.metadata == {"room": "1"}
    # Labels compete; what has none keeps its own probability.
    total = 1 + math.exp(4.75) + math.exp(2.75)
    assert answer.probability == pytest.approx(math.exp(4.75) / total)
    assert answer.groups[1].probability == pytest.approx(math.exp(2.75) / total)
    assert answer.groups[2].probability == pytest.approx(probability_of(-3.0))
    assert answer.verdict == "probably" and str(answer) == "probably: A"


def test_a_single_hit_keeps_its_probability_and_decides_the_words():
    for log_odds, verdict, text in (
        (6.0, "sure", "sure: A"), (2.0, "probably", "probably: A"),
        (-0.5, "none", "not in this collection"),
    ):  # fmt: skip
        answer = Answer.of([hit(1, "a", "A", log_odds)])
        assert (answer.verdict, answer.text) == (verdict, text)
        assert answer.probability == pytest.approx(probability_of(log_odds))
        assert (answer.best is None) == (verdict == "none")
    assert Answer.of([]).text == "not in this collection" and Answer.of([]).probability == 0


def test_two_labels_that_are_equally_proven_are_not_sure():
    answer = Answer.of([hit(1, "a", "A", 12.0), hit(2, "b", "B", 12.0)])
    assert answer.verdict == "probably" and answer.probability == pytest.approx(0.5, abs=1e-5)


def test_labels_of_different_regions_do_not_exclude_each_other():
    hits = [hit(1, "a", "A", 6.0), hit(2, "b", "B", 6.0), hit(3, "c", "C", 5.0)]
    both = {group.label: group.probability for group in Answer.of(hits, [(1,), (2, 3)]).groups}
    assert both["A"] == pytest.approx(probability_of(6.0)) and both["A"] > 0.95
    # Within a region they do.
    assert both["B"] == pytest.approx(math.exp(6) / (1 + math.exp(6) + math.exp(5)))
    assert Answer.of(hits, [(1,), (2, 3)]).verdict == "sure"
    # A hit that is proven for no region may be of any.
    loose = {group.label: group.probability for group in Answer.of(hits, [(1,), (2,)]).groups}
    assert loose["A"] < 0.8 and loose["C"] < 0.3


def test_photos_without_a_label_are_answers_too_and_do_not_exclude_each_other():
    answer = Answer.of([hit(1, "a", None, 9.0), hit(2, "b", None, 8.0), hit(3, "b2", "a", -2)])
    assert answer.text == "sure: a" and [len(group.hits) for group in answer.groups] == [1, 1, 1]
    assert answer.groups[1].probability == pytest.approx(probability_of(8.0))
    assert answer.as_json()["label"] is None and answer.as_json()["id"] == "a"


def test_many_unproven_hits_of_a_label_prove_nothing():
    assert Answer.of([hit(n, str(n), "A", -0.2) for n in range(1, 40)]).verdict == "none"


def test_extreme_evidence_is_no_error():
    answer = Answer.of([hit(n, str(n), "AB"[n % 2], 5000.0) for n in range(1, 40)])
    assert 0.5 <= answer.probability <= 1 and answer.groups[0].score > 50_000


def test_an_index_answers_with_label_and_metadata(make_index, tmp_path):
    gallery(tmp_path / "photos", 12)
    images = make_index()
    labels = {f"{n:03d}.png": Label(f"Inv. {n // 2}", {"room": str(n)}) for n in range(11)}
    images.add(tmp_path / "photos", GivenLabels(labels))
    result = images.query(dots(4).pixels())
    values = result.as_json("q", "i")["answer"]
    assert (values["label"], values["id"]) == ("Inv. 2", "004.png")
    assert values["verdict"] in ("sure", "probably")
    assert values["groups"][0]["ranks"][0] == 1 and values["metadata"].get("room") in (None, "4")
    assert images.query(dots(11).pixels()).answer().text.endswith("y: 011.png")
    assert images.query(dots(77).pixels()).answer().text == "not in this collection"


def test_a_photo_too_plain_to_be_verified_says_so(make_index, tmp_path):
    gallery(tmp_path / "photos", 12)
    images = make_index()
    images.add(tmp_path / "photos")
    plain = images.query(dots(77, count=12).pixels())
    assert plain.features == 12 and not plain[0].verified
    assert plain.notes == ("few features: 12; found by its overall look only",)
    assert plain.as_json("q", "i")["notes"] == list(plain.notes)
    assert images.query(dots(77, count=12).pixels(), rerank=0).notes == ()
    assert images.query(dots(4).pixels()).notes == images.query(dots(77).pixels()).notes == ()
    nothing = images.query(dots(4).pixels(), where=["room=9"])
    assert nothing.notes == ("no photo fulfils room=9",)
