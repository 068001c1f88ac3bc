"""``delg eval speed``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from delg.cli.console import print_json, print_result, table
from delg.cli.options import AsJson
from delg.errors import UsageError

log = logging.getLogger(__name__)


def add_commands(app: typer.Typer) -> None:
    """Add the command to ``delg eval``."""
    app.command("speed")(speed)


def speed(
    baseline: Annotated[
        bool,
        typer.Option("--baseline", help="Time the reference implementations too, in turns."),
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Smaller sizes and fewer runs: under two minutes.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="Measure only this row; may be repeated.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Runs per stage.")] = 9,
    serve: Annotated[bool, typer.Option("--serve", help="Measure a running server too.")] = False,
    pages: Annotated[
        bool, typer.Option("--pages", help="Measure only the pages of a running server.")
    ] = False,
    index: Annotated[
        Path | None,
        typer.Option(help="Index whose pages are measured, in place of 200,000 synthetic photos."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Page to write, with charts of how times grow.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time each stage on this machine, next to reference implementations."""
    from eval.speed.harness import Row, measure, stage_names
    from eval.speed.report import COLUMNS, cells, machine_line, write_page

    if index is not None and not pages:
        raise UsageError("--index: only --pages measures an index of yours")

    def log_row(row: Row) -> None:
        log.info("%s", "  ".join(cells(row)))

    names = [*(only or ()), *(stage_names("pages") if pages else ())]
    extras = ("serve",) if serve else ()
    measurements = measure(baseline, quick, names, runs, extras, log_row, index)
    if html is not None:
        write_page(html, measurements)
        log.info("page written: %s", html)
    if as_json:
        print_json(measurements.as_json())
        return
    print_result(machine_line(measurements.machine))
    table(COLUMNS, [cells(row) for row in measurements.rows])
