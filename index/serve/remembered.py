"""Values that take long to compute from an index, remembered for each state of it.

When the index has changed, the last values go on being given until new ones have been computed in
the background, so that no page waits for them but the first.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from delg.errors import DelgError
from index.collection.browse import Facets
from index.collection.explore import FILE as EXPLORE_FILE
from index.collection.explore import Exploration
from index.collection.label_index import LabelIndex
from index.image_index import ImageIndex
from index.serve.shared_index import SharedIndex

T = TypeVar("T")
log = logging.getLogger(__name__)


# Labels, metadata keys and reasons that are counted; values of each key to filter by.
_MAX_COUNTS, _FACET_VALUES = 200, 12


class Remembered:
    """Remembers values by name.

    Args:
        shared: the index.
    """

    def __init__(self, shared: SharedIndex) -> None:
        self._shared = shared
        self._values: dict[str, tuple[object, Any]] = {}
        self._running: set[str] = set()
        self._exploration: tuple[object, Exploration | None] | None = None
        self._lock = threading.Lock()

    def info(self) -> dict[str, Any]:
        """What the index holds; see :meth:`ImageIndex.info`."""
        return self._get("info", ImageIndex.info)

    def labels(self) -> LabelIndex:
        """All labels of the index."""
        return self._get("labels", ImageIndex.labels)

    def counts(self) -> dict[str, list[tuple[str, int]]]:
        """The most frequent labels, metadata keys and reasons of failures."""
        return self._get("counts", lambda images: images.counts(_MAX_COUNTS))

    def facets(self) -> Facets:
        """The most frequent values of each key to filter by."""
        return self._get("facets", lambda images: images.facets((), _FACET_VALUES))

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
        for read in (self.info, self.labels, self.counts, self.facets):
            try:
                read()
            except DelgError as error:
                log.warning("%s", error)

    def _get(self, name: str, compute: Callable[[ImageIndex], T]) -> T:
        """A value, of the present state of the index or of the one before.

        Args:
            compute: makes it; runs in another thread where an earlier value is known.
        """
        version = self._shared.version
        with self._lock:
            known = self._values.get(name)
            starts = known is not None and known[0] != version and name not in self._running
            if starts:
                self._running.add(name)
        if known is None:
            return self._compute(name, compute)
        if starts:
            threading.Thread(
                target=self._renew, args=(name, compute), daemon=True, name=f"remember {name}"
            ).start()
        value: T = known[1]
        return value

    def _compute(self, name: str, compute: Callable[[ImageIndex], T]) -> T:
        with self._shared.reading() as images:
            version = self._shared.version
            value = compute(images)
        with self._lock:
            self._values[name] = version, value
        return value

    def _renew(self, name: str, compute: Callable[[ImageIndex], Any]) -> None:
        try:
            self._compute(name, compute)
        except DelgError as error:
            log.warning("%s: the last state is shown: %s", name, error)
        finally:
            with self._lock:
                self._running.discard(name)
