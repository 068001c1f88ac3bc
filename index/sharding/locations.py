"""Where a shard lies: a location becomes a folder on this machine.

A shard behind a URL is a copy of an index with a list of its files and their checksums beside
them, written last. It is fetched into the cache of this machine, one folder per version, and
is only read there: who would write to it is refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import sqlite3
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import filelock

from delg.errors import DelgError
from delg.files import file_sha256, make_folder, write_text
from delg.limits import MAX_RECORD_BYTES
from delg.paths import is_folder
from delg.plain_values import parse_json
from delg.remote_files import delete_file, read_blocks, upload_file
from delg.remote_path import RemotePath, is_url
from delg.zoo.cache import home
from index.storage.lock import CHECKSUMS_FILE, LOCK_FILES, writer_lock

log = logging.getLogger(__name__)
_FORMAT = 1
_DATABASE = ".sqlite"
_CACHE = "shards"
# Older versions may still be open elsewhere.
_KEPT_VERSIONS = 2
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class _File:
    """A file of a shard: its size in bytes, and the SHA-256 of its content."""

    bytes: int
    sha256: str


# By the path relative to the shard.
_Files = dict[str, _File]


def local_folder(location: str, base: Path) -> Path:
    """The folder on this machine where a shard can be read; one behind a URL is fetched first,
    unless its present version is here.

    Args:
        location: as ``index.yaml`` names it: a path or a URL.
        base: folder that relative paths start from, that of ``index.yaml``.

    Raises:
        DelgError: it cannot be fetched, or a checksum differs.
    """
    return fetch_shard(RemotePath.parse(location)) if is_url(location) else base / location


# Uploading.


def upload_shard(folder: Path, place: RemotePath) -> int:
    """Copy an index to a URL, where :func:`local_folder` finds it; files that lie there already are
    not sent again. Nobody may write to the index meanwhile.

    Returns:
        The bytes sent.

    Raises:
        BusyError: another process writes to the index.
        DelgError: it cannot be read, or not be sent; what was there before may be damaged then,
            which its checksums tell, until it is sent again.
    """
    with writer_lock(folder):
        return send_shard(folder, place)


def send_shard(folder: Path, place: RemotePath) -> int:
    """The same under the index's lock."""
    try:
        with TemporaryDirectory(dir=folder, suffix=".tmp") as copies:
            return _upload(_files_of(folder, Path(copies)), place)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DelgError(f"{error.filename or place}: cannot be sent: {reason}") from None


def _copy_database(path: Path, copy: Path) -> Path:
    """A copy of a SQLite file with everything that its log holds."""
    try:
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            # A file by itself, without the log that readers would have to write.
            target.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise DelgError(f"{path}: cannot be read: {error}") from None
    return copy


def _files_of(folder: Path, copies: Path) -> dict[str, Path]:
    """The files of an index that make it up: relative path -> where it lies. Databases are copied,
    as the newest of them may be in their logs."""
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if not path.is_file() or any(map(_is_passing, relative.parts)):
            continue
        is_database = path.suffix == _DATABASE
        files[relative.as_posix()] = (
            _copy_database(path, copies / path.name) if is_database else path
        )
    return files


def _is_passing(name: str) -> bool:
    return name in LOCK_FILES or name.endswith((".tmp", "-wal", "-shm"))


def _upload(files: dict[str, Path], place: RemotePath) -> int:
    before = _read_checksums(place)[0] if _is_shard(place) else {}
    after = {name: _File(path.stat().st_size, file_sha256(path)) for name, path in files.items()}
    changed = [name for name, file in after.items() if before.get(name) != file]
    for name in changed:
        upload_file(files[name], place.joinpath(name))
    text = json.dumps(
        {"format": _FORMAT, "files": {name: asdict(file) for name, file in after.items()}},
        indent=1,
    )
    upload_file(text.encode(), place / CHECKSUMS_FILE)
    for name in before.keys() - after.keys():
        with suppress(FileNotFoundError):
            delete_file(place.joinpath(name))
    return sum(after[name].bytes for name in changed)


def _is_shard(place: RemotePath) -> bool:
    try:
        (place / CHECKSUMS_FILE).stat()
        return True
    except FileNotFoundError:
        return False


# Fetching.


