"""Near-duplicates, looked for in the background once for each state of the index."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from delg.errors import DelgError
from index.duplicates import Duplicates, Limits
from index.serve.shared_index import SharedIndex


class _StoppedError(Exception):
    """The server ends."""


@dataclass(frozen=True)
class Finding:
    """How far a search is: the part done, and then what it found or why it failed."""

    part: float
    found: Duplicates | None = None
    error: str = ""


class Finder:
    """Looks for near-duplicates in one thread, when somebody first asks."""

    def __init__(self, shared: SharedIndex, limits: Limits | None = None) -> None:
        self._shared, self._limits = shared, limits or Limits()
        self._lock = threading.Lock()
        self._version: object = None
        self._now = Finding(0.0)
        self._running = self._stopped = False

    def look(self) -> Finding:
        """What is known of the present state; starts looking if nobody has."""
        with self._lock:
            done = self._now.found is not None or self._now.error
            if not self._running and not (done and self._version == self._shared.version):
                self._running, self._now = True, Finding(0.0)
                threading.Thread(target=self._run, daemon=True, name="duplicates").start()
            return self._now

    def _run(self) -> None:
        found = Finding(1.0, error="it broke off; the server's log says why")
        try:
            with self._shared.reading() as images:
                self._version = self._shared.version
                found = Finding(1.0, images.duplicates(self._limits, self._progress))
        except _StoppedError:
            pass
        except DelgError as error:
            found = Finding(1.0, error=str(error))
        finally:
            with self._lock:
                self._running, self._now = False, found

    def _progress(self, part: float) -> None:
        if self._stopped:
            raise _StoppedError
        self._now = Finding(part)

    def stop(self) -> None:
        """Give up looking."""
        self._stopped = True
