"""Runs and comparisons as tables on stdout."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from delg.cli.console import print_json, print_result, table

if TYPE_CHECKING:
    from eval.reports.compare import Comparison
    from eval.reports.report import MatchPicture
    from eval.run import Run

log = logging.getLogger(__name__)
# Queries named per comparison, of those that gained and of those that lost.
_NAMED = 5


def print_runs(runs: Sequence[Run], as_json: bool) -> None:
    """A run and its baselines: one table, or one line of JSON per run."""
    if as_json:
        for run in runs:
            print_json(run.as_json())
        return
    print_result(f"{runs[0].benchmark.name}, {len(runs[0].benchmark.queries):,} queries")
    from eval.reports.proof_table import proof_summary

    names = list(dict.fromkeys(n for r in runs for m in r.scores.metrics.values() for n in m))
    rows = []
    for run in runs:
        for part, values in run.scores.metrics.items():
            cells = [_run_cell(run, part, name) if name in values else "" for name in names]
            rows.append([run.title, part, *cells])
    table(["", "", *names], rows)
    print_result(
        "in brackets: 95 % intervals over queries (bootstrap)"
        if rows
        else "no query has a relevant photo, so there is nothing to score"
    )
    for summary in filter(None, map(proof_summary, runs)):
        print_result(summary)


def _run_cell(run: Run, part: str, name: str) -> str:
    return _cell(run.scores.metrics[part][name], *run.scores.intervals[part][name])


def _cell(value: float, low: float, high: float) -> str:
    return f"{value:.3f} [{low:.2f}–{high:.2f}]"


def print_comparison(comparison: Comparison) -> None:
    """What differs, the metrics, and for each run the queries that changed most."""
    from eval.reports.compare import sentence
    from eval.reports.run_metadata import ABSENT

    print_result(comparison.runs[0].benchmark.name)
    for note in comparison.notes:
        print_result(f"note: {note}")
    if comparison.settings:
        print_result("")
        print_result("what differs")
        rows = [[setting.name, *setting.values] for setting in comparison.settings]
        table(["", *comparison.titles], rows)
    print_result("")
    print_result("metrics, in brackets their 95 % intervals over queries (bootstrap)")
    rows = [
        [
            metric.part,
            metric.name,
            *(ABSENT if n is None else _cell(n.value, n.low, n.high) for n in metric.numbers),
        ]
        for metric in comparison.metrics
    ]
    table(["", "", *comparison.titles], rows)
    _print_proof(comparison)
    for difference in comparison.differences:
        title = comparison.titles[difference.run]
        print_result("")
        print_result(f"{title} against {comparison.titles[0]}, {difference.part}")
        print_result(sentence(difference))
        changes = [*difference.better[:_NAMED], *reversed(difference.worse[:_NAMED])]
        if changes:
            table(
                ["query", "before", "after", "change"],
                [
                    [c.query, f"{c.before:.3f}", f"{c.after:.3f}", f"{c.change:+.3f}"]
                    for c in changes
                ],
            )


def _print_proof(comparison: Comparison) -> None:
    from eval.reports.proof_table import COLUMNS, NOTE, proof_cells

    if not comparison.proof:
        return
    print_result("")
    print_result(f"verified hits. {NOTE}")
    rows = [
        [proof.part, *cells]
        for proof in comparison.proof
        for cells in zip(COLUMNS, *map(proof_cells, proof.proofs), strict=True)
    ]
    table(["", "", *comparison.titles], rows)


def write_report_of(
    folder: Path, runs: Sequence[Run], matches: Sequence[MatchPicture] = ()
) -> None:
    """Write ``report.html`` into a run's folder."""
    from eval.reports.report import write_report
    from eval.run import REPORT_FILE

    write_report(folder / REPORT_FILE, runs, matches)
    log.info("report written: %s", folder / REPORT_FILE)
