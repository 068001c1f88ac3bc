"""``delg demo``: the main job on packaged photos."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delg.cli.console import plural, print_result, progress, table
from delg.cli.options import FAILED

if TYPE_CHECKING:
    from index.demo.run import DemoResult

log = logging.getLogger(__name__)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the photos, the index and the page.")] = (
        Path("demo-output")
    ),
) -> None:
    """Index a few packaged photos, query them, and write an HTML page to open."""
    from index.demo.run import build_demo_index, query_demo_index, write_demo_page

    started = time.monotonic()
    with progress("gallery") as report:
        images, queries = build_demo_index(out, report)
    with images:
        count = len(images)
        with progress("queries") as report:
            results = query_demo_index(images, queries, report)
    table(["query", "variant", "first hit", "inliers", "probability", ""], map(_row, results))
    page = write_demo_page(out, results)
    right = sum(result.is_right for result in results)
    print_result(
        f"{right} of {len(results)} queries right, "
        f"{plural(count, 'photo')} indexed, {time.monotonic() - started:.0f} s"
    )
    log.info("open %s to see the matches", page.absolute())
    if right < len(results):
        raise typer.Exit(FAILED)


def _row(result: DemoResult) -> list[str]:
    query, first = result.query, result.hits[0]
    hit = first.id if first.verified else f"({first.id}, not verified)"
    verdict = "right" if result.is_right else f"WRONG, expected {query.expected or 'none'}"
    return [
        query.path.name, query.variant, hit, str(first.inliers), first.percent, verdict
    ]  # fmt: skip
