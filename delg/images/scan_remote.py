"""Find the photos behind URLs: folder by folder, so that memory is bounded by the largest."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from delg.errors import UsageError
from delg.images.decode import SUFFIXES
from delg.images.iiif_image import image_of_url
from delg.images.scan import Photo, Walk
from delg.images.scan_iiif import iiif_photos
from delg.remote_files import Entry, kind_of, list_folder, read_blocks, read_url_list
from delg.remote_path import RemotePath
from delg.types import Failure


def photos_below(source: RemotePath, walk: Walk) -> Iterator[Photo]:
    """The photos below the URL of a folder, or the photo at that of a file.

    Names and excludes are those of folders on this machine. A web server's folders are pages of
    links, whose URLs do not end like those of photos; a IIIF manifest in place of a page is read as
    such. A photo of a IIIF image server is called as its image, not ``default.jpg``.

    Args:
        source: the folder or file.
        walk: records what is left out, and folders below the source that cannot be listed.

    Raises:
        UsageError: nothing is there, or it cannot be reached.
    """
    if _is_file(source):
        yield Photo(image_of_url(source.url) or source.name, source)
        return
    if source.is_web and _is_json(source):
        yield from iiif_photos(source, walk)
        return
    for entry in _walk(source, walk):
        yield Photo(_id_of(entry, source), entry.path, entry.stat)


def _id_of(entry: Entry, source: RemotePath) -> str:
    return "/".join(entry.path.names_below(source) or ())


def _is_file(source: RemotePath) -> bool:
    if source.is_web:
        return source.name.lower().endswith(SUFFIXES)
    try:
        return kind_of(source) == "file"
    except OSError as error:
        raise _unusable(source, error) from None


def _is_json(source: RemotePath) -> bool:
    """Whether a page of a web server is no page but data, as manifests without a suffix are."""
    with suppress(OSError):
        start = next(read_blocks(source), b"")
        return start.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"{"
    return False


def _unusable(source: RemotePath, error: OSError) -> UsageError:
    if isinstance(error, FileNotFoundError):
        return UsageError(f"{source}: no such folder or file")
    return UsageError(f"{source}: cannot be looked at: {error.strerror or error}")


def _walk(source: RemotePath, walk: Walk) -> Iterator[Entry]:
    """The photos below a folder, those of a folder together."""
    folders = [source]
    visited = {source}
    while folders:
        folder = folders.pop()
        below = []
        for entry in _entries(folder, source, walk):
            if walk.is_excluded(_id_of(entry, source)):
                continue
            if entry.is_folder:
                below.append(entry.path)
            elif walk.accepts(entry.path.name):
                yield entry
        folders += sorted(set(below) - visited, reverse=True)
        visited.update(below)


def _entries(folder: RemotePath, source: RemotePath, walk: Walk) -> list[Entry]:
    try:
        return sorted(list_folder(folder))
    except OSError as error:
        if folder == source:
            raise _unusable(source, error) from None
        reason = error.strerror or str(error)
        walk.failures.append(Failure(str(folder), f"cannot be listed: {reason}"))
        return []


def listed_photos(path: Path) -> Iterator[Photo]:
    """The photos whose URLs are the lines of a text file; empty lines and those that begin with
    ``#`` do not count. Their ids are the URLs without ``https://``.

    Raises:
        UsageError: the file cannot be read, or a line is no URL that can be.
    """
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for url in read_url_list(lines, str(path)):
                yield Photo("/".join((url.root.name, *(url.names_below(url.root) or ()))), url)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text file in UTF-8") from None
