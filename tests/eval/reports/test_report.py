from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from pages import (
    HOSTILE,
    Element,
    parse,
    photos,
    ranking,
    recognition,
    reject_outside,
    retrieval,
    revisited,
    run,
)
from PIL import Image

from delg.errors import DelgError
from eval.benchmark import Benchmark, QueryPhoto
from eval.predictions import Predictions, plain_ranking
from eval.reports import query_table
from eval.reports.report import MatchPicture, render_report, write_report
from eval.run import Run, load_run, save_run
from eval.scoring import Scores
from index.visualize.draw_matches import encode_image

FACTS = {
    "gallery": 1234,
    "engine": {
        "model": "delg-lite",
        "fingerprint": "fedcba98",
        "rerank": 77,
        "orientations": "auto",
        "settings": {"ranking": {"min_inliers": 13}},
    },
    "query_ms": {"median": 120.5, "fastest": 80.0, "slowest": 300.0},
    "failed_queries": {"q9": "no such file"},
    "seconds": 12.25,
    "finished": "2026-11-24T15:00:00+00:00",
    "command": "delg eval folders x",
    "versions": {"python": "3.12.1", "numpy": "2.1.0"},
    "machine": "Linux, 2 cores",
    "git": {"commit": "0123456789abcdef", "changed": True},
}


def shelves(folder: Path = Path("/gone"), **changes) -> Run:
    """Three queries: q1 finds all at once, q2 its second hit, q3 nothing."""
    benchmark = retrieval({"q1": {"a", "b"}, "q2": {"c"}, "q3": {"x"}}, folder)
    rankings = {
        "q1": ranking("a", "b", "c"),
        "q2": ranking("a", "c", "b", top=0.75),
        "q3": ranking("a", "b", "c"),
    }
    return run(benchmark, Predictions({"all": rankings}), **changes)


def oxford() -> Run:
    benchmark = revisited({"o1": ({"e"}, {"h"}, {"j"}), "o2": ({"e2"}, set(), set())})
    rankings = {"o1": ranking("j", "h", "e", "n"), "o2": ranking("n", "e2")}
    return run(benchmark, Predictions(dict.fromkeys(("easy", "medium", "hard"), rankings)))


def landmarks(**changes) -> Run:
    benchmark = recognition({"r1": {"Louvre"}, "r2": {"Eiffel"}, "r3": set(), "r4": {"Dome"}})
    answers = {"r1": ("Louvre", 0.875), "r2": ("Dome", 0.5), "r3": ("Eiffel", 0.625), "r4": None}
    hits = {"r1": ranking("a", "b")}
    return run(benchmark, Predictions({"all": hits}, answers), "labels", **changes)


def page(*runs: Run, matches=()) -> Element:
    text = render_report(runs, matches)
    reject_outside(text)
    return parse(text)


@cache
def page_of(make_run: Callable[[], Run]) -> Element:
    """The page of a run that several tests look at."""
    return page(make_run())


def examples(root: Element, title: str) -> list[Element]:
    return root.section(title).all("article")


def names(examples: list[Element]) -> list[str]:
    return [example.all("p", "name")[0].words for example in examples]


def marks(example: Element) -> list[tuple[str, str, str]]:
    """Rank, id and verdict of each hit; the word, the tick's class and the hit's must agree."""
    hits = []
    for hit in example.all("li", "hit"):
        words = [v.words for v in hit.all("span", "verdict")]
        word = words[0].lower() if words else ""
        assert not word or word in hit.attrs["class"].split()
        assert not word or hit.all("span", "verdict")[0].all("svg")
        hits.append((hit.all("span", "rank")[0].words, hit.all("bdi", "id")[0].words, word))
    return hits


def cells(table: Element) -> list[list[str]]:
    return [
        [cell.words for cell in row.children if cell.tag in ("td", "th")]
        for body in table.all("tbody")
        for row in body.all("tr")
    ]


