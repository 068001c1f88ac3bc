import json
from dataclasses import replace

import pytest
from pages import (
    HOSTILE,
    parse,
    photos,
    ranking,
    recognition,
    reject_outside,
    retrieval,
    revisited,
    run,
)

from delg.errors import UsageError
from eval.bootstrap import paired_difference
from eval.cli.output import print_comparison
from eval.predictions import Predictions
from eval.reports.compare import compare, comparison_json
from eval.reports.comparison_page import render_comparison, write_comparison
from eval.run import Run

TRUTH = {"q1": {"a"}, "q2": {"b"}, "q3": {"c"}, "q4": {"d"}}


def shelves(
    title: str = "one", truth=None, paths=None, metadata=None, **hits: tuple[str, ...]
) -> Run:
    rankings = {query: ranking(*ids) for query, ids in hits.items()}
    return run(
        retrieval(truth or TRUTH),
        Predictions({"all": rankings}),
        title,
        paths=paths or {},
        metadata=metadata or {},
    )


def first(**changes) -> Run:
    return shelves(q1=("x", "a"), q2=("b",), q3=("x", "y", "z", "c"), q4=("d",), **changes)


def second(title: str = "two", **changes) -> Run:
    """q1 gains 0.5, q2 loses 0.5, q3 gains 0.75, q4 stays."""
    return shelves(title, q1=("a",), q2=("x", "b"), q3=("c",), q4=("d",), **changes)


def test_better_and_worse_queries_are_listed_by_how_much():
    (found,) = compare([first(), second()]).differences
    assert [(c.query, c.before, c.after, c.change) for c in found.better] == [
        ("q3", 0.25, 1.0, 0.75),
        ("q1", 0.5, 1.0, 0.5),
    ]
    assert [(c.query, c.change) for c in found.worse] == [("q2", -0.5)]
    assert (found.part, found.metric, found.run) == ("all", "AP@100", 1)
    assert (found.total.better, found.total.worse, found.total.equal) == (2, 1, 1)


def test_the_difference_is_the_paired_one():
    one, two = first(), second()
    before, after = (
        {q: v["AP@100"] for q, v in r.scores.queries["all"].items()} for r in (one, two)
    )
    assert compare([one, two]).differences[0].total == paired_difference(before, after)


def test_every_later_run_is_compared_with_the_first():
    found = compare([first(), second(), first(title="three")])
    assert [one.run for one in found.differences] == [1, 2]
    assert found.differences[1].better == found.differences[1].worse == ()


def test_metrics_stand_side_by_side_with_their_intervals():
    one, two = first(), second()
    metrics = compare([one, two]).metrics
    assert metrics[0].name == "mAP@100"
    assert {(m.part, m.name) for m in metrics} == {("all", n) for n in one.scores.metrics["all"]}
    for metric in metrics:
        for number, of in zip(metric.numbers, (one, two), strict=True):
            assert number is not None
            assert number.value == of.scores.metrics[metric.part][metric.name]
            assert (number.low, number.high) == of.scores.intervals[metric.part][metric.name]


def test_only_settings_that_differ_are_listed_and_no_times():
    facts = {
        "engine": {"model": "delg-lite", "rerank": 100, "settings": {"a": {"b": [1, 2]}}},
        "seconds": 1.0,
        "finished": "now",
        "query_ms": {"median": 1.0},
    }
    other = {
        "engine": {"model": "delg-lite", "rerank": 0, "settings": {"a": {"b": [1, 3]}}},
        "seconds": 2.0,
        "finished": "later",
        "query_ms": {"median": 2.0},
        "git": {"changed": True},
    }
    found = compare([first(metadata=facts), second(metadata=other)])
    assert {one.name: one.values for one in found.settings} == {
        "engine.rerank": ("100", "0"),
        "engine.settings.a.b": ("1, 2", "1, 3"),
        "git.changed": ("–", "yes"),
    }


def test_runs_of_different_questions_are_refused_by_name():
    one = first()
    renamed = second()
    renamed = replace(renamed, benchmark=replace(renamed.benchmark, name="drawers"))
    with pytest.raises(UsageError, match="benchmark of 'one' is shelves, that of 'two' is drawers"):
        compare([one, renamed])
    labels = recognition({"q1": {"x"}})
    other = run(replace(labels, name="shelves"), Predictions({}, {"q1": ("x", 1.0)}), "labels")
    with pytest.raises(UsageError, match=r"protocol of 'one' is retrieval, .*recognition"):
        compare([one, other])
    shallow = run(retrieval(TRUTH, depth=10), Predictions({"all": {}}), "shallow")
    with pytest.raises(UsageError, match=r"metric of 'one' is mAP@100, .*'shallow' is mAP@10"):
        compare([one, shallow])


def test_runs_without_a_common_query_are_refused_by_name():
    with pytest.raises(UsageError, match="'one' and 'two' have no scored query in common"):
        compare([first(), shelves("two", {"other": {"a"}}, other=("a",))])


def test_one_run_is_no_comparison():
    with pytest.raises(UsageError, match="two runs"):
        compare([first()])


