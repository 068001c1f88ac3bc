"""A run as one self-contained HTML file: metrics, charts, the worst and the best queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delg.files import write_bytes
from delg.images.decode import ImageError, decode
from eval.benchmark import ALL_QUERIES, IGNORED_PART, RetrievalTruth
from eval.reports.charts import (
    MAX_LINES,
    Chart,
    recognition_chart,
    reliability_chart,
    retrieval_charts,
    thresholds,
)
from eval.reports.proof_table import proof_parts, proof_table
from eval.reports.query_examples import (
    Album,
    Example,
    PagePhoto,
    example,
    most_confident,
    ranking_of,
    scored_parts,
    worst_and_best,
)
from eval.reports.query_table import (
    labelled_queries,
    recognition_table,
    retrieval_table,
)
from eval.reports.run_metadata import ABSENT, as_text, differing_settings, distinct_titles, flatten
from eval.run import Run
from eval.scoring import main_metric, query_metric
from index.visualize.html import embed_image, load_template

# Queries with pictures: of the worst, of the best, and of those without a match.
EACH = 10
# As many as runs store paths of.
HITS = 10
MAX_FAILURES = 20
# By the key of the metadata: which photos failed, and what that means.
_FAILURES = {
    "failed_queries": ("Queries", "They score 0."),
    "failed_gallery": ("Photos of the gallery", "Queries that they are right for miss them."),
}
MATCHES_SIDE = 1200
_PRECISIONS = (0.5, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class MatchPicture:
    """A drawing of the matches between a query and one of its hits.

    Attributes:
        right: whether the hit is relevant; None if that is unknown.
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


def write_report(path: Path, runs: Sequence[Run], matches: Sequence[MatchPicture] = ()) -> None:
    """Write a run's report.

    Args:
        path: of the file; an existing one is replaced.
        runs: the run, then baselines on the same benchmark.
        matches: drawings of matches to show.

    Raises:
        DelgError: the file cannot be written.
    """
    # File names on Linux may hold bytes that are not text.
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
        all_queries=ALL_QUERIES,
        headline=run.scores.metrics.get(part or "", {}).get(main_metric(benchmark)),
        metrics=metric_names(runs),
        parts=metric_parts(runs),
        conditions=_conditions(run),
        metadata=flatten(run.metadata),
        proof=proof_table(runs),
        reliability=reliability_charts(runs),
        differences=differing_settings(runs) if len(runs) > 1 else (),
        charts=charts,
        operating=_operating_points(run) if recognition else [],
        sections=_sections(run, part),
        table=recognition_table(run) if recognition else retrieval_table(runs),
        recognition=recognition,
        matches=[(match, _page_drawing(match)) for match in matches],
        failures=[
            (kind, effect, list(run.metadata.get(key, {}).items()))
            for key, (kind, effect) in _FAILURES.items()
        ],
        max_failures=MAX_FAILURES,
    )


def main_part(run: Run) -> str | None:
    """The part whose queries are shown with pictures: the hardest that has scored queries."""
    return next(reversed(scored_parts(run)), None)


def metric_names(runs: Sequence[Run]) -> list[str]:
    """All metrics of the runs, the main one first."""
    names = dict.fromkeys(n for r in runs for values in r.scores.metrics.values() for n in values)
    main = main_metric(runs[0].benchmark)
    return [*(name for name in names if name == main), *(name for name in names if name != main)]


def metric_parts(runs: Sequence[Run]) -> list[str]:
    """All parts in which any run has metrics."""
    return list(dict.fromkeys(part for run in runs for part in run.scores.metrics))


def _charts(runs: Sequence[Run]) -> list[tuple[str, list[Chart]]]:
    """Part -> its charts."""
    if runs[0].benchmark.protocol == "recognition":
        drawable = runs[0].scores.metrics.get(ALL_QUERIES) is not None
        return [(ALL_QUERIES, [recognition_chart(runs)])] if drawable else []
    return [(part, retrieval_charts(runs, part)) for part in scored_parts(runs[0])]


def reliability_charts(runs: Sequence[Run]) -> list[Chart]:
    """A chart per part whose hits have probabilities."""
    charts = [reliability_chart(runs, part) for part in proof_parts(runs)]
    return [chart for chart in charts if chart is not None]


