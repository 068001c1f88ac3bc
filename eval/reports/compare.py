"""Runs of one benchmark side by side: what differs, which is better, on which queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delg.cli.console import put, table
from delg.errors import UsageError
from delg.files import write_bytes
from eval.bootstrap import PairedDifference, paired_difference
from eval.reports.charts import Chart, change_chart
from eval.reports.query_examples import Album, Example, scored_parts, example
from eval.reports.report import metric_names, metric_parts
from eval.reports.run_metadata import ABSENT, Setting, differing_settings, distinct_titles
from eval.run import Run
from eval.scoring import main_metric, query_metric
from index.visualize.html import load_template

# Queries named on the terminal, and shown with pictures, of those that gained and those that lost.
NAMED = 5
EACH = 5
HITS = 5
# Queries listed by a page.
MAX_ROWS = 200
# Changes below this are rounding, as in :mod:`eval.bootstrap`.
_EQUAL = 1e-12


@dataclass(frozen=True)
class Number:
    """A metric of one run and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Metric:
    """A metric in one part: its number in each run, None where a run lacks it."""

    part: str
    name: str
    numbers: tuple[Number | None, ...]


@dataclass(frozen=True)
class Change:
    """A query's value in the first run and in the other."""

    query: str
    before: float
    after: float

    @property
    def change(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class Difference:
    """What changed from the first run to another, in one part.

    Attributes:
        run: place of the other run.
        part, metric: of the values by query.
        total: the paired comparison over all common queries.
        better, worse: the queries whose value rose and fell, the largest change first.
    """

    run: int
    part: str
    metric: str
    total: PairedDifference
    better: tuple[Change, ...]
    worse: tuple[Change, ...]


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; the first is what the others are compared with.

    Attributes:
        titles: of the runs, no two alike.
        settings: the recorded facts that differ, but for times.
        notes: what a reader must know before believing the numbers.
    """

    runs: tuple[Run, ...]
    titles: tuple[str, ...]
    settings: tuple[Setting, ...]
    metrics: tuple[Metric, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()


def compare(runs: Sequence[Run]) -> Comparison:
    """Compare runs with the first one.

    Raises:
        UsageError: fewer than two runs, or a run is of another benchmark or protocol than the
            first or shares no scored query with it.
    """
    if len(runs) < 2:
        raise UsageError("a comparison needs two runs or more")
    titles = distinct_titles(runs)
    differences: list[Difference] = []
    notes: list[str] = []
    for place in range(1, len(runs)):
        _reject_other_question(runs[0], runs[place], titles[0], titles[place])
        found = _differences(runs[0], runs[place], place)
        if not found:
            raise UsageError(f"{titles[0]!r} and {titles[place]!r} have no scored query in common")
        differences += found
        notes += _notes(runs[0], runs[place], titles[place])
    return Comparison(
        tuple(runs), titles, differing_settings(runs), _metrics(runs), tuple(differences), tuple(notes)
    )


def _reject_other_question(first: Run, other: Run, first_title: str, title: str) -> None:
    for what, one, two in (
        ("benchmark", first.benchmark.name, other.benchmark.name),
        ("protocol", first.benchmark.protocol, other.benchmark.protocol),
        ("metric", main_metric(first.benchmark), main_metric(other.benchmark)),
    ):
        if one != two:
            raise UsageError(
                f"the {what} of {first_title!r} is {one}, that of {title!r} is {two}: "
                "their numbers do not compare"
            )


def _differences(first: Run, other: Run, place: int) -> list[Difference]:
    metric = query_metric(first.benchmark)
    found = []
    for part, values in first.scores.queries.items():
        before = {query: one[metric] for query, one in values.items()}
        after = {q: one[metric] for q, one in other.scores.queries.get(part, {}).items()}
        common = [query for query in before if query in after]
        if not common:
            continue
        changes = [Change(query, before[query], after[query]) for query in common]
        better = [one for one in changes if one.change > _EQUAL]
        worse = [one for one in changes if one.change < -_EQUAL]
        found.append(
            Difference(
                place,
                part,
                metric,
                paired_difference(before, after),
                tuple(sorted(better, key=lambda one: (-one.change, one.query))),
                tuple(sorted(worse, key=lambda one: (one.change, one.query))),
            )
        )
    return found


def _notes(first: Run, other: Run, title: str) -> list[str]:
    one, two = first.benchmark.truth, other.benchmark.truth
    notes = []
    alone = len(one.keys() ^ two.keys())
    if alone:
        notes.append(
            f"{title}: {alone:,} {'query is' if alone == 1 else 'queries are'} of one run only; "
            "differences are over the common ones, each run's metrics over its own."
        )
    changed = sum(one[query] != two[query] for query in one.keys() & two.keys())
    if changed:
        notes.append(
            f"{title}: the right answers to {changed:,} common queries are not the same as in the "
            "first run, so the numbers compare only in part."
        )
    return notes


def _metrics(runs: Sequence[Run]) -> tuple[Metric, ...]:
    found = []
    for part in metric_parts(runs):
        for name in metric_names(runs):
            numbers = tuple(_number(run, part, name) for run in runs)
            if any(number is not None for number in numbers):
                found.append(Metric(part, name, numbers))
    return tuple(found)


def _number(run: Run, part: str, name: str) -> Number | None:
    value = run.scores.metrics.get(part, {}).get(name)
    return None if value is None else Number(value, *run.scores.intervals[part][name])


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values."""
    return {
        "runs": list(comparison.titles),
        "benchmark": comparison.runs[0].benchmark.name,
        "protocol": comparison.runs[0].benchmark.protocol,
        "notes": list(comparison.notes),
        "settings": {one.name: list(one.values) for one in comparison.settings},
        "metrics": [
            {
                "part": one.part,
                "metric": one.name,
                "values": [None if n is None else n.value for n in one.numbers],
                "intervals": [None if n is None else [n.low, n.high] for n in one.numbers],
            }
            for one in comparison.metrics
        ],
        "differences": [
            {
                "run": comparison.titles[one.run],
                "against": comparison.titles[0],
                "part": one.part,
                "metric": one.metric,
                "mean": one.total.mean,
                "interval": [one.total.low, one.total.high],
                "p_value": one.total.p_value,
                "better": [_change_json(change) for change in one.better],
                "worse": [_change_json(change) for change in one.worse],
                "equal": one.total.equal,
            }
            for one in comparison.differences
        ],
    }


def _change_json(change: Change) -> dict[str, Any]:
    return {
        "query": change.query,
        "before": change.before,
        "after": change.after,
        "change": change.change,
    }


def print_comparison(comparison: Comparison) -> None:
    """The comparison as tables on stdout."""
    put(comparison.runs[0].benchmark.name)
    for note in comparison.notes:
        put(f"note: {note}")
    if comparison.settings:
        put("\nwhat differs")
        table(["", *comparison.titles], [[one.name, *one.values] for one in comparison.settings])
    put("\nmetrics, in brackets their 95 % intervals over queries (bootstrap)")
    table(
        ["", "", *comparison.titles],
        [[one.part, one.name, *map(_cell, one.numbers)] for one in comparison.metrics],
    )
    for one in comparison.differences:
        put(f"\n{comparison.titles[one.run]} against {comparison.titles[0]}, {one.part}")
        put(sentence(one))
        shown = [*one.better[:NAMED], *reversed(one.worse[:NAMED])]
        if shown:
            table(
                ["query", "before", "after", "change"],
                [[c.query, f"{c.before:.3f}", f"{c.after:.3f}", f"{c.change:+.3f}"] for c in shown],
            )


def sentence(one: Difference) -> str:
    """A difference in words."""
    total = one.total
    chance = "p < 0.001" if total.p_value < 0.001 else f"p = {total.p_value:.3f}"
    return (
        f"mean change of {one.metric} {total.mean:+.3f} [{total.low:+.3f}, {total.high:+.3f}], "
        f"{chance}: {total.better:,} better, {total.worse:,} worse, {total.equal:,} equal"
    )


def _cell(number: Number | None) -> str:
    if number is None:
        return ABSENT
    return f"{number.value:.3f} [{number.low:.2f}–{number.high:.2f}]"


@dataclass(frozen=True)
class _Pair:
    """A query whose value changed, with its hits in both runs."""

    change: Change
    before: Example
    after: Example


@dataclass(frozen=True)
class _Section:
    """A difference as the page shows it; pairs are empty but for the part with pictures."""

    difference: Difference
    title: str
    sentence: str
    chart: Chart | None
    pairs: list[tuple[str, list[_Pair]]]


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Write the comparison as one self-contained HTML file, with pictures of the largest changes.

    Raises:
        DelgError: the file cannot be written.
    """
    write_bytes(path, render_comparison(comparison).encode("utf-8", "replace"))


def render_comparison(comparison: Comparison) -> str:
    """The HTML of :func:`write_comparison`."""
    runs = comparison.runs
    album = Album()
    return load_template("eval.reports", "compare.html").render(
        comparison=comparison,
        runs=runs,
        titles=comparison.titles,
        main=main_metric(runs[0].benchmark),
        metrics=metric_names(runs),
        parts=metric_parts(runs),
        sections=[_section(comparison, one, album) for one in comparison.differences],
        max_rows=MAX_ROWS,
    )


def _section(comparison: Comparison, one: Difference, album: Album) -> _Section:
    first, other = comparison.runs[0], comparison.runs[one.run]
    pictured = one.part == next(reversed(scored_parts(first)), None)
    lists = (("The largest gains", one.better), ("The largest losses", one.worse))
    pairs = []
    for title, changes in lists if pictured else ():
        shown = [_pair(first, other, one.part, change, album) for change in changes[:EACH]]
        pairs.append((title, [pair for pair in shown if pair is not None]))
    # A change of accuracy is all or nothing: counting says it better than a chart.
    chart = None
    if first.benchmark.protocol != "recognition" and (one.better or one.worse):
        label = f"Change of {one.metric}, {one.part}, run {one.run + 1}"
        moved = [change.change for change in (*one.better, *one.worse)]
        chart = change_chart([*moved, *[0.0] * one.total.equal], one.metric, label)
    return _Section(one, comparison.titles[one.run], sentence(one), chart, pairs)


def _pair(first: Run, other: Run, part: str, change: Change, album: Album) -> _Pair | None:
    examples = []
    for run, value in ((first, change.before), (other, change.after)):
        query = next((one for one in run.benchmark.queries if one.id == change.query), None)
        if query is None:
            return None
        examples.append(example(run, part, query, value, album, HITS))
    return _Pair(change, *examples)
