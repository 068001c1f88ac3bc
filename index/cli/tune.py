"""``delg index tune``: choose the shortlist that an index should have."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delg.cli.console import print_json, print_result, progress, table
from delg.cli.options import AsJson
from index.cli.options import IndexDir, open_index

if TYPE_CHECKING:
    from index.learn.tune import OperatingPoint, Tuning

log = logging.getLogger(__name__)


def index_tune(
    index: IndexDir,
    recall: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the true nearest photos that must be found."),
    ] = 0.98,
    queries: Annotated[int, typer.Option(min=1, help="Photos to hold out and search for.")] = 200,
    depth: Annotated[
        int | None,
        typer.Option(min=1, help="Nearest photos that count (default: those that are verified)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure, and leave the settings as they are.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure which search index finds enough in the least time, and use it from now on."""
    with open_index(index) as images:
        with progress("search indexes") as report:
            tuning = images.tune(recall, queries, depth, report)
        chosen = {"shortlist": tuning.chosen.settings}
        if not dry_run:
            images.configure(chosen, "delg index tune", record=True)
    if as_json:
        print_json(_as_json(tuning, recorded=not dry_run))
        return
    print_result(
        f"recall of the nearest {tuning.depth:,} over {tuning.queries:,} photos of the index"
    )
    columns = ["", "kind", "lists", "searched", "refine_factor", "recall", "ms", "bytes per photo"]
    table(columns, [_cells(point, tuning) for point in tuning.points])
    if tuning.chosen.recall < recall:
        log.warning("no search index reaches a recall of %s here", recall)
    print_result("settings left as they were" if dry_run else f"recorded: {chosen}")


def _as_json(tuning: Tuning, recorded: bool) -> dict[str, Any]:
    return {
        "points": [point.as_json() for point in tuning.points],
        "chosen": tuning.chosen.as_json(),
        "queries": tuning.queries,
        "depth": tuning.depth,
        "recorded": recorded,
    }


def _cells(point: OperatingPoint, tuning: Tuning) -> list[str]:
    return [
        "chosen" if point is tuning.chosen else "",
        point.kind,
        f"{point.nlist or 'all'}",
        f"{point.nprobe or 'all'}",
        str(point.refine_factor),
        f"{point.recall:.4f}",
        f"{point.milliseconds:.2f}",
        f"{point.bytes_per_image:.0f}",
    ]
