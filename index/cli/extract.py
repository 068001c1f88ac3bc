"""``delg extract``: features for other tools."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delg.cli.console import plural, print_result, progress, report_failures
from delg.cli.options import DEFAULT_MODEL, FAILED, PARTLY, Config, Model, Sources
from index.cli.options import DefaultExcludes, Exclude

if TYPE_CHECKING:
    from delg.types import ImageFeatures

log = logging.getLogger(__name__)


def extract(
    sources: Sources,
    out: Annotated[Path, typer.Option(help="HDF5 file to write.")],
    model: Model = DEFAULT_MODEL,
    config: Config = None,
    exclude: Exclude = None,
    default_excludes: DefaultExcludes = True,
) -> None:
    """Extract features into one HDF5 file, with one group per photo."""
    from delg.images.scan import describe_passed_over, scan
    from delg.settings import ExtractionSettings, read_settings
    from delg.types import Failure
    from delg.zoo.registry import load_model
    from index.formats.feature_file import write_features

    photos, failed, passed_over = scan(sources, "", exclude or (), default_excludes)
    if passed_over:
        log.info("%s", describe_passed_over(passed_over))
    override = read_settings(ExtractionSettings, config) if config else None
    extractor = load_model(model, extraction=override)

    def features() -> Iterator[tuple[str, ImageFeatures]]:
        with progress("photos") as report:
            results = extractor.extract_many([photo.path for photo in photos])
            for number, (photo, result) in enumerate(zip(photos, results, strict=True), 1):
                if isinstance(result, Failure):
                    failed.append(result)
                else:
                    yield photo.id, result
                report(number, len(photos), len(failed))

    count = write_features(out, features(), extractor.name, extractor.fingerprint, failed)
    report_failures(failed)
    print_result(f"features of {plural(count, 'photo')} in {out}")
    if not photos:
        log.info("no photo found in %s", ", ".join(map(str, sources)))
    if failed or not photos:
        raise typer.Exit(PARTLY if count or not failed else FAILED)
