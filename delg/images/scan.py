"""Find the photos below folders, in an order that repeats."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from delg.errors import UsageError
from delg.images.decode import SUFFIXES
from delg.paths import as_written, exists, is_folder, normal_form
from delg.types import Failure

# Folders that NAS devices and systems keep of their own: thumbnails, wastebaskets, snapshots.
EXCLUDED = (
    *("@eaDir", "#recycle", "@Recycle", "@Recently-Snapshot", "#snapshot", "$RECYCLE.BIN"),
    *("System Volume Information", "lost+found", "__MACOSX"),
)
_SHOWN_SUFFIXES = 8


@dataclass(frozen=True)
class Photo:
    """A photo on disk: its image id (path relative to the source folder, '/') and its path."""

    id: str
    path: Path


class Listing(NamedTuple):
    """What lies in folders.

    Attributes:
        photos: sorted by id, without repeats.
        failures: what could not be listed or named.
        passed_over: numbers of other files by suffix, in lower case; "" for none.
    """

    photos: list[Photo]
    failures: list[Failure]
    passed_over: Counter[str]


def describe_passed_over(suffixes: Mapping[str, int]) -> str:
    """The numbers of files of other kinds, in words; empty if there are none."""
    if not suffixes:
        return ""
    ordered = sorted(suffixes.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{suffix or 'no suffix'} {count:,}" for suffix, count in ordered[:_SHOWN_SUFFIXES]]
    more = ["…"] if len(ordered) > _SHOWN_SUFFIXES else []
    return f"{sum(suffixes.values()):,} passed over ({', '.join(named + more)})"


class _Walk:
    """The photos below folders; what else is met there is counted or recorded."""

    def __init__(self, exclude: Iterable[str], default_excludes: bool) -> None:
        self._patterns = [normal_form(pattern.rstrip("/")) for pattern in exclude]
        if default_excludes:
            self._patterns += (".*", *EXCLUDED)
        self.failures: list[Failure] = []
        self.passed_over: Counter[str] = Counter()

    def _is_excluded(self, path: Path, source: Path) -> bool:
        name = normal_form(path.name)
        relative = normal_form(path.relative_to(source).as_posix())
        return any(
            fnmatchcase(name, pattern) or fnmatchcase(relative, pattern)
            for pattern in self._patterns
        )

    def _unreadable(self, error: OSError) -> None:
        failure = Failure(str(error.filename), f"cannot be listed: {error.strerror}")
        self.failures.append(failure)

    def photos(self, source: Path) -> Iterator[Path]:
        visited: set[tuple[int, int]] = set()
        for here, folders, files in os.walk(source, followlinks=True, onerror=self._unreadable):
            try:
                stat = Path(here).stat()
            except OSError as error:
                self._unreadable(error)
                folders.clear()
                continue
            if (stat.st_dev, stat.st_ino) in visited:
                folders.clear()  # A link back up the tree.
                continue
            visited.add((stat.st_dev, stat.st_ino))
            folders[:] = sorted(
                name for name in folders if not self._is_excluded(Path(here, name), source)
            )
            for name in sorted(files):
                path = Path(here, name)
                if self._is_excluded(path, source):
                    continue
                if name.lower().endswith(SUFFIXES):
                    yield path
                else:
                    self.passed_over[path.suffix.lower()] += 1


def _below(source: Path, walk: _Walk) -> Iterator[Photo]:
    """The photos in a folder, or the photo in a file, named by the path relative to the folder."""
    source = as_written(source)
    if not exists(source):
        raise UsageError(f"{source}: no such folder or file")
    in_folder = is_folder(source)
    base = source if in_folder else source.parent
    for path in walk.photos(source) if in_folder else [source]:
        if _is_text(path):
            yield Photo(path.relative_to(base).as_posix(), path)
        else:
            shown = os.fsencode(path).decode("utf-8", "backslashreplace")
            walk.failures.append(Failure(shown, "its name is not valid UTF-8; rename it"))


def _is_text(path: Path) -> bool:
    try:
        str(path).encode("utf-8")
        return True
    except UnicodeEncodeError:
        return False


def _is_another(photo: Photo, first: Photo) -> bool:
    try:
        return first.path.resolve() != photo.path.resolve()
    except OSError:
        return first.path != photo.path


def scan(
    sources: Iterable[str | Path | Photo],
    prefix: str = "",
    exclude: Iterable[str] = (),
    default_excludes: bool = True,
) -> Listing:
    """List the photos in folders (recursively) and files.

    Hidden files and folders, and what :data:`EXCLUDED` names, are passed over unless asked for, or
    a source itself has such a name; links to folders are followed once.

    Args:
        sources: folders and files, or photos that have an id already.
        prefix: put before every id, to distinguish sources that share relative paths.
        exclude: patterns (``*``, ``?``, ``[…]``) of names, or of paths relative to the source, of
            files and folders to leave out.
        default_excludes: leave out hidden ones and ``EXCLUDED`` too.

    Returns:
        The photos, their ids in one Unicode form (NFC) however the disk writes them, and what was
        left out. When two sources give different photos the same id, the first keeps it and the
        second is a failure.

    Raises:
        UsageError: a source does not exist, or cannot be looked at.
    """
    photos: dict[str, Photo] = {}
    walk = _Walk(exclude, default_excludes)
    for source in sources:
        below = [source] if isinstance(source, Photo) else _below(Path(source), walk)
        for listed in below:
            photo = Photo(normal_form(prefix + listed.id), listed.path.absolute())
            first = photos.setdefault(photo.id, photo)
            if first is not photo and _is_another(photo, first):
                walk.failures.append(
                    Failure(
                        str(listed.path),
                        f"its id {photo.id!r} belongs to {first.path}; add it with a --prefix",
                    )
                )
    ordered = sorted(photos.values(), key=lambda photo: photo.id)
    return Listing(ordered, walk.failures, walk.passed_over)
