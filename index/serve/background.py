"""Long computations in the background, with their progress; their last result is kept."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from delg.errors import DelgError

T = TypeVar("T")
# Called with the share of the work that is done, 0 to 1; it raises where the server stops.
Report = Callable[[float], None]
log = logging.getLogger(__name__)


class NotReadyError(DelgError):
    """A result that is not there yet, or cannot be had; the message says why."""


class _StoppedError(Exception):
    """The server stops."""


@dataclass(frozen=True)
class TaskState(Generic[T]):
    """The state of a computation.

    Attributes:
        running: whether it runs now.
        progress: the part done of what runs, 0 to 1.
        value: the last result; None if there was none yet.
        key: what that was computed of.
        error: why the last run failed; empty if it did not.
        failed_key: what that was to be computed of.
    """

    running: bool = False
    progress: float = 0.0
    value: T | None = None
    key: object = None
    error: str = ""
    failed_key: object = None

    @property
    def status(self) -> Literal["working", "done", "failed"]:
        """In one word; one that was not started yet is about to be."""
        if self.running or (self.value is None and not self.error):
            return "working"
        return "failed" if self.error else "done"


class BackgroundTask(Generic[T]):
    """A computation that runs in one thread at a time.

    Args:
        name: for the log.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._state: TaskState[T] = TaskState()
        self._stopped = False
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> TaskState[T]:
        """Its present state."""
        return self._state

    def start(self, work: Callable[[Report], T], key: object = None) -> TaskState[T]:
        """Run it, unless it runs already.

        Args:
            work: computes the result.
            key: what of.
        """
        with self._lock:
            if not self._state.running and not self._stopped:
                self._state = replace(self._state, running=True, progress=0.0, error="")
                self._thread = threading.Thread(
                    target=self._run, args=(work, key), daemon=True, name=self._name
                )
                self._thread.start()
            return self._state

    def wait(self, seconds: float) -> TaskState[T]:
        """Its state once it has ended, or after so many seconds."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self._state

    def _run(self, work: Callable[[Report], T], key: object) -> None:
        failure = f"{self._name} failed; see the server's log"
        value: T | None = None
        try:
            value, failure = work(self._report), ""
        except _StoppedError:
            failure = "the server is stopping"
        except DelgError as error:
            failure = str(error)
        except Exception:
            log.exception("%s failed", self._name)
        with self._lock:
            if failure:
                self._state = replace(self._state, running=False, error=failure, failed_key=key)
            else:
                self._state = TaskState(value=value, key=key)

    def _report(self, progress: float) -> None:
        if self._stopped:
            raise _StoppedError
        self._state = replace(self._state, progress=progress)

    def stop(self) -> None:
        """Give up what runs, at its next report."""
        self._stopped = True
