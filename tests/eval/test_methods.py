import dataclasses
import json

import pytest
from dots import dots

from delg.errors import UsageError
from eval.methods.catalogue import METHODS
from eval.methods.measure import MethodsConfig, measure
from eval.methods.plan import read_plan
from eval.methods.table import headline, markdown, tables, wrongly_verified
from eval.run import load_run
from index.settings import read_overrides

PLAN = """\
benchmarks:
  covers: {reader: queries, gallery: gallery, queries: queries, truth: truth.csv}
methods:
  default: {}
  global only: {ranking: {rerank: 0}}
"""


@pytest.fixture
def place(tmp_path):
    """Six covers; queries with the first four, one of them hardly visible; and other photos."""
    for number in range(6):
        dots(number).save(tmp_path / "gallery" / f"{number}.png")
        dots(number + 50).save(tmp_path / "others" / f"{number}.png")
    lines = ["query,relevant"]
    for number in range(4):
        moved = dots(number).moved([[0.9, 0, 8], [0, 0.9, 6], [0, 0, 1]], (160, 120))
        moved.save(tmp_path / "queries" / f"q{number}.png")
        lines.append(f"q{number}.png,{number}.png")
    (tmp_path / "truth.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


class Display:
    """Counts what is shown."""

    def __init__(self):
        self.titles = []

    def __call__(self, title):
        self.titles.append(title)
        return self

    def __enter__(self):
        return lambda *_: None

    def __exit__(self, *_):
        pass


def test_every_method_is_measured_alone_and_among_distractors(place, model):
    plan = read_plan(place / "plan.yaml")
    config = MethodsConfig(place / "out", model, distractors=place / "others")
    measured = list(measure(plan, config, Display()))
    assert [(m.benchmark, m.condition, m.method) for m in measured] == [
        ("covers", "alone", "default"),
        ("covers", "alone", "global only"),
        ("covers", "distractors", "default"),
        ("covers", "distractors", "global only"),
    ]
    engines = [m.run.metadata["engine"] for m in measured]
    assert [engine["rerank"] for engine in engines] == [100, 0, 100, 0]
    assert [engine["distractors"] for engine in engines] == [0, 0, 6, 6]
    for measurement in measured:
        assert headline(measurement.run) == {"mAP@100": 1.0, "recall@1": 1.0}
        assert wrongly_verified(measurement.run) == 0
        # A run like any other, that can be compared with others.
        assert load_run(measurement.folder).scores == measurement.run.scores
    assert not list((place / "out").rglob("answers.part"))
    alone, among = tables(measured)
    assert alone.columns == (
        "method", "covers, mAP@100", "covers, recall@1", "covers, wrongly verified", "covers, ms",
        "bytes per photo",
    )  # fmt: skip
    assert [row[:4] for row in among.rows] == [
        ("default", "1.000", "1.000", "0.000"),
        ("global only", "1.000", "1.000", "0.000"),
    ]
    assert markdown(alone).splitlines()[1] == "| --- | --- | --- | --- | --- | --- |"
    # What is not measured yet is blank.
    begun = [*measured[:2], dataclasses.replace(measured[0], benchmark="others")]
    [part] = tables(begun)
    assert part.rows[0][5:7] == ("1.000", "1.000") and part.rows[1][5:9] == ("",) * 4


def test_complete_runs_are_kept_and_others_measured(place, model):
    plan = read_plan(place / "plan.yaml")
    config = MethodsConfig(place / "out", model)
    list(measure(plan, config, Display()))
    first, second = Display(), Display()
    list(measure(plan, config, first))
    assert first.titles == ["covers: gallery"]
    (place / "out" / "runs" / "covers" / "alone" / "default" / "metrics.json").unlink()
    list(measure(plan, config, second))
    assert second.titles == ["covers: gallery", "covers, alone, default: queries"]
    changed = MethodsConfig(place / "out", model, {"verification": {"seed": 1}})
    third = Display()
    list(measure(plan, changed, third))
    assert len(third.titles) == 3


def test_a_photo_that_is_verified_though_it_is_not_relevant_is_counted(place, model):
    lines = (place / "truth.csv").read_text().replace("q0.png,0.png", "q0.png,5.png")
    (place / "truth.csv").write_text(lines)
    plan = read_plan(place / "plan.yaml").select((), ["default"])
    [measurement] = measure(plan, MethodsConfig(place / "out", model), Display())
    assert wrongly_verified(measurement.run) == 0.25


def test_methods_that_a_plan_does_not_name_are_those_of_the_catalogue(place):
    (place / "plan.yaml").write_text(PLAN[: PLAN.index("methods:")])
    plan = read_plan(place / "plan.yaml")
    assert list(plan.methods) == list(METHODS)
    for name, overrides in METHODS.items():
        assert plan.methods[name] == read_overrides(dict(overrides), name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("methods: {}", "must name benchmarks"),
        ("benchmarks: {a: {reader: queries}}", "benchmarks.a: gallery is missing"),
        ("benchmarks: {a: {reader: nothing}}", "no dataset called 'nothing'"),
        ("benchmarks: {a: {reader: folders, root: x, many: 1}}", "unknown key 'many'"),
        ("benchmarks: {a/b: {reader: folders, root: x}}", "cannot be the name of a folder"),
        ("benchmarks: [a]", "must be names"),
        ("benchmarks: {a: b}", "benchmarks.a must be keys with values"),
        (PLAN + "extra: 1", "unknown key 'extra'"),
        (PLAN.replace("rerank: 0", "rerunk: 0"), "rerunk"),
        (PLAN + "  full: {store: {local_codec: float32}}", "fixed when an index is created"),
    ],
)
def test_mistakes_in_a_plan_are_named(place, text, message):
    (place / "plan.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_plan(place / "plan.yaml")


def test_only_known_names_can_be_selected(place):
    plan = read_plan(place / "plan.yaml")
    assert list(plan.select((), ["default"]).methods) == ["default"]
    with pytest.raises(UsageError, match="no method called 'best'; there are default, global only"):
        plan.select((), ["best"])


def test_the_command_writes_tables_and_prints_them(place, model, run):
    words = ("eval", "methods", place / "plan.yaml", "--out", place / "out", "--model", model)
    done = run(*words, "--distractors", place / "others")
    assert done.returncode == 0, done.stderr
    assert "Each gallery alone" in done.stdout and "Among distractors" in done.stdout
    values = json.loads((place / "out" / "methods.json").read_text())
    assert len(values["measurements"]) == 4
    assert values["measurements"][2]["photos"] == 12
    assert values["measurements"][0]["metrics"]["all"]["mAP@100"] == 1.0
    assert "| default | 1.000 |" in (place / "out" / "methods.md").read_text()
    page = (place / "out" / "methods.html").read_text()
    assert "What each method contributes" in page and "global only" in page
    only = run(*words, "--condition", "distractors", "--json", "--distractors", place / "others")
    assert [json.loads(line)["condition"] for line in only.stdout.splitlines()] == 2 * [
        "distractors"
    ]
    missing = run(*words, "--condition", "distractors")
    assert missing.returncode == 2 and "needs --distractors" in missing.stderr
    again = run(*words, "--method", "default", "--json")
    [line] = again.stdout.splitlines()
    assert json.loads(line)["method"] == "default"
    assert run(*words, "--benchmark", "x").returncode == 2
