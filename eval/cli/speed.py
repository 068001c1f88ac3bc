"""``delg eval speed``, and what it has commands of their own for: shards and sources."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from delg.cli.console import print_json, print_result, table
from delg.cli.options import DEFAULT_MODEL, AsJson
from delg.errors import DelgError, UsageError

if TYPE_CHECKING:
    from eval.speed.harness import Measurements, Row

log = logging.getLogger(__name__)
Html = Annotated[Path | None, typer.Option(help="Page to write, with charts of how times grow.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands to ``delg eval``."""
    group = typer.Typer()
    group.callback(invoke_without_command=True)(speed)
    group.command("shards")(shards)
    group.command("growth")(growth)
    group.command("sources")(sources)
    app.add_typer(group, name="speed")


def speed(
    context: typer.Context,
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
    html: Html = None,
    as_json: AsJson = False,
) -> None:
    """Time each stage on this machine, next to reference implementations."""
    if context.invoked_subcommand is not None:
        return
    from eval.speed.harness import measure, stage_names

    if index is not None and not pages:
        raise UsageError("--index: only --pages measures an index of yours")
    names = [*(only or ()), *(stage_names("pages") if pages else ())]
    extras = ("serve",) if serve else ()
    _show(measure(baseline, quick, names, runs, extras, _log_row, index), html, as_json)


def shards(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="An index that is not sharded.")],
    counts: Annotated[
        list[int] | None,
        typer.Option("--shards", min=1, help="Number of shards; may be repeated. 2, 4 and 8."),
    ] = None,
    queries: Annotated[int, typer.Option(min=1, help="Number of queries.")] = 40,
    photos: Annotated[
        Path | None,
        typer.Option(help="Folder of photos to query with, in place of those of the index."),
    ] = None,
    nodes: Annotated[
        int,
        typer.Option(min=0, help="Nodes of a Ray cluster on this machine that answers as well."),
    ] = 0,
    html: Html = None,
    as_json: AsJson = False,
) -> None:
    """Compare an index with its own shards: whether answers are equal, and what they cost."""
    from eval.speed.harness import Measurements, machine_info
    from eval.speed.shards import ShardBenchmark, compare_shards

    measurements = Measurements(machine=machine_info())
    benchmark = ShardBenchmark(index, counts or (2, 4, 8), queries, photos, nodes)
    with TemporaryDirectory() as folder:
        rows, problems = compare_shards(benchmark, Path(folder))
    measurements.rows.extend(rows)
    _show(measurements, html, as_json)
    if problems:
        raise DelgError("; ".join(problems))


def growth(
    counts: Annotated[
        list[int] | None,
        typer.Option(
            "--shards",
            min=1,
            help="Number of shards; may be repeated. 1, 2, 4 and 8. Each must divide the largest, "
            "of which it takes the first.",
        ),
    ] = None,
    per_shard: Annotated[int, typer.Option(min=1000, help="Photos of each shard.")] = 100_000,
    features: Annotated[int, typer.Option(min=1, help="Local features of each photo.")] = 380,
    lists: Annotated[int | None, typer.Option(min=1, help="shortlist.nlist of the shards.")] = None,
    queries: Annotated[int, typer.Option(min=1, help="Number of queries.")] = 20,
    folder: Annotated[
        Path | None,
        typer.Option(help="Where shards are made and stay, to be searched again."),
    ] = None,
    html: Html = None,
    as_json: AsJson = False,
) -> None:
    """Measure shards of equal size, of synthetic photos: how queries and memory grow."""
    from eval.speed.harness import Measurements, Row, machine_info
    from eval.speed.shard_growth import measure_growth
    from eval.speed.synthetic_shards import SyntheticShards

    chosen = sorted(set(counts or (1, 2, 4, 8)))
    if any(chosen[-1] % count for count in chosen):
        raise UsageError(f"--shards: each must divide the largest, {chosen[-1]}")
    measurements = Measurements(machine=machine_info())
    with TemporaryDirectory() as temporary:
        place = (folder or Path(temporary)) / f"{chosen[-1]}-of-{per_shard}-with-{features}"
        synthetic = SyntheticShards(place, chosen[-1], per_shard, features, lists)
        for result in measure_growth(synthetic, chosen, queries):
            if isinstance(result, Row):
                measurements.rows.append(result)
                _log_row(result)
            else:
                measurements.points.append(result)
    _show(measurements, html, as_json)


def sources(
    places: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE", help="Folders or URLs, mostly of the same photos."),
    ],
    model: Annotated[
        list[str] | None, typer.Option(help="A model's name or folder; may be repeated.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Builds of each.")] = 3,
    html: Html = None,
    as_json: AsJson = False,
) -> None:
    """Compare builds from different places, or with different models: time, memory, bytes."""
    from eval.speed.harness import Measurements, machine_info
    from eval.speed.sources import compare_sources

    models = model or [DEFAULT_MODEL]
    measurements = Measurements(machine=machine_info())
    with TemporaryDirectory() as folder:
        measurements.rows.extend(compare_sources(places, models, Path(folder), runs))
    _show(measurements, html, as_json)


def _log_row(row: Row) -> None:
    from eval.speed.report import cells

    log.info("%s", "  ".join(cells(row)))


def _show(measurements: Measurements, html: Path | None, as_json: bool) -> None:
    from eval.speed.report import COLUMNS, cells, machine_line, write_page

    if html is not None:
        write_page(html, measurements)
        log.info("page written: %s", html)
    if as_json:
        print_json(measurements.as_json())
        return
    print_result(machine_line(measurements.machine))
    table(COLUMNS, [cells(row) for row in measurements.rows])
