"""Values that take long to compute from an index, remembered for each state of it.

When the index has changed, what is computed fast is computed anew at once. Of the rest, the last
values go on being given until new ones have been computed in the background, so that no page waits
for them but the first.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from delg.errors import DelgError
from index.collection.columns import Columns, Facets
from index.collection.explore import FILE as EXPLORE_FILE
from index.collection.explore import Exploration
from index.collection.label_index import LabelIndex
from index.image_index import ImageIndex
from index.selection import Selection
from index.serve.shared_index import SharedIndex

T = TypeVar("T")
log = logging.getLogger(__name__)


# Labels, metadata keys and reasons that are counted; values of each key to filter by.
_MAX_COUNTS, _FACET_VALUES = 200, 12


# Seconds that a visitor may wait for a value of the present state.
_SOON = 0.2


class _Value(NamedTuple):
    """A value, of which state of the index, and the seconds that it took."""

    version: object
    value: Any
    seconds: float


class Remembered:
    """Remembers values by name.

    Args:
        shared: the index.
    """

    def __init__(self, shared: SharedIndex) -> None:
        self._shared = shared
        self._values: dict[str, _Value] = {}
        self._computing: dict[str, threading.Lock] = {}
        self._running: set[str] = set()
        self._exploration: tuple[object, Exploration | None] | None = None
        self._lock = threading.Lock()

    def info(self) -> dict[str, Any]:
        """What the index holds; see :meth:`ImageIndex.info`."""
        return self._get("info", ImageIndex.info)

    def columns(self) -> Columns:
        """What is known of all photos that can be found."""
        return self._get("columns", ImageIndex.columns)

    def labels(self) -> LabelIndex:
        """All labels of the index."""
        return self.columns().labels

    def counts(self) -> dict[str, list[tuple[str, int]]]:
        """The most frequent labels, metadata keys and reasons of failures."""
        reasons = self._get("reasons", lambda images: images.reasons(_MAX_COUNTS))
        return {**self.columns().most_frequent(_MAX_COUNTS), "reasons": reasons}

    def facets(self) -> Facets:
        """The most frequent values of each key to filter by."""
        return self.columns().facets(Selection(), _FACET_VALUES)

    def plain(self) -> dict[int, int]:
        """Photos with few local features, by row number."""
        return self._get("plain", ImageIndex.plain_rows)

    def exploration(self) -> Exploration | None:
        """What ``delg index explore`` has stored last."""
        with contextlib.suppress(OSError):
            stat = (self._shared.path / EXPLORE_FILE).stat()
            stamp = stat.st_mtime_ns, stat.st_size
            if self._exploration is None or self._exploration[0] != stamp:
                self._exploration = stamp, Exploration.load(self._shared.path)
            return self._exploration[1]
        return None

    def prepare(self) -> None:
        """Compute all of them, so that the first visitor does not wait."""
        for read in (self.info, self.counts, self.plain):
            try:
                read()
            except DelgError as error:
                log.warning("%s", error)

    def _get(self, name: str, compute: Callable[[ImageIndex], T]) -> T:
        """A value, of the present state of the index or, if it takes long, of the one before.

        Args:
            compute: makes it; runs in another thread where an earlier value is known.
        """
        # Reading notices what another process has changed.
        with self._shared.reading():
            version = self._shared.version
        with self._lock:
            known = self._values.get(name)
            is_old = known is not None and known.version != version
            starts = is_old and name not in self._running
            if known is None or (is_old and known.seconds < _SOON):
                known = None
            elif starts:
                self._running.add(name)
        if known is None:
            return self._compute(name, compute)
        if starts:
            threading.Thread(
                target=self._renew, args=(name, compute), daemon=True, name=f"remember {name}"
            ).start()
        value: T = known.value
        return value

    def _compute(self, name: str, compute: Callable[[ImageIndex], T]) -> T:
        # Those who ask at once wait for one of them.
        with self._lock:
            lock = self._computing.setdefault(name, threading.Lock())
        with lock, self._shared.reading() as images:
            version, started = self._shared.version, time.monotonic()
            known = self._values.get(name)
            if known is None or known.version != version:
                value = compute(images)
                known = _Value(version, value, time.monotonic() - started)
                self._values[name] = known
        result: T = known.value
        return result

    def _renew(self, name: str, compute: Callable[[ImageIndex], Any]) -> None:
        try:
            self._compute(name, compute)
        except DelgError as error:
            log.warning("%s: the last state is shown: %s", name, error)
        finally:
            with self._lock:
                self._running.discard(name)
