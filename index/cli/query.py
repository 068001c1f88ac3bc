"""``delg query``: find the photos that show the same thing."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delg.cli.console import plural, progress, report_failures
from delg.cli.options import FAILED, PARTLY, AsJson, Config
from delg.cli.streams import answer_is_lost
from delg.errors import UsageError
from delg.files import make_folder
from delg.paths import is_folder
from delg.remote_path import Location, RemotePath, as_location, is_url
from index.cli.options import (
    IndexDir,
    NamedModel,
    Orientations,
    Ray,
    naming_missing_shards,
    open_index,
)
from index.cli.query_output import Output, print_failure, print_hits, print_summary

if TYPE_CHECKING:
    from delg.types import Box, Failure, ImageFeatures
    from index.answers.region_boxes import RegionBoxes
    from index.image_index import ImageIndex
    from index.results import QueryResult
    from index.search.search import QueryOptions


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Query:
    """A query: its name for people, and what it searches with: a photo and boxes in it, or an id of
    the index."""

    name: str
    photo: Location | None = None
    id: str | None = None
    regions: Sequence[Box] | None = None

    def source(self, images: ImageIndex) -> Location | ImageFeatures:
        return self.photo if self.photo is not None else images.features(self.id or "")

    def ask(self, images: ImageIndex, box: Box | None, options: QueryOptions) -> QueryResult:
        if self.photo is not None:
            with_regions: QueryOptions = {**options, "regions": self.regions}
            return images.query(self.photo, box=box, **with_regions)
        return images.more_like(self.id or "", **options)


def _parse_box(text: str | None) -> Box | None:
    if text is None:
        return None
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--box {text}: expected X,Y,WIDTH,HEIGHT in pixels") from None
    if not all(map(math.isfinite, (x, y, width, height))):
        raise UsageError(f"--box {text}: expected four finite numbers")
    if width <= 0 or height <= 0:
        raise UsageError(f"--box {text}: width and height must be positive")
    return x, y, width, height


def _read_regions(path: Path | None) -> RegionBoxes | None:
    if path is None:
        return None
    from index.answers.region_boxes import read_region_boxes

    return read_region_boxes(path)


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
    region = _parse_box(box)
    boxes = _read_regions(regions)
    with open_index(index, config, model, ray) as images, naming_missing_shards(images):
        if seconds is not None:
            images.configure({"ranking": {"seconds": seconds}}, "--time")
        if features:
            if any(map(is_url, photos or [])):
                raise UsageError("--features needs files on this machine, not URLs")
            _query_features(images, photos or [], index, options, output)
            return
        queries, failed = _list_queries(photos or [], like or [])
        if boxes is not None:
            queries = [replace(each, regions=boxes.of(each.name)) for each in queries]
        if together:
            _query_together(images, queries, minus or [], index, options, output, failed)
            return
        if csv is not None:
            _fill_table(images, csv, queries, region, options, failed)
            return
        _query_each(images, queries, index, region, options, output, failed, draw, html)


def _output(answer: bool, as_json: bool, paths: bool, csv: Path | None) -> Output:
    if as_json + paths + (csv is not None) > 1 or (answer and paths):
        raise UsageError("choose one of --answer, --json, --paths and --csv")
    if as_json:
        return Output.json
    if paths:
        return Output.paths
    return Output.answer if answer else Output.table


def _list_queries(
    photos: Sequence[Location], ids: Sequence[str]
) -> tuple[list[_Query], list[Failure]]:
    """What to search with, in the order named; photos in folders by name."""
    from delg.images.scan import scan
    from delg.types import Failure

    queries, failed = [], []
    for photo in photos:
        if not _holds_photos(photo):
            queries.append(_Query(str(photo), photo))
            continue
        listing = scan([photo])
        failed += listing.failures
        if not listing.photos and not listing.failures:
            failed.append(Failure(str(photo), "holds no photos"))
        queries += [_Query(str(photo / each.id), each.path) for each in listing.photos]
    queries += [_Query(image_id, id=image_id) for image_id in ids]
    return queries, failed


def _holds_photos(place: Location) -> bool:
    """Whether it is a folder; URLs that end like those of photos are not looked at."""
    from delg.images.decode import SUFFIXES

    if isinstance(place, RemotePath):
        return not place.name.lower().endswith(SUFFIXES)
    return is_folder(place)


def _query_each(
    images: ImageIndex,
    queries: Sequence[_Query],
    index: Path,
    box: Box | None,
    options: QueryOptions,
    output: Output,
    failed: list[Failure],
    draw: Path | None,
    html: Path | None,
) -> None:
    from delg.images.decode import ImageError
    from delg.types import Failure

    names = _UniqueNames()
    results: list[tuple[Location, QueryResult]] = []
    answered = 0
    for failure in failed:
        print_failure(failure, output)
    for each in queries:
        if answer_is_lost() and draw is None and html is None:
            break
        try:
            result = each.ask(images, box, options)
        except ImageError as error:
            failed.append(Failure(each.name, str(error)))
            print_failure(failed[-1], output)
            continue
        answered += 1
        print_hits(each.name, index, result, output)
        if each.photo is not None and html is not None:
            results.append((each.photo, result))
        if each.photo is not None and draw is not None:
            _draw_hits(draw, names.of(each.photo), each.photo, result)
    if html is not None and results:
        _write_page(html, results)
    _finish(failed, answered)


def _query_together(
    images: ImageIndex,
    queries: Sequence[_Query],
    minus: Sequence[Location],
    index: Path,
    options: QueryOptions,
    output: Output,
    failed: list[Failure],
) -> None:
    """Query with all photos as one; those that cannot be used are left out."""
    plus = _usable(images, queries, failed)
    against = _usable(images, [_Query(str(photo), photo) for photo in minus], failed)
    if plus:
        chosen: QueryOptions = {**options, "without": {each.id for each in plus if each.id}}
        result = images.query_together(
            [each.source(images) for each in plus],
            [each.source(images) for each in against],
            **chosen,
        )
        name = " + ".join(each.name for each in plus)
        name += "".join(f" − {each.name}" for each in against)
        print_hits(name, index, result, output)
    _finish(failed, len(plus))


def _usable(images: ImageIndex, queries: Sequence[_Query], failed: list[Failure]) -> list[_Query]:
    """Those whose photos can be decoded; the others are appended to ``failed``."""
    from delg.images.decode import ImageError, decode
    from delg.types import Failure

    usable = []
    for each in queries:
        try:
            if each.photo is not None:
                decode(each.photo, images.settings.images)
            usable.append(each)
        except ImageError as error:
            failed.append(Failure(each.name, str(error)))
    return usable


def _fill_table(
    images: ImageIndex,
    path: Path,
    queries: Sequence[_Query],
    box: Box | None,
    options: QueryOptions,
    failed: list[Failure],
) -> None:
    """Write a row for each query that the table does not answer yet."""
    from delg.images.decode import ImageError
    from delg.types import Failure
    from index.answers.answer_table import AnswerFile, answer_row, columns_for, failure_row

    keys = [key for key, _ in images.counts()["metadata"]]
    table = AnswerFile(path, columns_for(sorted(keys)))
    remaining = [each for each in queries if each.name not in table.answered]
    if len(remaining) < len(queries):
        log.info(
            "%s has answers to %s already; delete it to ask again",
            path, plural(len(queries) - len(remaining), "photo"),
        )  # fmt: skip
    verdicts: list[str] = []
    with table.writing(), progress("querying") as report:
        for failure in failed:
            table.write(failure_row(failure.path, failure.reason))
        for done, each in enumerate(remaining, 1):
            try:
                result = each.ask(images, box, options)
            except ImageError as error:
                failed.append(Failure(each.name, str(error)))
                table.write(failure_row(each.name, str(error)))
            else:
                verdicts.append(result.answer().verdict)
                table.write(answer_row(each.name, result))
            report(done, len(remaining), len(failed))
    print_summary(path, verdicts, len(failed))
    _finish(failed, len(queries) - len(remaining) + len(verdicts))


def _query_features(
    images: ImageIndex, files: list[Path], index: Path, options: QueryOptions, output: Output
) -> None:
    """Query with the features of every photo in the files; each query is named by its id."""
    from delg.types import Failure
    from index.formats import read
    from index.formats.exchange import as_image_features
    from index.formats.parsed import BadFeaturesError
    from index.formats.pyramid_scales import with_pyramid_scales

    failed, answered = [], 0
    for parsed in with_pyramid_scales(read(files)[1], images.pyramid, str(files[0])):
        if answer_is_lost():
            break
        if isinstance(parsed, Failure):
            failed.append(parsed)
            continue
        try:
            features = as_image_features(parsed, images.feature_spec)
        except BadFeaturesError as error:
            failed.append(Failure(parsed.id, str(error)))
            continue
        print_hits(parsed.id, index, images.search(features).hits(**options), output)
        answered += 1
    _finish(failed, answered)


def _finish(failed: Sequence[Failure], answered: int) -> None:
    report_failures(failed)
    if failed:
        raise typer.Exit(PARTLY if answered else FAILED)


class _UniqueNames:
    """Gives each query a name for its drawings, even if two files have the same name."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def of(self, photo: Location) -> str:
        name = next(
            name
            for name in (photo.stem if n == 1 else f"{photo.stem}~{n}" for n in count(1))
            if name not in self._used
        )
        self._used.add(name)
        return name


def _draw_hits(folder: Path, query: str, photo: Location, result: QueryResult) -> None:
    from delg.images.decode import ImageError, decode
    from index.visualize.draw_matches import draw_matches, save_drawing

    pixels = decode(photo)
    make_folder(folder)
    for hit in result:
        if not hit.inliers:
            continue
        try:
            other = decode(hit.path)
        except ImageError as error:
            log.info("not drawn: %s: %s", hit.path, error)
            continue
        name = f"{query}-{hit.rank:02d}-{Path(hit.id).stem}.jpg"
        save_drawing(
            folder / name,
            draw_matches(pixels, other, hit.query_points, hit.points, box=result.box),
        )


def _write_page(path: Path, results: Iterable[tuple[Location, QueryResult]]) -> None:
    from delg.images.decode import decode
    from index.visualize.html_report import write_html_report

    write_html_report(path, ((str(photo), decode(photo), result) for photo, result in results))
    log.info("page written: %s", path)
