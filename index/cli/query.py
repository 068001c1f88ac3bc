"""``delg query``: find the photos that show the same thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delg.cli.options import AsJson, Config
from delg.errors import UsageError
from delg.remote_path import Location, as_location, is_url
from index.cli.options import (
    IndexDir,
    NamedModel,
    Orientations,
    Ray,
    naming_missing_shards,
    open_index,
)
from index.cli.queries import list_queries
from index.cli.query_output import Output
from index.cli.query_run import QueryRun

if TYPE_CHECKING:
    from delg.types import Box
    from index.answers.region_boxes import RegionBoxes
    from index.search.search import QueryOptions


def query(
    index: IndexDir,
    photos: Annotated[
        list[Any] | None,
        typer.Argument(
            metavar="IMAGE|FOLDER",
            parser=as_location,
            help="Photos to search with, or folders of them; also URLs (s3://, https:// …).",
        ),
    ] = None,
    like: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Search with this photo of the index; repeatable."),
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="All photos show one thing: one query, one answer.")
    ] = False,
    minus: Annotated[
        list[Any] | None,
        typer.Option(
            metavar="IMAGE",
            parser=as_location,
            help="With --together: a photo of what it is not; repeatable.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of results.")] = 10,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Search only among photos with this label (label=…) or metadata; repeatable. "
            "Values of one key are alternatives, and all keys must fit.",
        ),
    ] = None,
    min_probability: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out results that are less probable.")
    ] = 0.0,
    verified_only: Annotated[
        bool, typer.Option("--verified-only", help="Leave out results that are not verified.")
    ] = False,
    rerank: Annotated[
        int | None,
        typer.Option(
            min=0, help="Number of candidates to verify; 0 ranks by the global descriptor alone."
        ),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(help="Search with this part of the photo only: X,Y,WIDTH,HEIGHT in pixels."),
    ] = None,
    regions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Boxes to search with besides the whole photo, as a detector finds them: CSV with "
            "columns image,x,y,width,height, or JSON. Without it, parts that stand out.",
        ),
    ] = None,
    orientations: Annotated[
        Orientations,
        typer.Option(
            help="1: upright; 4: all quarter turns; auto: all if nothing is verified upright."
        ),
    ] = Orientations.auto,
    model: NamedModel = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--time",
            metavar="SECONDS",
            help="While nothing is verified, go on to further candidates until then, per query.",
        ),
    ] = None,
    config: Config = None,
    answer: Annotated[
        bool, typer.Option("--answer", help="Print only what each photo shows, in one line.")
    ] = False,
    as_json: AsJson = False,
    paths: Annotated[
        bool, typer.Option("--paths", help="Print only the paths of the results, one per line.")
    ] = False,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write one row per query with its answer; run again, it adds those that lack.",
        ),
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(help="Folder for drawings of the matching points.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="HTML file to write, with all results and matches.")
    ] = None,
    features: Annotated[
        bool,
        typer.Option(
            "--features", help="Query with feature files of the index's model, not photos."
        ),
    ] = False,
    ray: Ray = None,
) -> None:
    """Find the photos of an index that show the same thing as a photo."""
    output = _output(answer, as_json, paths, csv)
    options: QueryOptions = {
        "k": k, "rerank": rerank, "where": where or (), "min_probability": min_probability,
        "verified_only": verified_only, "orientations": orientations.value,
    }  # fmt: skip
    if not photos and not like:
        raise UsageError("name a photo to search with, or --like ID for one of the index")
    if minus and not together:
        raise UsageError("--minus needs --together")
    if features and (box or draw or html or like or together or csv):
        raise UsageError(
            "--box, --like, --together, --csv, --draw and --html need photos; leave --features out"
        )
    if (together or like) and (box or draw or html):
        raise UsageError("--box, --draw and --html take single photos, not --together or --like")
    if together and csv:
        raise UsageError("--csv has a row for each photo; leave --together out")
    if regions and (box or features or like or together):
        raise UsageError("--regions takes whole single photos, not --box, --features, --like …")
    region = None if box is None else _read_box(box)
    boxes = None if regions is None else _read_regions(regions)
    with open_index(index, config, model, ray) as images, naming_missing_shards(images):
        if seconds is not None:
            images.configure({"ranking": {"seconds": seconds}}, "--time")
        if features:
            QueryRun(images, index, options, output, []).query_features(_local_files(photos or []))
            return
        queries, failed = list_queries(photos or [], like or [])
        if boxes is not None:
            queries = [replace(each, regions=boxes.of(each.name)) for each in queries]
        run = QueryRun(images, index, options, output, failed)
        if together:
            run.query_together(queries, minus or [])
        elif csv is not None:
            run.fill_table(csv, queries, region)
        else:
            run.query_each(queries, region, draw, html)


def _read_box(text: str) -> Box:
    from delg.images.geometry import parse_box

    try:
        return parse_box(text)
    except ValueError as error:
        raise UsageError(f"--box {text}: {error}") from None


def _read_regions(path: Path) -> RegionBoxes:
    from index.answers.region_boxes import read_region_boxes

    return read_region_boxes(path)


def _local_files(photos: Sequence[Location]) -> list[Path]:
    if any(map(is_url, photos)):
        raise UsageError("--features needs files on this machine, not URLs")
    return [Path(str(photo)) for photo in photos]


def _output(answer: bool, as_json: bool, paths: bool, csv: Path | None) -> Output:
    if as_json + paths + (csv is not None) > 1 or (answer and paths):
        raise UsageError("choose one of --answer, --json, --paths and --csv")
    if as_json:
        return Output.json
    if paths:
        return Output.paths
    return Output.answer if answer else Output.table