@pytest.mark.parametrize("make_run", [shelves, oxford, landmarks])
def test_every_metric_and_interval_of_the_scores_is_in_the_table(make_run):
    shown = make_run()
    table = page_of(make_run).all("table", "metrics")[0]
    columns = [cell.words for cell in table.all("thead")[0].all("th")][1:]
    part, listed = "all", []
    for row in cells(table):
        if len(row) == 1:
            part = row[0]
            continue
        for name, cell in zip(columns, row[1:], strict=True):
            value = shown.scores.metrics[part][name]
            low, high = shown.scores.intervals[part][name]
            assert cell == f"{value:.3f} {low:.3f} – {high:.3f}"
            listed.append((part, name))
    assert sorted(listed) == sorted((p, n) for p, m in shown.scores.metrics.items() for n in m)


def test_the_main_metric_stands_first():
    for make_run, name in ((shelves, "mAP@100"), (oxford, "mAP"), (landmarks, "GAP")):
        assert page_of(make_run).all("table", "metrics")[0].all("th")[1].words == name


def test_baselines_are_rows_of_the_table_and_lines_of_the_curves():
    base = shelves(title="global only", metadata={"engine": {"rerank": 0}})
    root = page(shelves(metadata={"engine": {"rerank": 77}}), base)
    assert [row[0] for row in cells(root.all("table", "metrics")[0])] == [
        "delg-lite",
        "global only",
    ]
    key = root.all("ul", "key")[0]
    assert [item.words for item in key.all("li")] == ["delg-lite", "global only"]
    for chart in root.all("svg", "chart"):
        used = {c for path in chart.all("path") for c in (1, 2, 3)
                if f"--line-{c})" in path.attrs.get("style", "")}  # fmt: skip
        assert used == {1, 2}
    assert ["engine.rerank", "77", "0"] in cells(root.section("Metrics").all("table")[1])


def test_hits_are_marked_as_the_truth_says():
    (best,) = examples(page_of(shelves), "The best")
    assert names([best]) == ["q1"]
    assert marks(best) == [("1", "a", "right"), ("2", "b", "right"), ("3", "c", "wrong")]


def test_ignored_hits_are_marked_and_take_no_rank():
    root = page_of(oxford)
    assert "hard" in root.section("The worst").all("h2")[0].words
    (only,) = examples(root, "The worst")
    expected = [("–", "j", "ignored"), ("1", "h", "right"), ("–", "e", "ignored")]
    assert marks(only) == [*expected, ("2", "n", "wrong")]
    assert "1 of 1 relevant photo retrieved, the first at rank 1" in only.words


def test_the_hardest_part_that_has_queries_is_shown():
    benchmark = revisited({"o1": ({"e"}, set(), {"j"})})
    shown = run(benchmark, Predictions({"easy": {"o1": ranking("e")}, "medium": {}}))
    root = page(shown)
    assert "medium" in root.section("The worst").all("h2")[0].words
    assert [h.words for h in root.section("Curves").all("h3")] == ["easy", "medium"]


def test_worst_queries_come_worst_first_and_best_ones_best_first():
    relevant = {f"q{number:02}": {"x"} for number in range(30)}
    others = [f"n{number}" for number in range(30)]
    # Query 0 finds its photo at rank 1, query 29 at rank 30.
    rankings = {query: ranking(*others[:number], "x") for number, query in enumerate(relevant)}
    root = page(run(retrieval(relevant), Predictions({"all": rankings})))
    assert names(examples(root, "The worst")) == [f"q{number}" for number in range(29, 19, -1)]
    assert names(examples(root, "The best")) == [f"q{number:02}" for number in range(10)]
    assert [row[0] for row in cells(root.all("table", "queries")[0])] == sorted(
        relevant, reverse=True
    )


def test_no_query_is_among_the_worst_and_the_best():
    root = page_of(shelves)
    assert names(examples(root, "The worst")) == ["q3", "q2"]
    assert names(examples(root, "The best")) == ["q1"]


