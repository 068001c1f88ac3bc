"""One writer at a time: a lock on the folder of an index."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from delg.errors import DelgError

_FILE = "writer.lock"


class BusyError(DelgError):
    """Another process is writing to the index."""


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Be the only writer to the index in ``folder``; a killed process lets go of the lock.

    Raises:
        BusyError: another process writes.
        DelgError: the folder cannot be written to.
    """
    lock = filelock.FileLock(folder / _FILE)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise BusyError(
            f"{folder}: another process is writing to this index; try again when it is done"
        ) from None
    except OSError as error:
        raise DelgError(f"{folder}: cannot be written to: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()
