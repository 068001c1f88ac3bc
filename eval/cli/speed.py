"""``delg eval speed``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from delg.cli.console import print_json, print_result, table
from delg.cli.options import AsJson

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
    html: Annotated[
        Path | None, typer.Option(help="Page to write, with charts of how times grow.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time each stage on this machine, next to reference implementations."""
    from eval.speed.harness import measure
    from eval.speed.report import COLUMNS, cells, machine_line, write_page

    extras = ("serve",) if serve else ()
    measurements = measure(
        baseline, quick, only or (), runs, extras, lambda row: log.info("%s", "  ".join(cells(row)))
    )
    if html is not None:
        write_page(html, measurements)
        log.info("page written: %s", html)
    if as_json:
        print_json(measurements.as_json())
        return
    print_result(machine_line(measurements.machine))
    table(COLUMNS, [cells(row) for row in measurements.rows])
