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
    (difference,) = compare([first(), second()]).differences
    assert [(c.query, c.before, c.after, c.change) for c in difference.better] == [
        ("q3", 0.25, 1.0, 0.75),
        ("q1", 0.5, 1.0, 0.5),
    ]
    assert [(c.query, c.change) for c in difference.worse] == [("q2", -0.5)]
    assert (difference.part, difference.metric, difference.run) == ("all", "AP@100", 1)
    assert (difference.total.better, difference.total.worse, difference.total.equal) == (2, 1, 1)


def test_the_difference_is_the_paired_one():
    before_run, after_run = first(), second()
    before, after = (
        {q: v["AP@100"] for q, v in r.scores.queries["all"].items()}
        for r in (before_run, after_run)
    )
    assert compare([before_run, after_run]).differences[0].total == paired_difference(before, after)


def test_every_later_run_is_compared_with_the_first():
    comparison = compare([first(), second(), first(title="three")])
    assert [before_run.run for before_run in comparison.differences] == [1, 2]
    assert comparison.differences[1].better == comparison.differences[1].worse == ()


def test_metrics_stand_side_by_side_with_their_intervals():
    before_run, after_run = first(), second()
    metrics = compare([before_run, after_run]).metrics
    assert metrics[0].name == "mAP@100"
    assert {(m.part, m.name) for m in metrics} == {
        ("all", n) for n in before_run.scores.metrics["all"]
    }
    for metric in metrics:
        for number, of in zip(metric.numbers, (before_run, after_run), strict=True):
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
    comparison = compare([first(metadata=facts), second(metadata=other)])
    assert {setting.name: setting.values for setting in comparison.settings} == {
        "engine.rerank": ("100", "0"),
        "engine.settings.a.b": ("1, 2", "1, 3"),
        "git.changed": ("–", "yes"),
    }


def test_runs_of_different_questions_are_refused_by_name():
    shelf_run = first()
    renamed = second()
    renamed = replace(renamed, benchmark=replace(renamed.benchmark, name="drawers"))
    with pytest.raises(UsageError, match="benchmark of 'one' is shelves, that of 'two' is drawers"):
        compare([shelf_run, renamed])
    labels = recognition({"q1": {"x"}})
    other = run(replace(labels, name="shelves"), Predictions({}, {"q1": ("x", 1.0)}), "labels")
    with pytest.raises(UsageError, match=r"protocol of 'one' is retrieval, .*recognition"):
        compare([shelf_run, other])
    shallow = run(retrieval(TRUTH, depth=10), Predictions({"all": {}}), "shallow")
    with pytest.raises(UsageError, match=r"metric of 'one' is mAP@100, .*'shallow' is mAP@10"):
        compare([shelf_run, shallow])


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
    left, right = (
        run(benchmark, Predictions(dict.fromkeys(parts, by_query)), title)
        for title, by_query in zip(("one", "two"), rankings, strict=True)
    )
    comparison = compare([left, right])
    assert [difference.part for difference in comparison.differences] == list(parts)
    root = parse(render_comparison(comparison))
    pictured = [bool(part.all("article")) for part in root.all("section", "change")]
    assert pictured == [False, False, True]


def test_recognition_is_compared_by_accuracy():
    benchmark = recognition({"r1": {"x"}, "r2": {"y"}})
    left = run(benchmark, Predictions({}, {"r1": ("x", 1.0), "r2": ("x", 0.5)}), "one")
    right = run(benchmark, Predictions({}, {"r1": ("x", 1.0), "r2": ("y", 0.5)}), "two")
    (difference,) = compare([left, right]).differences
    assert difference.metric == "accuracy" and [c.query for c in difference.better] == ["r2"]
    words = parse(render_comparison(compare([left, right]))).words
    assert "Predicted: x, score 0.500" in words and "Predicted: y, score 0.500" in words


def test_the_json_holds_the_numbers_and_is_json():
    comparison = compare([first(), second(metadata={"engine": {"rerank": 5}})])
    plain = json.loads(json.dumps(comparison_json(comparison)))
    assert plain["runs"] == ["one", "two"] and plain["benchmark"] == "shelves"
    assert plain["settings"] == {"engine.rerank": ["–", "5"]}
    (difference,) = plain["differences"]
    assert difference["mean"] == comparison.differences[0].total.mean
    assert difference["worse"] == [{"query": "q2", "before": 1.0, "after": 0.5, "change": -0.5}]
    (proof,) = plain["proof"]
    # The first two hits of each query are verified: 6 and 5 in all, 3 and 4 of them right.
    assert [value["precision"] for value in proof["values"]] == [3 / 6, 4 / 5]
    assert plain["metrics"][0]["values"] == [n.value for n in comparison.metrics[0].numbers if n]


def test_the_terminal_gets_settings_metrics_and_changes(capsys):
    comparison = compare([first(), second(metadata={"engine": {"rerank": 5}})])
    print_comparison(comparison)
    said = capsys.readouterr()
    assert said.err == ""
    for text in ("shelves", "engine.rerank", "two against one", "+0.188", "2 better, 1 worse",
                 "+0.750", "-0.500", "0.688", "50.0% (3 of 6)", "80.0% (4 of 5)"):  # fmt: skip
        assert text in said.out
    assert said.out.index(" +0.750") < said.out.index(" +0.500") < said.out.index(" -0.500")


def test_the_page_shows_the_largest_changes_before_and_after(tmp_path):
    paths = {name: str(path) for name, path in photos(tmp_path, "a", "b", "x").items()}
    text = render_comparison(compare([first(paths=paths), second(paths=paths)]))
    reject_outside(text)
    root = parse(text)
    section = root.section("two against one")
    articles = section.all("article")
    assert [article.all("p", "name")[0].words for article in articles] == ["q3", "q1", "q2"]
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
    hostile_run = shelves(HOSTILE, truth, metadata={HOSTILE: HOSTILE}, **{HOSTILE: ("x", HOSTILE)})
    two = shelves(HOSTILE, truth, metadata={HOSTILE: 1}, **{HOSTILE: (HOSTILE,)})
    text = render_comparison(compare([hostile_run, two, hostile_run]))
    reject_outside(text)
    assert HOSTILE in parse(text).words


def test_the_page_is_written(tmp_path):
    write_comparison(tmp_path / "compare.html", compare([first(), second()]))
    assert "two against one" in parse((tmp_path / "compare.html").read_text("utf-8")).words
