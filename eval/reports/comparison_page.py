"""A comparison of runs as one self-contained HTML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from delg.files import write_bytes
from eval.reports.charts import Chart, change_chart
from eval.reports.compare import Change, Comparison, Difference, sentence
from eval.reports.proof_table import proof_table
from eval.reports.query_examples import Album, Example, example
from eval.reports.report import main_part, metric_names, metric_parts, reliability_charts
from eval.run import Run
from eval.scoring import main_metric
from index.visualize.html import load_template

# Queries shown with pictures, of those that gained and of those that lost.
EACH = 5
HITS = 5
# Queries listed per run.
MAX_ROWS = 200


@dataclass(frozen=True)
class _Pair:
    """A query whose value changed, with its hits in both runs."""

    change: Change
    before: Example
    after: Example


@dataclass(frozen=True)
class _Section:
    """A difference on the page; only the part with pictures has pairs."""

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
        proof=proof_table(runs),
        reliability=reliability_charts(runs),
        sections=[_section(comparison, d, album) for d in comparison.differences],
        max_rows=MAX_ROWS,
    )


def _section(comparison: Comparison, difference: Difference, album: Album) -> _Section:
    first, other = comparison.runs[0], comparison.runs[difference.run]
    part, metric = difference.part, difference.metric
    pairs = []
    if part == main_part(first):
        for title, changes in (
            ("The largest gains", difference.better),
            ("The largest losses", difference.worse),
        ):
            examples = [_pair(first, other, part, change, album) for change in changes[:EACH]]
            pairs.append((title, [pair for pair in examples if pair is not None]))
    # A change of accuracy is all or nothing: counts say it better than a chart.
    chart = None
    if first.benchmark.protocol != "recognition" and (difference.better or difference.worse):
        label = f"Change of {metric}, {part}, run {difference.run + 1}"
        steps = [change.change for change in (*difference.better, *difference.worse)]
        chart = change_chart([*steps, *[0.0] * difference.total.equal], metric, label)
    title = comparison.titles[difference.run]
    return _Section(difference, title, sentence(difference), chart, pairs)


def _pair(first: Run, other: Run, part: str, change: Change, album: Album) -> _Pair | None:
    examples = []
    for run, value in ((first, change.before), (other, change.after)):
        query = next((q for q in run.benchmark.queries if q.id == change.query), None)
        if query is None:
            return None
        examples.append(example(run, part, query, value, album, HITS))
    return _Pair(change, *examples)