def test_values_scores_and_inliers_are_those_of_the_run():
    shown = shelves()
    root = page(shown)
    assert {row[0]: row[1] for row in cells(root.all("table", "queries")[0])} == {
        query: f"{values['AP@100']:.3f}" for query, values in shown.scores.queries["all"].items()
    }
    example = examples(root, "The worst")[1]
    assert "AP@100 0.500" in example.words
    texts = [hit.all("p", "numbers")[0].words for hit in example.all("li", "hit")]
    assert texts == [
        "score 0.750, 90.0% 40 inliers, verified",
        "score 0.650, 90.0% 39 inliers, verified",
        "score 0.550, 20.0% 38 inliers",
    ]


def test_verified_hits_are_judged_in_a_table_and_a_curve():
    root = page(shelves(), shelves(title="again")).section("Verified hits")
    # Two hits per query are verified: a and b of q1, a and c of q2, a and b of q3.
    (row, again) = cells(root.all("table")[0])
    assert row[:4] == ["delg-lite", "50.0% (3 of 6)", "66.7% (2 of 3)", "100.0% (3 of 3)"]
    # Of six at 90 % three are right, of three at 20 % none: (6 · .4 + 3 · .2) / 9.
    assert row[4:] == ["–", "0.333 (9 hits)"] and again[1:] == row[1:]
    (chart,) = root.all("svg", "chart")
    assert chart.attrs["aria-label"] == "Reliability, all"
    parts = page_of(oxford).section("Verified hits").all("tr", "group")
    assert [part.words for part in parts] == ["easy", "medium", "hard"]
    for without in (landmarks(), replace(shelves(), scores=replace(shelves().scores, proof={}))):
        assert not page(without).has_section("Verified hits")


def test_where_only_the_order_is_known_no_scores_are_shown():
    benchmark = retrieval({"q1": {"a"}})
    root = page(run(benchmark, Predictions({"all": {"q1": plain_ranking(("b", "a"))}})))
    (example,) = examples(root, "The worst")
    assert marks(example) == [("1", "b", "wrong"), ("2", "a", "right")]
    assert not example.all("p", "numbers")


def test_photos_are_shown_and_the_box_is_drawn_where_it_lies(tmp_path):
    files = photos(tmp_path, "q1", "a", "b", "c")
    shown = shelves(paths={name: str(path) for name, path in files.items()})
    query = QueryPhoto("q1", files["q1"], box=(20.0, 15.0, 40.0, 30.0))
    benchmark = replace(shown.benchmark, queries=(query, *shown.benchmark.queries[1:]))
    (example,) = examples(page(replace(shown, benchmark=benchmark)), "The best")
    assert len(example.all("image")) == 1 and len(example.all("img")) == 3
    (box, *_) = example.all("rect", "frame-light")
    assert [box.attrs[k] for k in ("x", "y", "width", "height")] == ["20.0", "15.0", "40.0", "30.0"]


