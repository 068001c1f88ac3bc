"""Measurements as tables: one per condition, a method per row."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval.benchmark import RecognitionTruth, RetrievalTruth
from eval.methods.measure import Measurement
from eval.metrics import revisited_split
from eval.run import Run
from eval.scoring import main_metric

# Of a benchmark's parts and metrics, those that tables show.
_REVISITED_PARTS = ("medium", "hard")


@dataclass(frozen=True)
class Table:
    """The methods under one condition.

    Attributes:
        condition: "alone" or "distractors".
        columns: names of the columns, the first for the method.
        rows: cells as text.
    """

    condition: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def headline(run: Run) -> dict[str, float]:
    """The few numbers of a run that tables show, by name."""
    benchmark, metrics = run.benchmark, run.scores.metrics
    main = main_metric(benchmark)
    if benchmark.protocol == "revisited":
        return {
            f"{main} {part}": metrics[part][main] for part in _REVISITED_PARTS if part in metrics
        }
    names = [main, "recall@1"] if benchmark.protocol == "retrieval" else [main]
    return {
        name if part == "all" else f"{name} {part}": values[name]
        for part, values in metrics.items()
        for name in names
        if name in values
    }


def wrongly_verified(run: Run) -> float | None:
    """Share of the queries whose first hit is verified but not relevant; None without queries."""
    wrong = []
    name, *_ = run.predictions.rankings
    for query, ranking in run.predictions.rankings[name].items():
        truth = run.benchmark.truth[query]
        if isinstance(truth, RecognitionTruth):
            return None
        if isinstance(truth, RetrievalTruth):
            relevant = truth.relevant
        else:
            relevant = revisited_split(truth, name)[0]
        wrong.append(
            len(ranking.ids) > 0 and bool(ranking.verified[0]) and ranking.ids[0] not in relevant
        )
    return statistics.fmean(wrong) if wrong else None


def as_json(measurement: Measurement) -> dict[str, Any]:
    """A measurement as plain values."""
    run = measurement.run
    engine = run.metadata["engine"]
    return {
        "benchmark": measurement.benchmark,
        "condition": measurement.condition,
        "method": measurement.method,
        "queries": len(run.benchmark.queries),
        "photos": engine["images"] + engine["distractors"],
        "metrics": run.scores.metrics,
        "intervals": run.scores.intervals,
        "wrongly_verified": wrongly_verified(run),
        "query_ms": run.metadata["query_ms"],
        "bytes_per_image": engine["bytes_per_image"],
        "settings": engine["settings"],
        "run": str(measurement.folder),
    }


def tables(measurements: Sequence[Measurement]) -> list[Table]:
    """One table per condition, in the order of measurement."""
    conditions = dict.fromkeys(m.condition for m in measurements)
    return [
        _table(condition, [m for m in measurements if m.condition == condition])
        for condition in conditions
    ]


def _table(condition: str, measurements: Sequence[Measurement]) -> Table:
    benchmarks = list(dict.fromkeys(m.benchmark for m in measurements))
    columns, empty = ["method"], {}
    for benchmark in benchmarks:
        names = headline(next(m.run for m in measurements if m.benchmark == benchmark))
        added = [f"{benchmark}, {name}" for name in (*names, "wrongly verified", "ms")]
        columns += added
        # What a method that is not measured yet has there.
        empty[benchmark] = [""] * len(added)
    rows = []
    for method in dict.fromkeys(m.method for m in measurements):
        by_benchmark = {m.benchmark: m.run for m in measurements if m.method == method}
        measured = {name: _cells(run) for name, run in by_benchmark.items()}
        cells = [cell for name in benchmarks for cell in (empty | measured)[name]]
        sizes = [run.metadata["engine"]["bytes_per_image"] for run in by_benchmark.values()]
        rows.append((method, *cells, f"{statistics.fmean(sizes):,.0f}"))
    return Table(condition, (*columns, "bytes per photo"), tuple(rows))


def _cells(run: Run) -> list[str]:
    wrong, latency = wrongly_verified(run), run.metadata["query_ms"]
    return [
        *(f"{value:.3f}" for value in headline(run).values()),
        "" if wrong is None else f"{wrong:.3f}",
        f"{latency['median']:,.0f}" if latency else "",
    ]


def markdown(table: Table) -> str:
    """A table as Markdown."""
    lines = [table.columns, tuple("---" for _ in table.columns), *table.rows]
    return "".join(f"| {' | '.join(_escape(cell) for cell in line)} |\n" for line in lines)


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
