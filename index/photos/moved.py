"""Photos that were moved or renamed, followed by their bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from delg.files import file_sha256
from delg.images.scan import Photo
from delg.paths import presence
from index.photos.file_state import FileState
from index.storage.catalog import Catalog
from index.storage.catalog_tables import ImageRow

# A photo to extract, and what the index knows under its id.
Entry = tuple[Photo, ImageRow | None]


@dataclass(frozen=True)
class Moves:
    """Images that have another id now.

    Attributes:
        rows: new id -> the image as it was.
        displaced: images under one of these ids whose photo is nowhere any more.
        renumbered: ids whose image went to an id that was in use: a photo found there now is
            another one.
    """

    rows: dict[str, ImageRow]
    displaced: list[ImageRow]
    renumbered: set[str]


def follow(catalog: Catalog, entries: Sequence[Entry]) -> Moves:
    """Find those photos of ``entries`` that the index has under other ids, whose own files are
    gone or have other bytes now. Only files of the same size are read.

    Args:
        catalog: of the index.
        entries: photos that are new, or whose bytes are not those in the index.
    """
    by_size: dict[int, list[Entry]] = defaultdict(list)
    for photo, row in entries:
        try:
            by_size[FileState.of(photo).size].append((photo, row))
        except OSError:
            continue  # Said where it is extracted.
    changed = {row.id for _, row in entries if row is not None}
    free = _free_rows(catalog, by_size.keys(), changed)
    rows: dict[str, ImageRow] = {}
    for size, same_size in by_size.items():
        if not free[size]:
            continue
        for photo, row in same_size:
            match = _match(photo, row, free[size])
            if match is not None:
                rows[photo.id] = match
    moved = {row.id for row in rows.values()}
    present = [row for photo, row in entries if photo.id in rows and row is not None]
    used = {row.id for row in present}
    return Moves(
        rows,
        displaced=[row for row in present if row.id not in moved],
        renumbered={row.id for new, row in rows.items() if new in used},
    )


def _free_rows(
    catalog: Catalog, sizes: Collection[int], changed: Collection[str]
) -> dict[int, list[ImageRow]]:
    """By size, the images whose file is gone or has other bytes."""
    free: dict[int, list[ImageRow]] = defaultdict(list)
    for image_id in catalog.ids_of_sizes(sizes):
        row = catalog.by_id(image_id)
        if row is None or not row.sha256 or not row.path:
            continue
        if row.id in changed or presence(row.path).kind == "absent":
            free[row.size].append(row)
    return free


def _match(photo: Photo, row: ImageRow | None, free: list[ImageRow]) -> ImageRow | None:
    """Take the image with the photo's bytes, if there is one; of several, the one of its name."""
    try:
        digest = file_sha256(photo.path)
    except OSError:
        return None
    same = [image for image in free if image.sha256 == digest]
    if not same or (row is not None and row.sha256 == digest):
        return None
    name = PurePosixPath(photo.id).name
    match = min(same, key=lambda image: (PurePosixPath(image.id).name != name, image.id))
    free.remove(match)
    return match
