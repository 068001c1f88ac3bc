"""``delg query`` and ``delg match``: find a photo, or compare two."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delg.cli.console import plural, print_json, print_result, report_failures, table
from delg.cli.options import DEFAULT_MODEL, FAILED, PARTLY, AsJson, Config, Model
from delg.cli.streams import answer_is_lost
from delg.errors import DelgError, UsageError
from delg.files import make_folder
from index.cli.options import IndexDir, NamedModel, Orientations, open_index

if TYPE_CHECKING:
    from delg.types import Box, Failure
    from index.image_index import ImageIndex
    from index.results import Hit, QueryResult


log = logging.getLogger(__name__)


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


def query(
    photos: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Photos to search with.")],
    index: IndexDir,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of results.")] = 10,
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
    as_json: AsJson = False,
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
) -> None:
    """Find the photos of an index that show the same thing as a photo."""
    from delg.images.decode import ImageError
    from delg.types import Failure

    if features:
        if box or draw or html:
            raise UsageError("--box, --draw and --html need photos; leave --features out")
        with open_index(index, config, model) as images:
            _limit_time(images, seconds)
            _query_features(images, photos, index, k, rerank, as_json)
        return
    region = _parse_box(box)
    names = _UniqueNames()
    results: list[tuple[Path, QueryResult]] = []
    failed: list[Failure] = []
    with open_index(index, config, model) as images:
        _limit_time(images, seconds)
        for photo in photos:
            if answer_is_lost() and draw is None and html is None:
                break
            try:
                result = images.query(photo, k, rerank, region, orientations.value)
            except ImageError as error:
                failed.append(Failure(str(photo), str(error)))
                if as_json:
                    print_json({"query": str(photo), "error": str(error), "hits": []})
                continue
            results.append((photo, result))
            _print_hits(photo, index, result, as_json)
            if draw is not None:
                _draw_hits(draw, names.of(photo), photo, result)
    if html is not None and results:
        _write_page(html, results)
    report_failures(failed)
    if failed:
        raise typer.Exit(PARTLY if results else FAILED)


def _limit_time(images: ImageIndex, seconds: float | None) -> None:
    if seconds is not None:
        images.configure({"ranking": {"seconds": seconds}}, "--time")


def _query_features(
    images: ImageIndex, files: list[Path], index: Path, k: int, rerank: int | None, as_json: bool
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
        result = images.query_features(features, k, rerank)
        _print_hits(Path(parsed.id), index, result, as_json)
        answered += 1
    report_failures(failed)
    if failed:
        raise typer.Exit(PARTLY if answered else FAILED)


def _print_hits(photo: Path, index: Path, result: QueryResult, as_json: bool) -> None:
    if as_json:
        print_json(result.as_json(str(photo), str(index)))
        return
    rotation = f", rotated by {result.orientation}°" if result.orientation else ""
    total = sum(result.timing_ms.values())
    print_result(f"{photo}{rotation} ({total:.0f} ms)")
    table(
        ["rank", "score", "probability", "similarity", "inliers", "", "id", "label"],
        [_hit_row(hit) for hit in result],
    )


def _hit_row(hit: Hit) -> list[str]:
    verified = "verified" if hit.verified else ""
    return [
        str(hit.rank), f"{hit.score:.3f}", hit.percent, f"{hit.similarity:.3f}",
        str(hit.inliers), verified, hit.id, hit.label or "",
    ]  # fmt: skip


class _UniqueNames:
    """Gives each query a name for its drawings, even if two files have the same name."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def of(self, photo: Path) -> str:
        name = next(
            name
            for name in (photo.stem if n == 1 else f"{photo.stem}~{n}" for n in count(1))
            if name not in self._used
        )
        self._used.add(name)
        return name


def _draw_hits(folder: Path, query: str, photo: Path, result: QueryResult) -> None:
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


def _write_page(path: Path, results: Iterable[tuple[Path, QueryResult]]) -> None:
    from delg.images.decode import decode
    from index.visualize.html_report import write_html_report

    write_html_report(path, ((str(photo), decode(photo), result) for photo, result in results))
    log.info("page written: %s", path)


def match(
    a: Annotated[Path, typer.Argument(metavar="A", help="One photo.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another photo.")],
    model: Model = DEFAULT_MODEL,
    config: Config = None,
    as_json: AsJson = False,
    draw: Annotated[
        Path | None, typer.Option(help="PNG or JPEG file to draw the matching points into.")
    ] = None,
) -> None:
    """Match two photos and verify that they show the same thing."""
    from delg.images.decode import ImageError, decode
    from delg.settings import parse, read_yaml
    from delg.zoo.registry import find_model, load_model
    from index import IndexSettings
    from index.results import as_percent
    from index.verification.calibration import read_calibration
    from index.verification.match_photos import match_photos

    settings = parse(IndexSettings, read_yaml(config) if config else {}, str(config))
    files = find_model(model)
    extractor = load_model(model, extraction=settings.extraction, images=settings.images)
    settings = settings.of_model(extractor.settings)
    pixels = []
    for photo in (a, b):
        try:
            pixels.append(decode(photo, settings.images))
        except ImageError as error:
            raise DelgError(f"{photo}: {error}") from None
    features_b = extractor.extract(pixels[1])
    calibration = read_calibration(files.calibration)
    pair = match_photos(extractor, pixels[0], features_b, settings, calibration)
    features_a, verification = pair.query, pair.verification
    similarity = float(features_a.global_descriptor @ features_b.global_descriptor)
    points_a, points_b = (
        features.local.keypoints[verification.matches[:, column]]
        for column, features in enumerate((features_a, features_b))
    )
    if draw is not None:
        from index.visualize.draw_matches import draw_matches, save_drawing

        save_drawing(draw, draw_matches(pixels[0], pixels[1], points_a, points_b))
    if as_json:
        transform = verification.transform
        values = {
            "a": str(a), "b": str(b), "model": model, "similarity": round(similarity, 6),
            "inliers": verification.inliers, "probability": round(verification.probability, 6),
            "verified": verification.verified,
            "transform": None if transform is None else transform.tolist(),
            "matches": [
                {"a": a_point, "b": b_point}
                for a_point, b_point in zip(points_a.tolist(), points_b.tolist(), strict=True)
            ],
        }  # fmt: skip
        print_json(values)
        return
    verdict = "the same thing, verified" if verification.verified else "not verified"
    print_result(
        f"{verdict}: probability {as_percent(verification.probability)}, "
        f"{plural(verification.inliers, 'inlier')}, similarity {similarity:.3f}"
    )
