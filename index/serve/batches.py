"""Batches: many photos, each a query of its own, answered one after the other in the background.

They are kept in memory: a limited number of them, each for a limited time. Interactive queries go
on meanwhile, as batches have one thread for all of them.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from delg.errors import DelgError
from index.answers.answer_table import Row, answer_row, as_csv, columns_for, failure_row
from index.results import QueryResult
from index.serve.job_queue import JobQueue, never
from index.serve.places import TooBusyError
from index.serve.uploads import NotFoundError, SearchParams, Upload

log = logging.getLogger(__name__)
# Batches that are kept, and seconds for which one is kept after its last answer.
_MAX_BATCHES, _KEEP_SECONDS = 32, 3600.0
# Hits that are kept of each query.
MAX_BATCH_HITS = 20
_ID_BYTES = 16

Search = Callable[[Upload, SearchParams], QueryResult]


@dataclass
class Batch:
    """A batch, and what has been answered of it.

    Attributes:
        id: cannot be guessed.
        total: number of photos.
        results: by photo, in order: as ``delg query --json`` prints them, or with an ``error``.
        rows: the same as rows of a table.
        status: "working", "done", or "cancelled".
    """

    id: str
    total: int
    results: list[dict[str, Any]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    status: str = "working"
    changed: float = field(default_factory=time.monotonic)

    @property
    def failed(self) -> int:
        """Photos that could not be answered."""
        return sum("error" in result for result in self.results)

    def as_json(self) -> dict[str, Any]:
        """As the API answers it."""
        return {
            "id": self.id,
            "status": self.status,
            "total": self.total,
            "done": len(self.results),
            "failed": self.failed,
            "results": list(self.results),
        }

    def as_csv(self) -> str:
        """What has been answered as a table, see :mod:`index.answers.answer_table`."""
        rows = list(self.rows)
        known = set(columns_for(()))
        metadata = dict.fromkeys(key for row in rows for key in row if key not in known)
        return as_csv((*columns_for(()), *metadata), rows)


class Batches:
    """The batches of a server.

    Args:
        search: answers one photo.
        index: name of the index.
        batches: that may be working at once.
        seconds: limit for one photo.
    """

    def __init__(self, search: Search, index: str, batches: int, seconds: float) -> None:
        self._search, self._index, self._working = search, index, batches
        # Each batch asks for one photo at a time, behind one of every other batch.
        self._jobs = JobQueue(1, batches, seconds * (batches + 1))
        self._batches: dict[str, Batch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = Lock()

    def start(self, photos: list[tuple[str, bytes]], params: SearchParams) -> Batch:
        """Begin to answer photos, given by name and bytes; inside an event loop.

        Raises:
            TooBusyError: too many batches are working.
        """
        with self._lock:
            self._forget_old()
            if sum(each.status == "working" for each in self._batches.values()) >= self._working:
                raise TooBusyError("too many batches at once; try again when one is done")
            batch = Batch(secrets.token_urlsafe(_ID_BYTES), len(photos))
            self._batches[batch.id] = batch
        task = asyncio.get_running_loop().create_task(self._run(batch, photos, params))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return batch

    def get(self, batch_id: str) -> Batch:
        """The batch of that id.

        Raises:
            NotFoundError: there is none any more.
        """
        with self._lock:
            self._forget_old()
            batch = self._batches.get(batch_id)
        if batch is None:
            raise NotFoundError("no such batch; it may have expired")
        return batch

    def cancel(self, batch_id: str) -> Batch:
        """Stop answering and forget a batch.

        Raises:
            NotFoundError: there is none any more.
        """
        batch = self.get(batch_id)
        batch.status = "cancelled"
        with self._lock:
            self._batches.pop(batch_id, None)
        return batch

    def _forget_old(self) -> None:
        done = [each for each in self._batches.values() if each.status != "working"]
        excess = len(self._batches) - _MAX_BATCHES
        for place, batch in enumerate(sorted(done, key=lambda each: each.changed)):
            if place < excess or batch.changed < time.monotonic() - _KEEP_SECONDS:
                del self._batches[batch.id]

    async def _run(
        self, batch: Batch, photos: list[tuple[str, bytes]], params: SearchParams
    ) -> None:
        photos = photos[::-1]
        while photos and batch.status == "working":
            # A photo that is answered takes no memory any more.
            name, data = photos.pop()
            result, row = await self._answer(name, data, params)
            batch.results.append(result)
            batch.rows.append(row)
            batch.changed = time.monotonic()
        if batch.status == "working":
            batch.status = "done"

    async def _answer(
        self, name: str, data: bytes, params: SearchParams
    ) -> tuple[dict[str, Any], Row]:
        try:
            upload = Upload(data, name, {})
            result = await self._jobs.run(lambda: self._search(upload, params), never, "batches")
            return result.as_json(name, self._index), answer_row(name, result)
        except DelgError as error:
            reason = str(error)
        except Exception:
            log.exception("a query of a batch failed")
            reason = "internal error; see the server's log"
        return {"query": name, "error": reason, "hits": []}, failure_row(name, reason)

    def close(self) -> None:
        """Take no more photos and refuse those that wait."""
        for batch in self._batches.values():
            batch.status = "cancelled"
        self._jobs.close()
