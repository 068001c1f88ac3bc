"""The search for near-duplicates, in the background and once per state of the index."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from delg.errors import DelgError
from index.collection.duplicates import Duplicates, Limits
from index.serve.shared_index import SharedIndex


class _StoppedError(Exception):
    """The server stops."""


@dataclass(frozen=True)
class DuplicateSearch:
    """The state of a search.

    Attributes:
        progress: the part done, 0 to 1.
        duplicates: the result; None until the search has ended.
        error: why it failed; empty if it did not.
    """

    progress: float
    duplicates: Duplicates | None = None
    error: str = ""


class DuplicateFinder:
    """Searches for near-duplicates in one thread, from the first request on."""

    def __init__(self, shared: SharedIndex, limits: Limits | None = None) -> None:
        self._shared, self._limits = shared, limits or Limits()
        self._lock = threading.Lock()
        self._version: object = None
        self._search = DuplicateSearch(0.0)
        self._running = self._stopped = False

    def current(self) -> DuplicateSearch:
        """The search over the present state of the index; started if there is none."""
        with self._lock:
            done = self._search.duplicates is not None or self._search.error
            if not self._running and not (done and self._version == self._shared.version):
                self._running, self._search = True, DuplicateSearch(0.0)
                threading.Thread(target=self._run, daemon=True, name="duplicates").start()
            return self._search

    def _run(self) -> None:
        search = DuplicateSearch(1.0, error="the search failed; see the server's log")
        try:
            with self._shared.reading() as images:
                self._version = self._shared.version
                search = DuplicateSearch(1.0, images.duplicates(self._limits, self._report))
        except _StoppedError:
            pass
        except DelgError as error:
            search = DuplicateSearch(1.0, error=str(error))
        finally:
            with self._lock:
                self._running, self._search = False, search

    def _report(self, progress: float) -> None:
        if self._stopped:
            raise _StoppedError
        self._search = DuplicateSearch(progress)

    def stop(self) -> None:
        """Give up the search."""
        self._stopped = True
