"""Drawings of matches for a report: a few good and a few bad queries with their first hit."""

from __future__ import annotations

from collections.abc import Iterator

from delg.images.decode import ImageError, decode
from eval.benchmark import Benchmark, RecognitionTruth
from eval.evaluate import EvalResult
from eval.reports.query_examples import right_and_ignored
from eval.reports.report import MatchPicture, main_part
from eval.run_queries import excluded_ids, ids_outside_gallery, start_search
from eval.scoring import query_metric
from index.visualize.draw_matches import draw_matches

# Queries drawn, of the best and of the worst.
_EACH = 3


def draw_best_and_worst(benchmark: Benchmark, result: EvalResult) -> list[MatchPicture]:
    """The first hit of the best and the worst queries, with lines between matching points."""
    part = main_part(result.run)
    if part is None:
        return []
    values = result.run.scores.queries[part]
    metric = query_metric(benchmark)
    order = sorted(values, key=lambda query: (values[query][metric], query))
    queries = list(dict.fromkeys([*order[:_EACH], *order[-_EACH:]]))
    return list(_draw(benchmark, result, part, queries))


def _draw(
    benchmark: Benchmark, result: EvalResult, part: str, names: list[str]
) -> Iterator[MatchPicture]:
    queries = {query.id: query for query in benchmark.queries}
    engine = result.engine
    foreign_ids = ids_outside_gallery(benchmark, engine)
    for name in names:
        query = queries[name]
        try:
            search = start_search(engine, query)
            excluded = foreign_ids | excluded_ids(benchmark, query, part)
            answer = search.hits(1, engine.rerank, engine.orientations, excluded)
            if not answer.hits or not answer[0].inliers:
                continue
            hit = answer[0]
            drawing = draw_matches(
                decode(query.path), decode(hit.path), hit.query_points, hit.points, box=query.box
            )
        except ImageError:
            continue  # The report lists unreadable photos elsewhere.
        yield MatchPicture(name, hit.id, hit.inliers, _is_right(benchmark, name, hit.id, part),
                           drawing)  # fmt: skip


def _is_right(benchmark: Benchmark, query: str, image: str, part: str) -> bool:
    truth = benchmark.truth[query]
    if isinstance(truth, RecognitionTruth):
        return benchmark.labels.get(image) in truth.labels
    return image in right_and_ignored(benchmark, part, query)[0]
