"""Results of queries on the terminal: as a table, in JSON, as paths, or what the photo shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from delg.cli.console import plural, print_json, print_result, table

if TYPE_CHECKING:
    from delg.types import Box, Failure
    from index.answers.answer import Answer
    from index.results import Hit, QueryResult, Region

_MAX_METADATA = 8


class Output(Enum):
    """What is printed of a query."""

    table = "table"
    json = "json"
    paths = "paths"
    answer = "answer"


def print_hits(query: str, index: Path, result: QueryResult, output: Output) -> None:
    """Print the results of a query, named for people."""
    if output is Output.json:
        print_json(result.as_json(query, str(index)))
    elif output is Output.paths:
        for hit in result:
            print_result(hit.path)
    elif output is Output.answer:
        print_result(f"{query}: {describe(result.answer())}{_notes(result)}")
    else:
        _print_table(query, result)


def describe(answer: Answer) -> str:
    """An answer in one line, with what is known of it."""
    from index.results import as_percent

    best = answer.best
    if best is None:
        return answer.text
    facts = [f"{key}: {value}" for key, value in best.metadata.items() if value]
    details = f" ({', '.join(facts[:_MAX_METADATA])})" if facts else ""
    hit = best.hits[0]
    part = f", in the part {_box(hit.region)} of {hit.id}" if hit.region else ""
    return f"{answer.text}{details}, probability {as_percent(best.probability)}{part}"


def print_failure(failure: Failure, output: Output) -> None:
    """Print a query that could not be answered, where the output has a place for it."""
    if output is Output.json:
        print_json({"query": failure.path, "error": failure.reason, "hits": []})


def print_summary(path: Path, verdicts: Sequence[str], failed: int) -> None:
    """Print what a table of answers holds that was just written."""
    counts = Counter(verdicts)
    words = [("sure", "sure"), ("probably", "probable"), ("none", "not in this collection")]
    parts = [f"{counts[verdict]} {word}" for verdict, word in words if counts[verdict]]
    parts += [f"{failed} failed"] if failed else []
    detail = f": {', '.join(parts)}" if parts else ""
    print_result(f"{plural(len(verdicts), 'new answer')} in {path}{detail}")


def _print_table(query: str, result: QueryResult) -> None:
    rotation = f", rotated by {result.orientation}°" if result.orientation else ""
    total = sum(result.timing_ms.values())
    print_result(f"{query}{rotation} ({total:.0f} ms){_notes(result)}")
    columns = ["rank", "score", "probability", "similarity", "inliers", "", "id", "label"]
    rows = [_hit_row(hit) for hit in result]
    if any(hit.region for hit in result):
        columns.append("part")
        rows = [[*row, _box(hit.region)] for row, hit in zip(rows, result, strict=True)]
    table(columns, rows)
    answered = [region for region in result.regions if region.ranks]
    if len(answered) > 1:
        print_result(f"{query} shows {len(answered)} things")
        table(
            ["x", "y", "width", "height", "hits"],
            [_region_row(region, result) for region in answered],
        )


def _notes(result: QueryResult) -> str:
    return "".join(f"; {note}" for note in result.notes)


def _hit_row(hit: Hit) -> list[str]:
    verified = "verified" if hit.verified else ""
    return [
        str(hit.rank), f"{hit.score:.3f}", hit.percent, f"{hit.similarity:.3f}",
        str(hit.inliers), verified, hit.id, hit.label or "",
    ]  # fmt: skip


def _box(box: Box | None) -> str:
    """A part of a photo as ``--box`` takes it; empty: all of it."""
    return ",".join(f"{value:.0f}" for value in box or ())


def _region_row(region: Region, result: QueryResult) -> list[str]:
    ids = ", ".join(hit.id for hit in result.hits_of(region))
    return [*(f"{value:.0f}" for value in region.box), ids]
