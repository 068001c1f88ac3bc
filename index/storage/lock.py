"""One writer at a time: a lock on the folder of an index."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from delg.errors import DelgError
from delg.paths import exists

_FILE = "writer.lock"
# Names the writer. It lies in a file of its own, as whoever waits for the lock empties that one.
_WRITER_FILE = "writer.txt"
# Files that say nothing about whether there is an index in the folder.
LOCK_FILES = frozenset({_FILE, _WRITER_FILE})
# Lists the files of a shard that was fetched from elsewhere; see index.sharding.locations.
CHECKSUMS_FILE = "checksums.json"


class BusyError(DelgError):
    """Another process is writing to the index."""


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Be the only writer to the index in ``folder``; a killed process lets go of the lock.

    Raises:
        BusyError: another process writes; the message says which.
        DelgError: the folder cannot be written to, or is a fetched copy.
    """
    if exists(folder / CHECKSUMS_FILE):
        raise DelgError(
            f"{folder}: a fetched copy, which is only read; change the index that it was uploaded "
            "from, and upload that again"
        )
    lock = filelock.FileLock(folder / _FILE)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise BusyError(
            f"{folder}: another process is writing to this index{_writer(folder)}; "
            "try again when it is done"
        ) from None
    except OSError as error:
        raise DelgError(f"{folder}: cannot be written to: {error.strerror}") from None
    writer_file = folder / _WRITER_FILE
    try:
        # A full disk must not keep anybody from removing photos.
        with suppress(OSError):
            writer_file.write_text(f"process {os.getpid()} on {platform.node()}", "utf-8")
        yield
    finally:
        with suppress(OSError):
            writer_file.unlink(missing_ok=True)
        lock.release()


def _writer(folder: Path) -> str:
    """Which process holds the lock, in brackets; empty if it has not said so."""
    try:
        writer = (folder / _WRITER_FILE).read_text("utf-8")
    except (OSError, ValueError):
        return ""
    return f" ({writer})" if writer else ""
