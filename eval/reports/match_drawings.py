"""Pictures of matches for a report: how the engine saw a chosen few queries."""

from __future__ import annotations

from collections.abc import Iterator

from delg.images.decode import ImageError, decode
from eval.benchmark import Benchmark, RecognitionTruth
from eval.evaluate import Measured
from eval.reports.query_examples import right_and_ignored
from eval.reports.report import MatchPicture, main_part
from eval.run_queries import ignored, outside, start_search
from eval.scoring import query_metric
from index.visualize.draw_matches import draw_matches

# Of the best queries and of the worst.
_EACH = 3


def pictures(benchmark: Benchmark, measured: Measured) -> list[MatchPicture]:
    """The first hit of a few good and a few bad queries, with lines between what matched."""
    part = main_part(measured.run)
    if part is None:
        return []
    values = measured.run.scores.queries[part]
    metric = query_metric(benchmark)
    order = sorted(values, key=lambda query: (values[query][metric], query))
    chosen = list(dict.fromkeys([*order[:_EACH], *order[-_EACH:]]))
    return list(_draw(benchmark, measured, part, chosen))


def _draw(
    benchmark: Benchmark, measured: Measured, part: str, chosen: list[str]
) -> Iterator[MatchPicture]:
    queries = {query.id: query for query in benchmark.queries}
    engine = measured.engine
    foreign_ids = outside(benchmark, engine)
    for name in chosen:
        query = queries[name]
        try:
            search = start_search(engine, query)
            without = foreign_ids | ignored(benchmark, query, part)
            found = search.hits(1, engine.rerank, engine.orientations, without)
            if not found.hits or not found[0].inliers:
                continue
            hit = found[0]
            drawing = draw_matches(
                decode(query.path), decode(hit.path), hit.query_points, hit.points, box=query.box
            )
        except ImageError:
            continue  # The report says elsewhere which photos cannot be read.
        yield MatchPicture(name, hit.id, hit.inliers, _is_right(benchmark, name, hit.id, part),
                           drawing)  # fmt: skip


def _is_right(benchmark: Benchmark, query: str, image: str, part: str) -> bool:
    truth = benchmark.truth[query]
    if isinstance(truth, RecognitionTruth):
        return benchmark.labels.get(image) in truth.labels
    return image in right_and_ignored(benchmark, part, query)[0]
