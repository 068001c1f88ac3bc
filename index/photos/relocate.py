"""Photos that lie in another folder than when they were added, all of them at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from delg.errors import UsageError
from delg.paths import is_folder, normal_form
from delg.remote_path import Location, RemotePath, is_url, is_web_url
from index.photos.missing import find_missing, source_of
from index.storage.catalog_tables import update_images
from index.storage.store import Store

_SHOWN = 5


@dataclass(frozen=True)
class Relocation:
    """The result of a relocation.

    Attributes:
        moved: number of images whose path is another now.
        absent: ids of those whose file is not at the new path.
    """

    moved: int
    absent: list[str]


def relocate(store: Store, old: str, new: Location, force: bool = False) -> Relocation:
    """Record new paths of photos, after their folder was moved or copied with the index; under the
    store's lock. The index's model is followed too, if it lay there.

    Args:
        store: of the index.
        old: the folder or URL as the index knows it, also a folder of another computer.
        new: the folder or URL where it is now.
        force: do it even if there is no such folder here.

    Raises:
        UsageError: no photo of the index lay in ``old``, or ``new`` is no folder.
    """
    if not force and not (is_folder(new) or is_web_url(str(new))):
        raise UsageError(f"{new}: no such folder; --force records it all the same")
    images = list(store.catalog.images())
    new = new.absolute()
    for former in _forms(old):
        moved = [
            (image, str(new.joinpath(*below)))
            for image in images
            if (below := _below(image.path, former)) is not None
        ]
        if moved:
            break
    else:
        sources = sorted({source_of(image) for image in images if image.path})
        known = ", ".join(sources[:_SHOWN]) + (", …" if len(sources) > _SHOWN else "")
        raise UsageError(f"{old}: no photo of the index lay there; they lay in {known or 'none'}")
    rows = [replace(image, path=path) for image, path in moved]
    with store.catalog.write() as db:
        update_images(db, rows)
    for key in ("model", "weights"):
        below = _below(store.catalog.meta(key), former)
        if below is not None and isinstance(new, Path):
            store.catalog.set_meta(key, str(new.joinpath(*below)))
    absent = find_missing(rows).gone
    return Relocation(len(rows), absent)


def _forms(old: str) -> list[str]:
    """A former folder as it was given, and as the catalog may have it."""
    if is_url(old):
        return [str(RemotePath.parse(old))]
    return list(dict.fromkeys((old, str(Path(old).absolute()))))


def _below(path: str, folder: str) -> tuple[str, ...] | None:
    """The parts of a path below a folder of whichever system, or of a URL below another; None if it
    does not lie there."""
    if is_url(folder) or is_url(path):
        return RemotePath(path).names_below(RemotePath(folder))
    kind = PureWindowsPath if "\\" in folder or folder[1:2] == ":" else PurePosixPath
    parts, start = kind(path).parts, kind(folder).parts
    is_below = len(parts) > len(start) > 0 and list(map(normal_form, parts[: len(start)])) == list(
        map(normal_form, start)
    )
    return parts[len(start) :] if is_below else None