def test_other_queries_and_other_truth_are_said():
    truth = {**TRUTH, "q1": {"z"}, "q9": {"a"}}
    notes = compare([first(), shelves("two", truth, q2=("b",))]).notes
    assert len(notes) == 2
    assert "1 query is in one run only" in notes[0]
    assert "ground truth of 1 common" in notes[1]
    assert compare([first(), second()]).notes == ()


def test_each_difficulty_is_compared_and_the_hardest_has_pictures():
    benchmark = revisited({"o1": ({"e"}, {"h"}, set()), "o2": ({"e"}, set(), set())})
    parts = ("easy", "medium", "hard")
    rankings = [{"o1": ranking(*ids), "o2": ranking("e")} for ids in (("n", "h"), ("h", "n"))]
    one, two = (
        run(benchmark, Predictions(dict.fromkeys(parts, by_query)), title)
        for title, by_query in zip(("one", "two"), rankings, strict=True)
    )
    found = compare([one, two])
    assert [difference.part for difference in found.differences] == list(parts)
    root = parse(render_comparison(found))
    pictured = [bool(part.all("article")) for part in root.all("section", "change")]
    assert pictured == [False, False, True]


def test_recognition_is_compared_by_accuracy():
    benchmark = recognition({"r1": {"x"}, "r2": {"y"}})
    one = run(benchmark, Predictions({}, {"r1": ("x", 1.0), "r2": ("x", 0.5)}), "one")
    two = run(benchmark, Predictions({}, {"r1": ("x", 1.0), "r2": ("y", 0.5)}), "two")
    (found,) = compare([one, two]).differences
    assert found.metric == "accuracy" and [c.query for c in found.better] == ["r2"]
    words = parse(render_comparison(compare([one, two]))).words
    assert "Predicted: x, score 0.500" in words and "Predicted: y, score 0.500" in words


def test_the_json_holds_the_numbers_and_is_json():
    found = compare([first(), second(metadata={"engine": {"rerank": 5}})])
    plain = json.loads(json.dumps(comparison_json(found)))
    assert plain["runs"] == ["one", "two"] and plain["benchmark"] == "shelves"
    assert plain["settings"] == {"engine.rerank": ["–", "5"]}
    (difference,) = plain["differences"]
    assert difference["mean"] == found.differences[0].total.mean
    assert difference["worse"] == [{"query": "q2", "before": 1.0, "after": 0.5, "change": -0.5}]
    assert plain["metrics"][0]["values"] == [n.value for n in found.metrics[0].numbers if n]


def test_the_terminal_gets_settings_metrics_and_changes(capsys):
    found = compare([first(), second(metadata={"engine": {"rerank": 5}})])
    print_comparison(found)
    said = capsys.readouterr()
    assert said.err == ""
    for text in ("shelves", "engine.rerank", "two against one", "+0.188", "2 better, 1 worse",
                 "+0.750", "-0.500", "0.688"):  # fmt: skip
        assert text in said.out
    assert said.out.index(" +0.750") < said.out.index(" +0.500") < said.out.index(" -0.500")


def test_the_page_shows_the_largest_changes_before_and_after(tmp_path):
    made = {name: str(path) for name, path in photos(tmp_path, "a", "b", "x").items()}
    text = render_comparison(compare([first(paths=made), second(paths=made)]))
    reject_outside(text)
    root = parse(text)
    section = root.section("two against one")
    articles = section.all("article")
    assert [one.all("p", "name")[0].words for one in articles] == ["q3", "q1", "q2"]
    assert "AP@100 0.500 → 1.000 (+0.500)" in articles[1].words
    before, after = articles[1].all("ol", "hits")
    assert [h.all("span", "verdict")[0].words for h in before.all("li")] == ["Wrong", "Right"]
    assert [h.all("span", "verdict")[0].words for h in after.all("li")] == ["Right"]
    assert len(before.all("img")) == 2 and len(articles[0].all("p", "missing")) >= 3
    rows = [[c.words for c in row.children] for row in section.all("table", "changes")[0].all("tr")]
    assert rows[1:] == [
        ["q3", "0.250", "1.000", "+0.750"],
        ["q1", "0.500", "1.000", "+0.500"],
        ["q2", "1.000", "0.500", "-0.500"],
    ]


def test_runs_that_do_not_differ_have_a_page_that_says_so():
    text = render_comparison(compare([first(), first(title="two")]))
    reject_outside(text)
    words = parse(text).words
    assert "No query changed." in words and "None of the recorded settings" in words


def test_texts_from_outside_stay_texts():
    truth = {HOSTILE: {HOSTILE}}
    one = shelves(HOSTILE, truth, metadata={HOSTILE: HOSTILE}, **{HOSTILE: ("x", HOSTILE)})
    two = shelves(HOSTILE, truth, metadata={HOSTILE: 1}, **{HOSTILE: (HOSTILE,)})
    text = render_comparison(compare([one, two, one]))
    reject_outside(text)
    assert HOSTILE in parse(text).words


def test_the_page_is_written(tmp_path):
    write_comparison(tmp_path / "compare.html", compare([first(), second()]))
    assert "two against one" in parse((tmp_path / "compare.html").read_text("utf-8")).words
