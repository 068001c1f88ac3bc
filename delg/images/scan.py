"""Find the photos below folders and URLs, in an order that repeats."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from delg.errors import UsageError
from delg.images.decode import SUFFIXES
from delg.paths import as_written, exists, is_folder, normal_form
from delg.remote_path import LIST_SIGN, Location, RemotePath, as_location
from delg.types import Failure

if TYPE_CHECKING:
    from delg.remote_files import FileStat

# Folders that NAS devices and systems keep of their own: thumbnails, wastebaskets, snapshots.
EXCLUDED = (
    *("@eaDir", "#recycle", "@Recycle", "@Recently-Snapshot", "#snapshot", "$RECYCLE.BIN"),
    *("System Volume Information", "lost+found", "__MACOSX"),
)
_SHOWN_SUFFIXES = 8


@dataclass(frozen=True)
class Photo:
    """A photo: its image id (path relative to the source folder, '/'), and where it lies.

    Attributes:
        stat: size, time and tag as the listing of a URL had them.
        label, metadata: what its source says of it, as IIIF manifests do.
    """

    id: str
    path: Location
    stat: FileStat | None = field(default=None, compare=False)
    label: str | None = field(default=None, compare=False)
    metadata: Mapping[str, str] = field(default_factory=dict, compare=False)


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


class Walk:
    """The photos below folders; what else is met there is counted or recorded."""

    def __init__(self, exclude: Iterable[str], default_excludes: bool) -> None:
        self._patterns = [normal_form(pattern.rstrip("/")) for pattern in exclude]
        if default_excludes:
            self._patterns += (".*", *EXCLUDED)
        self.failures: list[Failure] = []
        self.passed_over: Counter[str] = Counter()

    def is_excluded(self, relative: str) -> bool:
        """Whether a path relative to the source is left out."""
        relative = normal_form(relative)
        name = relative.rpartition("/")[2]
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
            below = Path(here).relative_to(source)
            folders[:] = sorted(
                name for name in folders if not self.is_excluded((below / name).as_posix())
            )
            for name in sorted(files):
                if not self.is_excluded((below / name).as_posix()) and self.accepts(name):
                    yield Path(here, name)

    def accepts(self, name: str) -> bool:
        """Whether a file has the name of a photo; others are counted."""
        is_photo = name.lower().endswith(SUFFIXES)
        if not is_photo:
            self.passed_over[PurePosixPath(name).suffix.lower()] += 1
        return is_photo


def _photos_in(source: str | Path | RemotePath, walk: Walk) -> Iterator[Photo]:
    """The photos of a source: a folder, a file, a URL, a list of URLs, or a IIIF manifest."""
    if str(source).startswith(LIST_SIGN) and not exists(source):
        from delg.images.scan_remote import listed_photos

        return listed_photos(Path(str(source)[len(LIST_SIGN) :]))
    location = as_location(source)
    if _is_manifest(location):
        from delg.images.scan_iiif import iiif_photos

        return iiif_photos(location, walk)
    if isinstance(location, RemotePath):
        from delg.images.scan_remote import photos_below

        return photos_below(location, walk)
    return _below(location, walk)


def _is_manifest(source: Location) -> bool:
    """Whether a source is named like a IIIF document: ``….json``, or ``manifest`` on the web."""
    if source.suffix.lower() == ".json":
        return isinstance(source, RemotePath) or not is_folder(source)
    return isinstance(source, RemotePath) and source.is_web and source.name == "manifest"


def _below(source: Path, walk: Walk) -> Iterator[Photo]:
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
    sources: Iterable[str | Location | Photo],
    prefix: str = "",
    exclude: Iterable[str] = (),
    default_excludes: bool = True,
) -> Listing:
    """List the photos in folders (recursively) and files, on this machine and behind URLs.

    Hidden files and folders, and what :data:`EXCLUDED` names, are passed over unless asked for, or
    a source itself has such a name; links to folders are followed once.

    Args:
        sources: folders, files, URLs (see :mod:`delg.images.scan_remote`), ``@FILE``, a text file
            of URLs, and IIIF manifests (see :mod:`delg.images.scan_iiif`); or photos that have an
            id already.
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
    walk = Walk(exclude, default_excludes)
    for source in sources:
        below = [source] if isinstance(source, Photo) else _photos_in(source, walk)
        for listed in below:
            photo = replace(listed, id=normal_form(prefix + listed.id), path=listed.path.absolute())
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
