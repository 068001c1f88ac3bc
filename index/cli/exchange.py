"""``delg export`` and ``delg index import``: features to and from other tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delg.cli.console import plural, progress, put, report_failures, say
from delg.cli.options import FAILED, PARTLY, AsJson, Config
from delg.errors import ModelError, UsageError
from index.cli.options import IndexDir, open_index

if TYPE_CHECKING:
    from index.image_index import ImageIndex

Format = Annotated[
    str | None,
    typer.Option("--format", help="delg, hloc, colmap, npz or hdf5; else as the name tells."),
]


def export(
    index: IndexDir,
    kind: Annotated[str, typer.Option("--format", help="delg, hloc, colmap, npz or hdf5.")],
    out: Annotated[Path, typer.Option(help="Folder (delg, colmap) or file to write.")],
) -> None:
    """Write an index's features for other tools, as they are stored."""
    images = open_index(index)
    with progress("photos") as report:
        count = images.export(out, kind, report)
    codec = images.settings.store.local_codec
    if codec != "float32":
        say(
            f"note: {index} stores local descriptors rounded (store.local_codec: {codec}), and so "
            "they are written; an index built with float32 holds them as the model gave them"
        )
    put(f"features of {plural(count, 'photo')} in {out}")


def index_import(
    sources: Annotated[list[Path], typer.Argument(help="Feature files, or folders of them.")],
    index: IndexDir,
    kind: Format = None,
    photos: Annotated[
        list[Path] | None, typer.Option(help="Folder of the photos: their sizes, and to draw.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="What made the features; needed if the files do not say.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Put features made elsewhere into an index."""
    images = _opened(index, sources, kind, model, config)
    with progress("photos") as report:
        done = images.import_from(sources, kind, photos or (), report)
    if as_json:
        failed = [{"id": one.path, "reason": one.reason} for one in done.failed]
        put(json.dumps({**vars(done), "failed": failed, "images": len(images)}))
    else:
        report_failures(done.failed)
        if done.guessed:
            say(
                f"note: nothing says how large {plural(done.guessed, 'photo')} are; the furthest "
                "keypoint stands for it (give --photos)"
            )
        put(
            f"{plural(done.added, 'photo')} added, {len(done.failed):,} failed; "
            f"{plural(len(images), 'photo')} in {index}, features of {images.kind.model}"
        )
    if done.failed:
        raise typer.Exit(PARTLY if done.added else FAILED)


def _opened(
    index: Path, sources: list[Path], kind: str | None, model: str | None, config: Path | None
) -> ImageIndex:
    """The index to import into, made if there is none."""
    from delg.settings import parse, read_yaml
    from index import ImageIndex, IndexSettings
    from index.formats import read
    from index.formats.exchange import first_kind

    if ImageIndex.exists(index):
        images = open_index(index, config)
        if model not in (None, images.kind.model):
            raise UsageError(
                f"{index} holds features of {images.kind.model}, not of {model}: "
                "import into another index"
            )
        return images
    origin, _ = read(sources, kind)
    name = model or origin.model
    if not name:
        raise UsageError(f"{sources[0]} does not say what made its features; give --model NAME")
    settings = parse(IndexSettings, read_yaml(config) if config else {}, str(config))
    found = first_kind(sources, kind, name)
    if _is_here(name, None if model else origin.fingerprint):
        images = ImageIndex.create(index, name, settings=settings)
        if (images.kind.global_dim, images.kind.local_dim) == (found.global_dim, found.local_dim):
            return images
        raise UsageError(
            f"{sources[0]}: descriptors of {found.global_dim} and {found.local_dim} numbers "
            f"(global and local) are not those of {name}, which has {images.kind.global_dim} and "
            f"{images.kind.local_dim}"
        )
    return ImageIndex.create_for_features(index, found, settings)


def _is_here(name: str, fingerprint: str | None) -> bool:
    """Whether photos can be extracted by the model that made the features."""
    from delg.zoo.registry import find_model

    try:
        files = find_model(name)
        return files.has_weights and fingerprint in (None, files.fingerprint)
    except (ModelError, UsageError):
        return False
