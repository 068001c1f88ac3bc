"""Compare runs of one benchmark: what differs, which is better, on which queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from delg.errors import UsageError
from eval.bootstrap import PairedDifference, paired_difference
from eval.proof import Proof, proof_as_json
from eval.reports.proof_table import proof_parts
from eval.reports.report import metric_names, metric_parts
from eval.reports.run_metadata import Setting, differing_settings, distinct_titles
from eval.run import Run
from eval.scoring import main_metric, query_metric

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
class PartProof:
    """The proof of one part in each run, None where a run lacks it."""

    part: str
    proofs: tuple[Proof | None, ...]


@dataclass(frozen=True)
class Change:
    """A query's value in the first run and in another."""

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
        run: position of the other run among all.
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
        settings: entries of the metadata that differ, except times.
        notes: what limits the comparison.
    """

    runs: tuple[Run, ...]
    titles: tuple[str, ...]
    settings: tuple[Setting, ...]
    metrics: tuple[Metric, ...]
    differences: tuple[Difference, ...]
    proof: tuple[PartProof, ...]
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
    for number in range(1, len(runs)):
        _reject_other_benchmark(runs[0], runs[number], titles[0], titles[number])
        by_part = _differences(runs[0], runs[number], number)
        if not by_part:
            raise UsageError(f"{titles[0]!r} and {titles[number]!r} have no scored query in common")
        differences += by_part
        notes += _notes(runs[0], runs[number], titles[number])
    return Comparison(
        tuple(runs),
        titles,
        differing_settings(runs),
        _metrics(runs),
        tuple(differences),
        _proof(runs),
        tuple(notes),
    )


def _reject_other_benchmark(first: Run, other: Run, first_title: str, title: str) -> None:
    for what, expected, actual in (
        ("benchmark", first.benchmark.name, other.benchmark.name),
        ("protocol", first.benchmark.protocol, other.benchmark.protocol),
        ("metric", main_metric(first.benchmark), main_metric(other.benchmark)),
    ):
        if expected != actual:
            raise UsageError(
                f"the {what} of {first_title!r} is {expected}, that of {title!r} is {actual}: "
                "their numbers cannot be compared"
            )


def _differences(first: Run, other: Run, number: int) -> list[Difference]:
    """One difference per part with queries that both runs scored."""
    metric = query_metric(first.benchmark)
    differences = []
    for part, values in first.scores.queries.items():
        before = {query: row[metric] for query, row in values.items()}
        after = {q: row[metric] for q, row in other.scores.queries.get(part, {}).items()}
        common = [query for query in before if query in after]
        if not common:
            continue
        changes = [Change(query, before[query], after[query]) for query in common]
        better = [change for change in changes if change.change > _EQUAL]
        worse = [change for change in changes if change.change < -_EQUAL]
        differences.append(
            Difference(
                number,
                part,
                metric,
                paired_difference(before, after),
                tuple(sorted(better, key=lambda change: (-change.change, change.query))),
                tuple(sorted(worse, key=lambda change: (change.change, change.query))),
            )
        )
    return differences


def _notes(first: Run, other: Run, title: str) -> list[str]:
    truth, other_truth = first.benchmark.truth, other.benchmark.truth
    notes = []
    unshared = len(truth.keys() ^ other_truth.keys())
    if unshared:
        notes.append(
            f"{title}: {unshared:,} {'query is' if unshared == 1 else 'queries are'} in one run "
            "only; differences are over the common queries, each run's metrics over its own."
        )
    common = truth.keys() & other_truth.keys()
    changed = sum(truth[query] != other_truth[query] for query in common)
    if changed:
        notes.append(
            f"{title}: the ground truth of {changed:,} common queries is not the same as in the "
            "first run, so the numbers are only partly comparable."
        )
    return notes


def _metrics(runs: Sequence[Run]) -> tuple[Metric, ...]:
    metrics = []
    for part in metric_parts(runs):
        for name in metric_names(runs):
            numbers = tuple(_number(run, part, name) for run in runs)
            if any(number is not None for number in numbers):
                metrics.append(Metric(part, name, numbers))
    return tuple(metrics)


def _number(run: Run, part: str, name: str) -> Number | None:
    value = run.scores.metrics.get(part, {}).get(name)
    return None if value is None else Number(value, *run.scores.intervals[part][name])


def _proof(runs: Sequence[Run]) -> tuple[PartProof, ...]:
    return tuple(
        PartProof(part, tuple(run.scores.proof.get(part) for run in runs))
        for part in proof_parts(runs)
    )


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values for JSON."""
    return {
        "runs": list(comparison.titles),
        "benchmark": comparison.runs[0].benchmark.name,
        "protocol": comparison.runs[0].benchmark.protocol,
        "notes": list(comparison.notes),
        "settings": {setting.name: list(setting.values) for setting in comparison.settings},
        "metrics": [
            {
                "part": metric.part,
                "metric": metric.name,
                "values": [None if n is None else n.value for n in metric.numbers],
                "intervals": [None if n is None else [n.low, n.high] for n in metric.numbers],
            }
            for metric in comparison.metrics
        ],
        "proof": [
            {"part": proof.part, "values": [p and proof_as_json(p) for p in proof.proofs]}
            for proof in comparison.proof
        ],
        "differences": [_difference_json(comparison, d) for d in comparison.differences],
    }


def _difference_json(comparison: Comparison, difference: Difference) -> dict[str, Any]:
    total = difference.total
    return {
        "run": comparison.titles[difference.run],
        "against": comparison.titles[0],
        "part": difference.part,
        "metric": difference.metric,
        "mean": total.mean,
        "interval": [total.low, total.high],
        "p_value": total.p_value,
        "better": [_change_json(change) for change in difference.better],
        "worse": [_change_json(change) for change in difference.worse],
        "equal": total.equal,
    }


def _change_json(change: Change) -> dict[str, Any]:
    return {
        "query": change.query,
        "before": change.before,
        "after": change.after,
        "change": change.change,
    }


def sentence(difference: Difference) -> str:
    """A difference in words."""
    total = difference.total
    p_value = "p < 0.001" if total.p_value < 0.001 else f"p = {total.p_value:.3f}"
    interval = f"[{total.low:+.3f}, {total.high:+.3f}]"
    return (
        f"mean change of {difference.metric} {total.mean:+.3f} {interval}, {p_value}: "
        f"{total.better:,} better, {total.worse:,} worse, {total.equal:,} equal"
    )
