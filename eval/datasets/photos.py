"""Look up the photos of a benchmark on disk; errors name the missing ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from delg.errors import UsageError
from delg.images.scan import Photo, scan
from delg.paths import as_written, is_file, is_folder, normal_form
from delg.remote_path import Location

_SHOWN = 5


def name_some(names: Sequence[str]) -> str:
    """The first few names for a message, and how many more there are."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more


def list_photos(folder: Location) -> list[Photo]:
    """The photos below a folder or its URL, sorted by id: the path relative to it.

    Raises:
        UsageError: no such folder, or part of it cannot be listed or named.
    """
    if isinstance(folder, Path) and not is_folder(folder):
        raise UsageError(f"{folder}: no such folder")
    photos, failures, _ = scan([folder])
    if failures:
        raise UsageError(f"{failures[0].path}: {failures[0].reason}")
    return photos


def find_photos(base: Path, paths: Sequence[str], named_by: Path) -> list[Photo]:
    """Look up photos by their paths relative to a folder, which are their ids.

    Raises:
        UsageError: some are missing, or lead out of the folder; how many, and the first few.
    """
    base = base.absolute()
    for path in paths:
        relative = PurePosixPath(path)
        if not path or "\0" in path or relative.is_absolute() or ".." in relative.parts:
            raise UsageError(f"{named_by}: {path!r} is no path inside the dataset")
    photos = [Photo(normal_form(path), as_written(base / path)) for path in paths]
    reject_missing([photo.id for photo in photos if not is_file(photo.path)], paths, base)
    return photos


def reject_missing(missing: Sequence[str], expected: Sequence[object], folder: Path) -> None:
    """Raise a UsageError that counts and names the photos missing in a folder, if any are."""
    if missing:
        raise UsageError(
            f"{folder}: {len(missing):,} of {len(expected):,} photos are missing: "
            f"{name_some(missing)}"
        )
