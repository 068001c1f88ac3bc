"""Files that appear complete or not at all, and their checksums."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from delg.errors import DelgError
from delg.remote_path import Location, RemotePath, as_location


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write a file that takes its name only when it is complete and on the disk.

    The temporary file lies in the same folder under the name plus ``.tmp``, so that what a killed
    process left is overwritten by the next attempt; one writer at a time per name.

    Yields:
        The temporary path, which the body creates by whatever means: ``write_bytes``, h5py,
        zipfile, FAISS, SQLite.

    Raises:
        DelgError: it cannot be written; the message names the file. The file that had the name
            before is unchanged then, and the temporary one is gone.
    """
    path = Path(path)
    with _replacing(path, path.with_name(path.name + ".tmp")) as temporary:
        yield temporary


def write_bytes(path: str | Path, data: bytes, durable: bool = True) -> None:
    """Write a file at once; several processes and threads may write the same name.

    Args:
        path: the file.
        data: all of its bytes.
        durable: wait until it is on the disk; without, thousands of small files take a fraction of
            the time, and each is still complete or absent unless the machine itself goes down.

    Raises:
        DelgError: it cannot be written; the message names the file, which is unchanged then.
    """
    path = Path(path)
    # A short name of its own: a suffix could make a long name too long for the file system.
    temporary = path.parent / f".{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        with _replacing(path, temporary, durable):
            temporary.write_bytes(data)
    except ValueError as error:
        raise DelgError(f"{str(path)!r}: not a usable path: {error}") from None


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8 at once; see :func:`write_bytes`. Bytes of a file's name that are
    not UTF-8 are escaped as JSON would."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def make_folder(path: str | Path) -> None:
    """Make a folder, and those above it, unless it is there.

    Raises:
        DelgError: it cannot be made; the message names it.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DelgError(f"{path}: cannot be created: {reason}") from None


def file_sha256(path: str | Location) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    location = as_location(path)
    if isinstance(location, RemotePath):
        from delg.remote_files import sha256_of

        return sha256_of(location)
    digest = hashlib.sha256()
    with location.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _replacing(path: Path, temporary: Path, durable: bool = True) -> Iterator[Path]:
    try:
        yield temporary
        if durable:
            _sync(temporary, os.O_RDWR)
        temporary.replace(path)
        # Windows cannot open folders, and needs no flush of them.
        if durable and os.name != "nt":
            _sync(path.parent, os.O_RDONLY)
    except OSError as error:
        raise DelgError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError, ValueError):
            temporary.unlink(missing_ok=True)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
