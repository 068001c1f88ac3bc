"""``delg eval rescore`` and ``compare``: runs that are on disk."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from delg.cli.console import print_json
from delg.cli.options import AsJson
from delg.errors import UsageError
from eval.cli.output import print_comparison, print_runs, write_report_of

log = logging.getLogger(__name__)


def add_commands(app: typer.Typer) -> None:
    """Add the commands to ``delg eval``."""
    app.command("rescore")(rescore)
    app.command("compare")(compare)


def rescore(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="A run's folder.")],
    as_json: AsJson = False,
) -> None:
    """Recompute a run's metrics and report from its predictions."""
    from eval.run import baselines, load_run, save_run
    from eval.run import rescore as rescore_run

    folders = [run, *baselines(run)]
    runs = [rescore_run(load_run(folder)) for folder in folders]
    for folder, rescored in zip(folders, runs, strict=True):
        save_run(folder, rescored)
    write_report_of(run, runs)
    print_runs(runs, as_json)


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders of runs.")],
    html: Annotated[Path | None, typer.Option(help="Page to write, with pictures.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare runs: what differs, which is better, on which queries."""
    from eval.reports.compare import compare as compare_runs
    from eval.reports.compare import comparison_json
    from eval.reports.comparison_page import write_comparison
    from eval.run import load_run

    if len(runs) < 2:
        raise UsageError("compare needs two runs or more")
    comparison = compare_runs([load_run(run) for run in runs])
    if html is not None:
        write_comparison(html, comparison)
        log.info("page written: %s", html)
    if as_json:
        print_json(comparison_json(comparison))
    else:
        print_comparison(comparison)
