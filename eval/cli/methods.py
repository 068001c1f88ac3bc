"""``delg eval methods``."""

from __future__ import annotations

import logging
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from delg.cli.console import print_json, print_result, progress, report_failures, table
from delg.cli.options import PARTLY, AsJson, Config
from delg.errors import UsageError
from eval.cli.engine_command import Distractors, Model, OrientationsOption
from index.cli.options import Orientations, read_config

log = logging.getLogger(__name__)


class Condition(str, Enum):
    """What the galleries are searched with."""

    alone = "alone"
    distractors = "distractors"


def add_commands(app: typer.Typer) -> None:
    """Add the command to ``delg eval``."""
    app.command("methods")(methods)


def methods(
    plan: Annotated[
        Path, typer.Argument(metavar="PLAN", help="YAML file that names benchmarks and methods.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for indexes, runs and tables.")],
    distractors: Distractors = None,
    benchmark: Annotated[
        list[str] | None, typer.Option(help="Measure only on this one; may be repeated.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Measure only this one; may be repeated.")
    ] = None,
    condition: Annotated[
        list[Condition] | None, typer.Option(help="Measure only this; may be repeated.")
    ] = None,
    orientations: OrientationsOption = Orientations.auto,
    model: Model = None,
    config: Config = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Measure again what is complete.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure methods on several benchmarks, each gallery alone and among distractors."""
    overrides = read_config(config)
    from delg.types import Failure
    from eval.methods.measure import MethodsConfig, measure
    from eval.methods.plan import read_plan
    from eval.methods.report import PAGE_FILE, condition_title, write_methods
    from eval.methods.table import as_json as measurement_json
    from eval.methods.table import tables

    chosen = read_plan(plan).select(benchmark or (), method or ())
    settings = MethodsConfig(
        out=out,
        model=model,
        overrides=overrides,
        distractors=distractors,
        conditions=[each.value for each in condition or Condition],
        orientations=orientations.value,
        overwrite=overwrite,
    )
    if condition == [Condition.distractors] and distractors is None:
        raise UsageError("--condition distractors needs --distractors")
    measurements = []
    for measurement in measure(chosen, settings, progress):
        measurements.append(measurement)
        # Whatever is known is on disk, should the rest take too long.
        write_methods(out, measurements)
        if as_json:
            print_json(measurement_json(measurement))
    if not as_json:
        for part in tables(measurements):
            print_result(condition_title(part.condition))
            table(part.columns, part.rows)
            print_result("")
    log.info("page written: %s", out / PAGE_FILE)
    failed: dict[str, str] = {}
    for measurement in measurements:
        failed |= measurement.run.metadata["failed_gallery"]
        failed |= measurement.run.metadata["failed_queries"]
    report_failures(Failure(query, reason) for query, reason in failed.items())
    if failed:
        raise typer.Exit(PARTLY)