def _conditions(run: Run) -> list[tuple[str, str]]:
    """The most important conditions of the run, as far as they are recorded."""
    metadata = run.metadata
    versions = metadata.get("versions", {})
    engine: dict[str, Any] = metadata.get("engine", {})
    git = metadata.get("git")
    changed = ", changed since" if git and git.get("changed") else ""
    latency = metadata.get("query_ms") or {}
    query_ms = (
        "{median} ms, from {fastest} to {slowest}".format(**latency)
        if {"median", "fastest", "slowest"} <= latency.keys()
        else None
    )
    rows = [
        ("Benchmark", run.benchmark.name),
        ("Protocol", run.benchmark.protocol),
        ("Queries", f"{len(run.benchmark.queries):,}"),
        ("Photos searched", metadata.get("gallery")),
        ("Distractors", engine.get("distractors")),
        ("Model", engine.get("model")),
        ("Fingerprint", engine.get("fingerprint")),
        ("Candidates verified", engine.get("rerank")),
        ("Orientations", engine.get("orientations")),
        ("Time per query", query_ms),
        ("Time in total", f"{metadata['seconds']} s" if "seconds" in metadata else None),
        ("Machine", metadata.get("machine")),
        ("Versions", ", ".join(f"{k} {v}" for k, v in versions.items()) or None),
        ("Code", f"git {git['commit'][:12]}{changed}" if git else None),
        ("Finished", metadata.get("finished")),
        ("Command", metadata.get("command")),
    ]
    return [(name, as_text(value)) for name, value in rows if value is not None]


def _operating_points(run: Run) -> list[tuple[float, str, str]]:
    """Precision -> the coverage at which it is still reached, and the score threshold for it."""
    curve = thresholds(run)
    points = []
    for precision in _PRECISIONS:
        reached = np.flatnonzero(curve.precision >= precision)
        if len(reached):
            last = reached[-1]
            points.append((precision, f"{curve.coverage[last]:.1%}", f"{curve.scores[last]:.3f}"))
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
        values = {query: row[metric] for query, row in run.scores.queries[part].items()}
        worst, best = worst_and_best({q: v for q, v in values.items() if q in queries}, EACH)
        for title, note, names in (
            ("The worst queries", f"The lowest {metric} first.", worst),
            ("The best queries", f"The highest {metric} first.", best),
        ):
            examples = [example(run, part, queries[q], values[q], album, HITS) for q in names]
            sections.append(_Section(title, note, examples))
    scores = _scores_without_match(run)
    names = most_confident({q: s for q, s in scores.items() if q in queries}, EACH)
    examples = [example(run, ALL_QUERIES, queries[q], None, album, HITS) for q in names]
    note = "Nothing in the gallery is relevant; the highest scores first. They should be low."
    sections.append(_Section("Queries without a match", note, examples))
    return [section for section in sections if section.examples]


def _scores_without_match(run: Run) -> dict[str, float]:
    """Score of the first hit of each query that has no relevant photo."""
    first_scores = {}
    for query, truth in run.benchmark.truth.items():
        if isinstance(truth, RetrievalTruth) and not truth.relevant and truth.part != IGNORED_PART:
            scores = ranking_of(run, ALL_QUERIES, query).scores
            if len(scores):
                first_scores[query] = float(scores[0])
    return first_scores


def _recognition_sections(run: Run) -> list[_Section]:
    album, queries = Album(), {query.id: query for query in run.benchmark.queries}
    wrong: dict[str, float] = {}
    right: dict[str, float] = {}
    for query, labels, prediction in labelled_queries(run):
        if prediction is not None and query in queries:
            (right if prediction[0] in labels else wrong)[query] = prediction[1]
    sections = []
    for title, note, scores in (
        ("The worst predictions", "Wrong, the most confident first: they cost the most.", wrong),
        ("The best predictions", "Right, the most confident first.", right),
    ):
        names = most_confident(scores, EACH)
        examples = [example(run, ALL_QUERIES, queries[q], None, album, HITS) for q in names]
        sections.append(_Section(title, note, examples))
    return [section for section in sections if section.examples]


def _page_drawing(match: MatchPicture) -> PagePhoto:
    try:
        return PagePhoto(embed_image(decode(match.image), MATCHES_SIDE))
    except ImageError as error:
        return PagePhoto(None, str(error))