def fetch_shard(place: RemotePath) -> Path:
    """The present version of a shard in this machine's cache.

    Raises:
        DelgError: there is none, it cannot be reached, or a checksum differs.
    """
    try:
        files, version = _read_checksums(place)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DelgError(f"{place}: no shard can be read there: {reason}") from None
    cache = home() / _CACHE / hashlib.sha256(place.url.encode()).hexdigest()[:32]
    folder = cache / version
    if is_folder(folder):
        return folder
    make_folder(cache)
    with filelock.FileLock(cache / "fetch.lock"):
        if not is_folder(folder):
            _fetch(place, files, folder)
            _remove_old_versions(cache, folder)
    return folder


def _read_checksums(place: RemotePath) -> tuple[_Files, str]:
    """The files of a shard, and the name of its version.

    Raises:
        OSError: there is no list of them, or it cannot be read.
        DelgError: the list is damaged.
    """
    path = place / CHECKSUMS_FILE
    data = bytearray()
    for block in read_blocks(path):
        data += block
        if len(data) > MAX_RECORD_BYTES:
            raise DelgError(f"{path}: more than {MAX_RECORD_BYTES:,} bytes")
    try:
        record = parse_json(data.decode())
        if record["format"] != _FORMAT:
            raise DelgError(f"{path}: format {record['format']}, this version reads {_FORMAT}")
        files = {name: _checked(name, values) for name, values in record["files"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DelgError(f"{path}: not a list of checksums ({error})") from None
    return files, hashlib.sha256(data).hexdigest()[:32]


def _checked(name: str, values: Any) -> _File:
    path = PurePosixPath(name)
    file = _File(**values)
    is_inside = not path.is_absolute() and path.parts and ".." not in path.parts
    if not is_inside or "\\" in name or ":" in name or "\0" in name:
        raise ValueError(f"{name!r} is no path inside the shard")
    if not isinstance(file.bytes, int) or not _SHA256.fullmatch(file.sha256):
        raise ValueError(f"size or checksum of {name!r}")
    return file


def _fetch(place: RemotePath, files: _Files, folder: Path) -> None:
    """Download what no other version in the cache has; the folder is there when all is verified."""
    known = _cached_files(folder.parent)
    incomplete = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(incomplete, ignore_errors=True)
    size = sum(file.bytes for file in files.values() if file.sha256 not in known)
    log.info("fetching %s: %.1f MB", place, size / 1e6)
    try:
        for name, file in files.items():
            path = incomplete / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # Segments never change, so versions share them; others might be written to.
            if file.sha256 in known and path.suffix == ".h5":
                os.link(known[file.sha256], path)
            else:
                _download(place.joinpath(name), file, path)
        write_text(incomplete / CHECKSUMS_FILE, json.dumps(_as_values(files)))
        incomplete.rename(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DelgError(f"{error.filename or place}: cannot be fetched: {reason}") from None
    finally:
        shutil.rmtree(incomplete, ignore_errors=True)


def _as_values(files: _Files) -> dict[str, str]:
    return {name: file.sha256 for name, file in files.items()}


def _cached_files(cache: Path) -> dict[str, Path]:
    """SHA-256 -> file, of the versions in the cache."""
    known: dict[str, Path] = {}
    for folder in _versions(cache):
        with suppress(OSError, ValueError):
            checksums = json.loads((folder / CHECKSUMS_FILE).read_text())
            known |= {digest: folder / name for name, digest in checksums.items()}
    return known


def _versions(cache: Path) -> list[Path]:
    """The complete versions of a shard, the newest first."""
    folders = [path for path in cache.iterdir() if path.is_dir() and path.suffix != ".tmp"]
    return sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)


def _download(source: RemotePath, file: _File, path: Path) -> None:
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as target:
        for block in read_blocks(source):
            digest.update(block)
            size += len(block)
            if size > file.bytes:
                break
            target.write(block)
    if size != file.bytes or digest.hexdigest() != file.sha256:
        raise DelgError(
            f"{source}: its checksum is not that of {CHECKSUMS_FILE}: the upload is not complete, "
            "or the file is damaged; try again, or upload the shard again"
        )


def _remove_old_versions(cache: Path, present: Path) -> None:
    others = [folder for folder in _versions(cache) if folder != present]
    for folder in others[_KEPT_VERSIONS - 1 :]:
        shutil.rmtree(folder, ignore_errors=True)