def test_a_photo_that_cannot_be_read_leaves_its_id_and_the_reason(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    shown = shelves(tmp_path, paths={"a": "/gone/a.jpg", "b": str(broken)})
    (example,) = examples(page(shown), "The best")
    reasons = [p.words for p in example.all("p", "missing")]
    assert len(reasons) == 4 and all(reason.startswith("No picture: ") for reason in reasons)
    assert "no such file" in reasons[0] and "no such file" in reasons[1]
    assert "not an image" in reasons[2] and "does not record" in reasons[3]
    assert "q1" in example.words and [name for _, name, _ in marks(example)] == ["a", "b", "c"]


def test_queries_with_nothing_to_find_are_shown_by_their_surest_hit():
    benchmark = retrieval({"q1": {"a"}, "n1": set(), "n2": set(), "n3": set()})
    rankings = {
        "q1": ranking("a"),
        "n1": ranking("b", top=0.5),
        "n2": ranking("c", top=0.8),
        "n3": ranking(),
    }
    root = page(run(benchmark, Predictions({"all": rankings})))
    shown_queries = examples(root, "Queries without a match")
    assert names(shown_queries) == ["n2", "n1"]
    assert marks(shown_queries[0]) == [("1", "c", "wrong")]
    assert "No photo is relevant" in shown_queries[0].words


@pytest.mark.parametrize(
    "benchmark",
    [
        retrieval({}),
        retrieval({"q1": set()}),
        recognition({"r1": set()}),
        recognition({}),
        revisited({"o1": (set(), set(), {"j"})}),
    ],
)
def test_a_run_in_which_no_query_counts_still_has_a_report(benchmark):
    root = page(run(benchmark, Predictions({})))
    assert "there are no metrics" in root.section("Metrics").words
    assert not root.has_section("Curves") and not root.has_section("The worst")


def test_recognition_shows_answer_and_right_labels_the_surest_mistake_first():
    root = page_of(landmarks)
    worst, best = examples(root, "The worst predictions"), examples(root, "The best predictions")
    assert names(worst) == ["r3", "r2"] and names(best) == ["r1"]
    assert "Predicted: Eiffel, score 0.625 Wrong Shows no known instance" in worst[0].words
    assert "Predicted: Dome, score 0.500 Wrong Right: Eiffel" in worst[1].words
    assert "Predicted: Louvre, score 0.875 Right Right: Louvre" in best[0].words
    assert cells(root.all("table", "queries")[0]) == [
        ["r1", "Louvre", "Louvre", "0.875", "Right"],
        ["r3", "none", "Eiffel", "0.625", "Wrong"],
        ["r2", "Eiffel", "Dome", "0.500", "Wrong"],
        ["r4", "Dome", "none", "–", ""],
    ]


def test_hits_of_recognition_are_marked_where_the_gallery_has_labels():
    shown = landmarks()
    benchmark = Benchmark(
        name="landmarks",
        protocol="recognition",
        queries=shown.benchmark.queries,
        truth=shown.benchmark.truth,
        gallery=(),
        labels={"a": "Louvre", "b": "Dome"},
    )
    (best,) = examples(page(replace(shown, benchmark=benchmark)), "The best")
    assert [word for _, _, word in marks(best)] == ["right", "wrong"]
    (unknown,) = examples(page(shown), "The best")
    assert [word for _, _, word in marks(unknown)] == ["", ""]


def test_thresholds_for_recognition_are_worked_out_by_hand():
    root = page_of(landmarks)
    rows = {row[0]: row[1:] for row in cells(root.all("table", "operating")[0])}
    # Predictions by score: right, wrong, wrong; of four queries.
    assert rows["50 %"] == ["0.625", "50.0%"]
    assert rows["80 %"] == rows["99 %"] == ["0.875", "25.0%"]


def test_answers_of_one_score_are_given_together_or_not_at_all():
    benchmark = recognition({"r1": {"x"}, "r2": {"y"}})
    answers = {"r1": ("x", 0.5), "r2": ("no", 0.5)}
    root = page(run(benchmark, Predictions({}, answers)))
    rows = {row[0]: row[1:] for row in cells(root.all("table", "operating")[0])}
    assert rows["50 %"] == ["0.500", "100.0%"]
    assert rows["80 %"] == ["–", "–"]


def test_each_difficulty_has_its_curves():
    root = page_of(oxford)
    titles = [h.words for h in root.section("Curves").all("h4")]
    assert titles == ["AP by query", "Precision and recall", "Recall@k"] * 3


def test_conditions_are_all_there():
    root = page(shelves(metadata=FACTS))
    words = root.section("Conditions").words
    for text in (
        "delg-lite",
        "fedcba98",
        "77",
        "120.5 ms",
        "12.25 s",
        "Linux, 2 cores",
        "numpy 2.1.0",
        "git 0123456789ab, changed since",
        "delg eval folders x",
        "2026-11-24T15:00:00+00:00",
        "engine.settings.ranking.min_inliers",
    ):
        assert text in words
    failed = root.section("Metrics").all("table")[1]
    assert cells(failed) == [["q9", "no such file"]]


def test_matches_are_placed_with_their_query_hit_and_verdict():
    drawing = np.full((30, 80, 3), 200, np.uint8)
    matches = [
        MatchPicture("q1", "a", 31, True, drawing),
        MatchPicture("q2", "b", 1, False, encode_image(drawing, "JPEG", 90)),
        MatchPicture("q3", "c", 0, None, b"damaged"),
    ]
    figures = page(shelves(), matches=matches).section("Matches").all("figure")
    assert [len(figure.all("img")) for figure in figures] == [1, 1, 0]
    captions = [figure.all("figcaption")[0].words for figure in figures]
    assert captions == ["Right q1 → a 31 inliers", "Wrong q2 → b 1 inlier", "q3 → c 0 inliers"]


def test_of_very_many_queries_the_table_holds_the_ends_and_says_so(monkeypatch):
    monkeypatch.setattr(query_table, "MAX_ROWS", 4)
    benchmark = retrieval({f"q{number:04}": {"x"} for number in range(1000)})
    values = {q: {"AP@100": n / 1000} for n, q in enumerate(benchmark.truth)}
    scores = Scores({"all": {"mAP@100": 0.5}}, {"all": {"mAP@100": (0.4, 0.6)}}, {"all": values})
    section = page(Run("many", benchmark, Predictions({"all": {}}), scores)).section("AP@100 by")
    rows = [row[0] for row in cells(section.all("table")[0])]
    assert rows == ["q0000", "q0001", "q0998", "q0999"]
    assert "4 of 1,000 queries" in section.words


def test_texts_from_outside_stay_texts(tmp_path):
    benchmark = retrieval({HOSTILE: {HOSTILE}, "q": {HOSTILE}})
    predictions = Predictions({"all": dict.fromkeys(benchmark.truth, ranking(HOSTILE, "b"))})
    facts = {**FACTS, "command": HOSTILE, HOSTILE: {HOSTILE: HOSTILE},
             "failed_queries": {HOSTILE: HOSTILE}}  # fmt: skip
    shown = run(replace(benchmark, name=HOSTILE), predictions, HOSTILE, metadata=facts,
              paths={HOSTILE: f"/gone/{HOSTILE}"})  # fmt: skip
    match = MatchPicture(HOSTILE, HOSTILE, 3, True, b"")
    root = page(shown, shown, matches=[match])
    assert HOSTILE in root.words and not root.all("script") and not root.all("b", "x")


def test_hostile_labels_stay_texts():
    benchmark = recognition({"r1": {HOSTILE}})
    page(run(benchmark, Predictions({}, {"r1": (HOSTILE, 1.0)})))


def test_runs_of_one_title_are_told_apart():
    table = page(shelves(), shelves()).all("table", "metrics")[0]
    assert [row[0] for row in cells(table)] == ["delg-lite (1)", "delg-lite (2)"]


def test_a_run_read_from_disk_has_the_same_report(tmp_path):
    shown = shelves(metadata=FACTS)
    save_run(tmp_path, shown)
    assert render_report([load_run(tmp_path)]) == render_report([shown])


def test_the_file_is_written_and_a_folder_that_is_missing_is_named(tmp_path):
    write_report(tmp_path / "report.html", [shelves()])
    assert "delg-lite on shelves" in parse((tmp_path / "report.html").read_text("utf-8")).words
    with pytest.raises(DelgError, match="nowhere"):
        write_report(tmp_path / "nowhere" / "report.html", [shelves()])


def test_drawing_charts_leaves_matplotlib_as_it_was():
    import matplotlib

    before = dict(matplotlib.rcParams)
    page(shelves())
    assert dict(matplotlib.rcParams) == before


def test_a_photo_shown_often_is_decoded_once(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 20)).save(path)
    read = []
    from eval.reports import query_examples as module

    decode = module.decode
    monkeypatch.setattr(module, "decode", lambda p: (read.append(str(p)), decode(p))[1])
    page(shelves(paths={"a": str(path)}))
    assert read.count(str(path)) == 1
