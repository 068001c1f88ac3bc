"""Find the photos below folders, in an order that repeats."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from delg.errors import UsageError
from delg.images.decode import SUFFIXES
from delg.types import Failure


@dataclass(frozen=True)
class Photo:
    """A photo on disk: its image id (path relative to the source folder, '/') and its path."""

    id: str
    path: Path


def _walk(folder: Path, failures: list[Failure]) -> Iterable[Path]:
    visited: set[tuple[int, int]] = set()

    def unreadable(error: OSError) -> None:
        failures.append(Failure(str(error.filename), f"cannot be listed: {error.strerror}"))

    for here, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
        stat = Path(here).stat()
        if (stat.st_dev, stat.st_ino) in visited:
            folders.clear()  # A link back up the tree.
            continue
        visited.add((stat.st_dev, stat.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                yield Path(here) / name


def _below(source: Path, failures: list[Failure]) -> Iterator[Photo]:
    """The photos in a folder, or the photo in a file, named by the path relative to the folder."""
    # Unlike Path's, this returns False instead of raising on names that no file can have.
    if not os.path.exists(source):  # noqa: PTH110
        raise UsageError(f"{source}: no such folder or file")
    is_folder = source.is_dir()
    base = source if is_folder else source.parent
    for path in _walk(source, failures) if is_folder else [source]:
        if _is_text(path):
            yield Photo(path.relative_to(base).as_posix(), path)
        else:
            shown = os.fsencode(path).decode("utf-8", "backslashreplace")
            failures.append(Failure(shown, "its name is not valid UTF-8; rename it"))


def _is_text(path: Path) -> bool:
    try:
        str(path).encode("utf-8")
        return True
    except UnicodeEncodeError:
        return False


def scan(
    sources: Iterable[str | Path | Photo], prefix: str = ""
) -> tuple[list[Photo], list[Failure]]:
    """List the photos in folders (recursively) and files.

    Hidden files and folders are passed over; links to folders are followed once.

    Args:
        sources: folders and files, or photos that have an id already.
        prefix: put before every id, to distinguish sources that share relative paths.

    Returns:
        The photos sorted by id, without repeats, and what could not be listed. When two sources
        give different photos the same id, the first keeps it and the second is a failure.

    Raises:
        UsageError: a source does not exist.
    """
    photos: dict[str, Photo] = {}
    failures: list[Failure] = []
    for source in sources:
        below = [source] if isinstance(source, Photo) else _below(Path(source), failures)
        for listed in below:
            photo = Photo(prefix + listed.id, listed.path.absolute())
            first = photos.setdefault(photo.id, photo)
            if first is not photo and first.path.resolve() != photo.path.resolve():
                failures.append(
                    Failure(
                        str(listed.path),
                        f"its id {photo.id!r} belongs to {first.path}; add it with a --prefix",
                    )
                )
    return sorted(photos.values(), key=lambda photo: photo.id), failures
