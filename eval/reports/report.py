"""A run as one self-contained HTML file: numbers, curves, the worst and the best queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delg.files import write_bytes
from delg.images.decode import ImageError, decode
from eval.benchmark import IGNORED_PART, ALL_QUERIES, RecognitionTruth, RetrievalTruth
from eval.reports.charts import MAX_LINES, Chart, recognition_chart, retrieval_charts, thresholds
from eval.reports.query_examples import (
    RIGHT,
    WRONG,
    Album,
    Example,
    Shown,
    scored_parts,
    example,
    ranking_of,
    most_confident,
    worst_and_best,
)
from eval.reports.run_metadata import ABSENT, as_text, differing_settings, distinct_titles, flatten
from eval.run import Run
from eval.scoring import main_metric, query_metric
from index.visualize.html import embed_image, load_template

# Queries with pictures, of the worst, of the best, and of those with nothing to find.
EACH = 10
# As many as runs keep paths of.
HITS = 10
# Lines of the table by query that a browser still shows at once.
MAX_ROWS = 400
MAX_FAILURES = 20
MATCHES_SIDE = 1200
_PRECISIONS = (0.5, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class MatchPicture:
    """A drawing of the matches between a query and one of its hits.

    Attributes:
        right: whether the hit is; None if that is not known.
        image: uint8 (H, W, 3) RGB, or the bytes of an image file.
    """

    query: str
    hit: str
    inliers: int
    right: bool | None
    image: NDArray[np.uint8] | bytes


@dataclass(frozen=True)
class _Section:
    title: str
    note: str
    examples: list[Example]


@dataclass(frozen=True)
class _Table:
    """Numbers by query.

    Attributes:
        groups: heading and number of columns below it, as parts; empty without a second heading.
        rows: the query and its cells, and the verdict on it if it has one.
        left_out: how many queries are not among the rows.
    """

    groups: list[tuple[str, int]]
    columns: list[str]
    rows: list[tuple[str, list[str], str | None]]
    left_out: int = 0


def write_report(path: Path, runs: Sequence[Run], matches: Sequence[MatchPicture] = ()) -> None:
    """Write a run's report.

    Args:
        path: of the file; an existing one is replaced.
        runs: the run, then baselines on the same benchmark.
        matches: drawings to show; the caller made them with the engine.

    Raises:
        DelgError: the file cannot be written.
    """
    # File names on Linux may hold bytes that are no text.
    write_bytes(path, render_report(runs, matches).encode("utf-8", "replace"))


def render_report(runs: Sequence[Run], matches: Sequence[MatchPicture] = ()) -> str:
    """The HTML of :func:`write_report`."""
    run, benchmark = runs[0], runs[0].benchmark
    recognition = benchmark.protocol == "recognition"
    part = main_part(run)
    charts = _charts(runs)
    return load_template("eval.reports", "report.html").render(
        run=run,
        runs=runs,
        titles=distinct_titles(runs),
        drawn=min(len(runs), MAX_LINES),
        main=main_metric(benchmark),
        metric=query_metric(benchmark),
        part=part,
        whole=ALL_QUERIES,
        headline=run.scores.metrics.get(part or "", {}).get(main_metric(benchmark)),
        metrics=metric_names(runs),
        parts=metric_parts(runs),
        conditions=_conditions(run),
        everything=flatten(run.metadata),
        differences=differing_settings(runs) if len(runs) > 1 else (),
        charts=charts,
        operating=_operating_points(run) if recognition else [],
        sections=_sections(run, part),
        table=_recognition_table(run) if recognition else _query_table(runs),
        recognition=recognition,
        matches=[(one, _drawing(one)) for one in matches],
        failures=list(run.metadata.get("failed_queries", {}).items()),
        max_failures=MAX_FAILURES,
        max_rows=MAX_ROWS,
    )


def main_part(run: Run) -> str | None:
    """The part whose queries are shown with pictures: the hardest that has any."""
    return next(reversed(scored_parts(run)), None)


def metric_names(runs: Sequence[Run]) -> list[str]:
    """All metrics of the runs, the main one first."""
    names = dict.fromkeys(n for r in runs for values in r.scores.metrics.values() for n in values)
    main = main_metric(runs[0].benchmark)
    return [*(name for name in names if name == main), *(name for name in names if name != main)]


def metric_parts(runs: Sequence[Run]) -> list[str]:
    """All parts in which any run has numbers."""
    return list(dict.fromkeys(part for run in runs for part in run.scores.metrics))


def _charts(runs: Sequence[Run]) -> list[tuple[str, list[Chart]]]:
    """Part -> its charts."""
    if runs[0].benchmark.protocol == "recognition":
        drawable = runs[0].scores.metrics.get(ALL_QUERIES) is not None
        return [(ALL_QUERIES, [recognition_chart(runs)])] if drawable else []
    return [(part, retrieval_charts(runs, part)) for part in scored_parts(runs[0])]


def _conditions(run: Run) -> list[tuple[str, str]]:
    """What matters most of how the run was made, as far as it is recorded."""
    facts = run.metadata
    engine: dict[str, Any] = facts.get("engine", {})
    git = facts.get("git")
    changed = ", changed since" if git and git.get("changed") else ""
    spread = facts.get("query_ms") or {}
    query_ms = (
        "{median} ms, from {fastest} to {slowest}".format(**spread)
        if {"median", "fastest", "slowest"} <= spread.keys()
        else None
    )
    rows = [
        ("Benchmark", run.benchmark.name),
        ("Protocol", run.benchmark.protocol),
        ("Queries", f"{len(run.benchmark.queries):,}"),
        ("Photos searched", facts.get("gallery")),
        ("Distractors", engine.get("distractors")),
        ("Model", engine.get("model")),
        ("Fingerprint", engine.get("fingerprint")),
        ("Hits verified", engine.get("rerank")),
        ("Orientations", engine.get("orientations")),
        ("A query takes", query_ms),
        ("All queries took", f"{facts['seconds']} s" if "seconds" in facts else None),
        ("Machine", facts.get("machine")),
        ("Versions", ", ".join(f"{k} {v}" for k, v in facts.get("versions", {}).items()) or None),
        ("Code", f"git {git['commit'][:12]}{changed}" if git else None),
        ("Finished", facts.get("finished")),
        ("Command", facts.get("command")),
    ]
    return [(name, as_text(value)) for name, value in rows if value is not None]


def _operating_points(run: Run) -> list[tuple[float, str, str]]:
    """Precision asked -> part of the queries that can be answered, and from which score on."""
    found = thresholds(run)
    points = []
    for precision in _PRECISIONS:
        reached = np.flatnonzero(found.precision >= precision)
        if len(reached):
            last = reached[-1]
            points.append((precision, f"{found.coverage[last]:.1%}", f"{found.scores[last]:.3f}"))
        else:
            points.append((precision, ABSENT, ABSENT))
    return points


def _sections(run: Run, part: str | None) -> list[_Section]:
    if run.benchmark.protocol == "recognition":
        return _recognition_sections(run)
    album, queries = Album(), {query.id: query for query in run.benchmark.queries}
    metric = query_metric(run.benchmark)
    sections = []
    if part is not None:
        values = {query: one[metric] for query, one in run.scores.queries[part].items()}
        lists = worst_and_best({q: v for q, v in values.items() if q in queries}, EACH)
        for title, note, chosen in zip(
            ("The worst queries", "The best queries"),
            (f"The lowest {metric} first.", f"The highest {metric} first."),
            lists,
            strict=True,
        ):
            shown = [example(run, part, queries[q], values[q], album, HITS) for q in chosen]
            sections.append(_Section(title, note, shown))
    nothing = {}
    for query, truth in run.benchmark.truth.items():
        if isinstance(truth, RetrievalTruth) and not truth.relevant and truth.part != IGNORED_PART:
            scores = ranking_of(run, ALL_QUERIES, query).scores
            if query in queries and len(scores):
                nothing[query] = float(scores[0])
    if nothing:
        shown = [example(run, ALL_QUERIES, queries[q], None, album, HITS) for q in most_confident(nothing, EACH)]
        note = "No photo is right for these; the surest hits first. They should score low."
        sections.append(_Section("Queries with nothing to find", note, shown))
    return [section for section in sections if section.examples]


def _recognition_sections(run: Run) -> list[_Section]:
    album, queries = Album(), {query.id: query for query in run.benchmark.queries}
    wrong: dict[str, float] = {}
    right: dict[str, float] = {}
    for query, labels, answer in _recognised(run):
        if answer is not None and query in queries:
            (right if answer[0] in labels else wrong)[query] = answer[1]
    lists = (
        ("The worst answers", "Wrong, the surest first: these cost the most.", wrong),
        ("The best answers", "Right, the surest first.", right),
    )
    return [
        _Section(
            title,
            note,
            [example(run, ALL_QUERIES, queries[q], None, album, HITS) for q in most_confident(some, EACH)],
        )
        for title, note, some in lists
        if some
    ]


def _recognised(run: Run) -> list[tuple[str, frozenset[str], tuple[str, float] | None]]:
    """Query, right labels and answer of every query that counts in the whole."""
    return [
        (query, truth.labels, run.predictions.labels.get(query))
        for query, truth in run.benchmark.truth.items()
        if isinstance(truth, RecognitionTruth) and truth.part != IGNORED_PART
    ]


def _query_table(runs: Sequence[Run]) -> _Table:
    """The value of every query, the worst of the shown part first."""
    parts, titles = scored_parts(runs[0]), distinct_titles(runs)
    metric = query_metric(runs[0].benchmark)
    by_part = [[run.scores.queries.get(part, {}) for run in runs] for part in parts]
    last = by_part[-1][0] if by_part else {}
    names = dict.fromkeys(query for group in by_part for query in group[0])
    order = sorted(names, key=lambda q: (q not in last, last.get(q, {}).get(metric, 0), q))
    if len(order) > MAX_ROWS:
        order = [*order[: MAX_ROWS // 2], *order[-MAX_ROWS // 2 :]]
    rows: list[tuple[str, list[str], str | None]] = [
        (q, [_number(one.get(q, {}).get(metric)) for group in by_part for one in group], None)
        for q in order
    ]
    if len(runs) == 1:
        columns = [metric if part == ALL_QUERIES else f"{metric}, {part}" for part in parts]
        return _Table([], columns, rows, len(names) - len(order))
    groups = [(metric if part == ALL_QUERIES else f"{metric}, {part}", len(runs)) for part in parts]
    return _Table(groups, [*titles] * len(parts), rows, len(names) - len(order))


def _recognition_table(run: Run) -> _Table:
    """Every answer, the surest first; then the queries without one."""
    found = _recognised(run)
    order = sorted(found, key=lambda one: (one[2] is None, -one[2][1] if one[2] else 0, one[0]))
    rows: list[tuple[str, list[str], str | None]] = []
    for query, labels, answer in order[:MAX_ROWS]:
        truth = ", ".join(sorted(labels)) or "none"
        if answer is None:
            rows.append((query, [truth, "none", ABSENT], None))
        else:
            verdict = RIGHT if answer[0] in labels else WRONG
            rows.append((query, [truth, answer[0], _number(answer[1])], verdict))
    return _Table([], ["right labels", "answer", "score"], rows, len(order) - len(rows))


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3f}"


def _drawing(match: MatchPicture) -> Shown:
    try:
        return Shown(embed_image(decode(match.image), MATCHES_SIDE))
    except ImageError as error:
        return Shown(None, str(error))
