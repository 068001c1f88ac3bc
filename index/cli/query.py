"""``delg query`` and ``delg match``: find a photo, or compare two."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delg.cli.console import plural, put, report_failures, say, table
from delg.cli.options import DEFAULT_MODEL, FAILED, PARTLY, AsJson, Config, Model
from delg.errors import DelgError, UsageError
from delg.types import Box, Failure
from index.cli.options import IndexDir, Orientations, open_index

if TYPE_CHECKING:
    from index.image_index import ImageIndex
    from index.results import Hit, QueryResult


def _box(text: str | None) -> Box | None:
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


def query(
    photos: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Photos to look for.")],
    index: IndexDir,
    k: Annotated[int, typer.Option("-k", min=1, help="Hits wanted.")] = 10,
    rerank: Annotated[
        int | None, typer.Option(min=0, help="Candidates to verify; 0 is global-only.")
    ] = None,
    box: Annotated[str | None, typer.Option(help="Look only at X,Y,WIDTH,HEIGHT.")] = None,
    orientations: Annotated[
        Orientations, typer.Option(help="auto turns the query only if nothing is verified.")
    ] = Orientations.auto,
    config: Config = None,
    as_json: AsJson = False,
    draw: Annotated[Path | None, typer.Option(help="Folder for drawings of the matches.")] = None,
    html: Annotated[Path | None, typer.Option(help="One page with hits and matches.")] = None,
    features: Annotated[
        bool, typer.Option("--features", help="IMAGE… are feature files of the index's kind.")
    ] = False,
) -> None:
    """Find the photos of the same thing."""
    from delg.images.decode import ImageError

    images = open_index(index, config)
    if features:
        if box or draw or html:
            raise UsageError("--box, --draw and --html need photos; leave --features out")
        _query_features(images, photos, index, k, rerank, as_json)
        return
    region = _box(box)
    names = _Names()
    found: list[tuple[Path, QueryResult]] = []
    failed: list[Failure] = []
    for photo in photos:
        try:
            result = images.query(photo, k, rerank, region, orientations.value)
        except ImageError as error:
            failed.append(Failure(str(photo), str(error)))
            if as_json:
                put(json.dumps({"query": str(photo), "error": str(error), "hits": []}))
            continue
        found.append((photo, result))
        _print_hits(photo, index, result, as_json)
        if draw is not None:
            _draw_hits(draw, names.of(photo), photo, result)
    if html is not None and found:
        _write_page(html, found)
    report_failures(failed)
    if failed:
        raise typer.Exit(PARTLY if found else FAILED)


def _query_features(
    images: ImageIndex, files: list[Path], index: Path, k: int, rerank: int | None, as_json: bool
) -> None:
    """Query with every photo's features in the files; a query is called by its id."""
    from index.formats import read
    from index.formats.exchange import as_features
    from index.formats.parsed import BadFeaturesError

    failed, answered = [], 0
    for one in read(files)[1]:
        if isinstance(one, Failure):
            failed.append(one)
            continue
        try:
            features = as_features(one, images.kind)
        except BadFeaturesError as error:
            failed.append(Failure(one.id, str(error)))
            continue
        result = images.query_features(features, k, rerank)
        _print_hits(Path(one.id), index, result, as_json)
        answered += 1
    report_failures(failed)
    if failed:
        raise typer.Exit(PARTLY if answered else FAILED)


def _print_hits(photo: Path, index: Path, result: QueryResult, as_json: bool) -> None:
    if as_json:
        put(json.dumps(result.as_json(str(photo), str(index))))
        return
    turned = f", turned by {result.orientation}°" if result.orientation else ""
    total = sum(result.timing_ms.values())
    put(f"{photo}{turned} ({total:.0f} ms)")
    table(
        ["rank", "score", "similarity", "inliers", "", "id", "label"],
        [_hit_row(hit) for hit in result],
    )


def _hit_row(hit: Hit) -> list[str]:
    verified = "verified" if hit.verified else ""
    return [
        str(hit.rank), f"{hit.score:.3f}", f"{hit.similarity:.3f}", str(hit.inliers), verified,
        hit.id, hit.label or "",
    ]  # fmt: skip


class _Names:
    """A name for the drawings of each query, though files in different folders are named alike."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def of(self, photo: Path) -> str:
        name = next(
            name
            for name in (photo.stem if n == 1 else f"{photo.stem}~{n}" for n in count(1))
            if name not in self._given
        )
        self._given.add(name)
        return name


def _draw_hits(folder: Path, query: str, photo: Path, result: QueryResult) -> None:
    from delg.images.decode import ImageError, decode
    from index.visualize.draw_matches import draw_matches, save_drawing

    pixels = decode(photo)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DelgError(f"{folder}: cannot be made: {error.strerror}") from None
    for hit in result:
        if not hit.inliers:
            continue
        try:
            other = decode(hit.path)
        except ImageError as error:
            say(f"not drawn: {hit.path}: {error}")
            continue
        name = f"{query}-{hit.rank:02d}-{Path(hit.id).stem}.jpg"
        save_drawing(
            folder / name,
            draw_matches(pixels, other, hit.query_points, hit.points, box=result.box),
        )


def _write_page(path: Path, found: Iterable[tuple[Path, QueryResult]]) -> None:
    from delg.images.decode import decode
    from index.visualize.html_report import write_page

    write_page(path, ((str(photo), decode(photo), result) for photo, result in found))
    say(f"page written: {path}")


def match(
    a: Annotated[Path, typer.Argument(metavar="A")],
    b: Annotated[Path, typer.Argument(metavar="B")],
    model: Model = DEFAULT_MODEL,
    config: Config = None,
    as_json: AsJson = False,
    draw: Annotated[Path | None, typer.Option(help="Picture of the matches to write.")] = None,
) -> None:
    """Match two photos and verify the matches."""
    from delg.images.decode import ImageError, decode
    from delg.settings import parse, read_yaml
    from delg.zoo.registry import load_model
    from index import IndexSettings
    from index.verification.match_photos import match_photos

    settings = parse(IndexSettings, read_yaml(config) if config else {}, str(config))
    extractor = load_model(model, extraction=settings.extraction, images=settings.images)
    settings = settings.of_model(extractor.settings)
    pixels = []
    for photo in (a, b):
        try:
            pixels.append(decode(photo, settings.images))
        except ImageError as error:
            raise DelgError(f"{photo}: {error}") from None
    other = extractor.extract(pixels[1])
    sighting = match_photos(extractor, pixels[0], other, settings)
    found, seen = sighting.verification, (sighting.query, other)
    similarity = float(seen[0].global_descriptor @ other.global_descriptor)
    points = [seen[i].local.keypoints[found.matches[:, i]] for i in (0, 1)]
    if draw is not None:
        from index.visualize.draw_matches import draw_matches, save_drawing

        save_drawing(draw, draw_matches(pixels[0], pixels[1], points[0], points[1]))
    if as_json:
        values = {
            "a": str(a), "b": str(b), "model": model, "similarity": round(similarity, 6),
            "inliers": found.inliers, "verified": found.verified,
            "transform": None if found.transform is None else found.transform.tolist(),
            "matches": [
                {"a": one.tolist(), "b": other.tolist()}
                for one, other in zip(points[0], points[1], strict=True)
            ],
        }  # fmt: skip
        put(json.dumps(values))
        return
    verdict = "the same thing, verified" if found.verified else "not verified"
    put(f"{verdict}: {plural(found.inliers, 'inlier')}, similarity {similarity:.3f}")
