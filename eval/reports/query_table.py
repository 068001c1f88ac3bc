"""The table of a report with one row per query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from eval.benchmark import ALL_QUERIES, IGNORED_PART, RecognitionTruth
from eval.reports.query_examples import RIGHT, WRONG, scored_parts
from eval.reports.run_metadata import ABSENT, distinct_titles
from eval.run import Run
from eval.scoring import query_metric

# Rows that a browser still shows at once.
MAX_ROWS = 400


@dataclass(frozen=True)
class QueryTable:
    """Numbers by query.

    Attributes:
        groups: heading and number of columns below it, one per part; empty without them.
        columns: headings of the cells.
        rows: the query, its cells, and the verdict on its prediction if there is one.
        left_out: number of queries without a row.
    """

    groups: list[tuple[str, int]]
    columns: list[str]
    rows: list[tuple[str, list[str], str | None]]
    left_out: int = 0


class LabelledQuery(NamedTuple):
    """A query of the recognition protocol with its right labels and its predicted label."""

    id: str
    labels: frozenset[str]
    prediction: tuple[str, float] | None


def labelled_queries(run: Run) -> list[LabelledQuery]:
    """Every query of a recognition run that is not ignored."""
    return [
        LabelledQuery(query, truth.labels, run.predictions.labels.get(query))
        for query, truth in run.benchmark.truth.items()
        if isinstance(truth, RecognitionTruth) and truth.part != IGNORED_PART
    ]


def retrieval_table(runs: Sequence[Run]) -> QueryTable:
    """The value of every query in each part and run, the worst of the last part first."""
    parts, titles = scored_parts(runs[0]), distinct_titles(runs)
    metric = query_metric(runs[0].benchmark)
    by_part = [[run.scores.queries.get(part, {}) for run in runs] for part in parts]
    last = by_part[-1][0] if by_part else {}
    names = dict.fromkeys(query for values in by_part for query in values[0])
    order = sorted(names, key=lambda q: (q not in last, last.get(q, {}).get(metric, 0), q))
    if len(order) > MAX_ROWS:
        order = [*order[: MAX_ROWS // 2], *order[-MAX_ROWS // 2 :]]
    rows: list[tuple[str, list[str], str | None]] = [
        (q, [number(run.get(q, {}).get(metric)) for values in by_part for run in values], None)
        for q in order
    ]
    headings = [metric if part == ALL_QUERIES else f"{metric}, {part}" for part in parts]
    if len(runs) == 1:
        return QueryTable([], headings, rows, len(names) - len(order))
    groups = [(heading, len(runs)) for heading in headings]
    return QueryTable(groups, [*titles] * len(parts), rows, len(names) - len(order))


def recognition_table(run: Run) -> QueryTable:
    """Every prediction, the most confident first; then the queries without one."""

    def confidence(query: LabelledQuery) -> tuple[bool, float, str]:
        return query.prediction is None, -query.prediction[1] if query.prediction else 0, query.id

    order = sorted(labelled_queries(run), key=confidence)
    rows: list[tuple[str, list[str], str | None]] = []
    for query, labels, prediction in order[:MAX_ROWS]:
        truth = ", ".join(sorted(labels)) or "none"
        if prediction is None:
            rows.append((query, [truth, "none", ABSENT], None))
        else:
            label, score = prediction
            rows.append((query, [truth, label, number(score)], RIGHT if label in labels else WRONG))
    columns = ["right labels", "predicted label", "score"]
    return QueryTable([], columns, rows, len(order) - len(rows))


def number(value: float | None) -> str:
    """A value with three decimals, or a dash."""
    return ABSENT if value is None else f"{value:.3f}"
