"""``delg export`` and ``delg index import``: features to and from other tools."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delg.cli.console import plural, print_json, print_result, progress, report_failures
from delg.cli.options import FAILED, PARTLY, AsJson, Config
from delg.errors import ModelError, UsageError
from delg.paths import as_written, exists
from delg.remote_path import as_location
from index.cli.options import IndexDir, no_blank_index, open_index

if TYPE_CHECKING:
    from delg.types import Failure
    from index.image_index import ImageIndex

log = logging.getLogger(__name__)
Format = Annotated[
    str | None,
    typer.Option(
        "--format", help="delg, hloc, colmap, npz or hdf5; by default told from the file name."
    ),
]


def export(
    index: IndexDir,
    kind: Annotated[str, typer.Option("--format", help="delg, hloc, colmap, npz or hdf5.")],
    out: Annotated[Path, typer.Option(help="Folder (delg, colmap) or file to write.")],
) -> None:
    """Export an index's stored features for other tools."""
    failed: list[Failure] = []
    with open_index(index) as images, progress("photos") as report:
        count = images.export(out, kind, report, failed)
        codec = images.settings.store.local_codec
    if codec != "float32":
        log.info(
            "note: %s stores local descriptors rounded (store.local_codec: %s), and so they are "
            "written; an index built with float32 holds them as the model gave them",
            index, codec,
        )  # fmt: skip
    report_failures(failed)
    print_result(f"features of {plural(count, 'photo')} in {out}")
    if failed:
        raise typer.Exit(PARTLY if count else FAILED)


def index_import(
    sources: Annotated[list[Path], typer.Argument(help="Feature files, or folders of them.")],
    index: IndexDir,
    kind: Format = None,
    photos: Annotated[
        list[Any] | None,
        typer.Option(
            parser=as_location,
            help="Folder or URL of the photos, to read their sizes from and to show them.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Name of the model that made the features, if the files do not give it."),
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Import features made by other tools into an index."""
    missing = [str(folder) for folder in photos or () if not exists(as_written(folder))]
    if missing:
        raise UsageError(f"{', '.join(missing)}: no such folder or file")
    with (
        no_blank_index(index),
        _open_or_create(index, sources, kind, model, config) as images,
    ):
        with progress("photos") as report:
            summary = images.import_from(sources, kind, photos or (), report)
        count, model_name = len(images), images.feature_spec.model
    if as_json:
        failed = [{"id": failure.path, "reason": failure.reason} for failure in summary.failed]
        print_json({**vars(summary), "failed": failed, "images": count})
    else:
        report_failures(summary.failed)
        if summary.guessed:
            log.info(
                "note: the files do not give the size of %s; it is taken from the outermost "
                "keypoint (give --photos to read it from the photos)",
                plural(summary.guessed, "photo"),
            )
        print_result(
            f"{plural(summary.added, 'photo')} added, {len(summary.failed):,} failed; "
            f"{plural(count, 'photo')} in {index}, features of {model_name}"
        )
    if summary.failed:
        raise typer.Exit(PARTLY if summary.added else FAILED)


def _open_or_create(
    index: Path, sources: list[Path], kind: str | None, model: str | None, config: Path | None
) -> ImageIndex:
    """The index to import into; created if there is none."""
    from delg.settings import parse, read_yaml
    from delg.zoo.registry import shipped_models
    from index import ImageIndex, IndexSettings
    from index.formats import read
    from index.formats.exchange import read_spec

    if ImageIndex.exists(index):
        images = open_index(index, config)
        if model not in (None, images.feature_spec.model):
            raise UsageError(
                f"{index} holds features of {images.feature_spec.model}, not of {model}: "
                "import into another index"
            )
        return images
    source, _ = read(sources, kind)
    name = model or source.model
    if not name:
        raise UsageError(
            f"{sources[0]} does not say which model made its features; give --model NAME"
        )
    settings = parse(IndexSettings, read_yaml(config) if config else {}, str(config))
    spec = read_spec(sources, kind, name)
    fingerprint = None if model else source.fingerprint
    # A file cannot choose a folder to load a model from.
    is_named = model is not None or name in shipped_models()
    if is_named and _is_installed(name, fingerprint):
        images = ImageIndex.create(index, name, settings=settings, fingerprint=fingerprint)
        if images.feature_spec.widths == spec.widths:
            return images
        raise UsageError(
            f"{sources[0]}: descriptors of {spec.global_dim} and {spec.local_dim} numbers "
            f"(global and local) are not those of {name}, which has "
            "{} and {}".format(*images.feature_spec.widths)
        )
    return ImageIndex.create_for_features(index, spec, settings)


def _is_installed(name: str, fingerprint: str | None) -> bool:
    """Whether photos can be extracted by the model that made the features."""
    from delg.zoo.registry import find_model

    try:
        files = find_model(name, fingerprint=fingerprint)
        return files.has_weights and (fingerprint is None or fingerprint in files.comparable)
    except (ModelError, UsageError):
        return False
