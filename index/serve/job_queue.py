"""Heavy jobs in a few threads, with a short queue before them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from index.serve.places import Places, TooBusyError

T = TypeVar("T")
_STOPPING = "the server is stopping"


class GoneError(Exception):
    """The client has disconnected."""


async def never() -> None:
    """Wait for a disconnect that does not count: the job is done even so."""
    await asyncio.Event().wait()


class JobQueue:
    """A pool of threads that refuses jobs rather than letting them pile up.

    Args:
        threads: jobs that run at once.
        queue: jobs that may wait.
        seconds: limit of waiting and running of one job together.
    """

    def __init__(self, threads: int, queue: int, seconds: float) -> None:
        self._seconds = seconds
        self._places = Places(threads + queue, "too many queries at once; try again in a moment")
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="job")
        self._lock = threading.Lock()
        self._closed = False

    @property
    def active(self) -> int:
        """Number of jobs running and waiting."""
        return self._places.taken

    async def run(
        self,
        job: Callable[[], T],
        disconnected: Callable[[], Awaitable[None]],
        client: str = "",
    ) -> T:
        """The result of ``job``.

        Args:
            client: who wants it; see :class:`index.serve.places.Places`.
            disconnected: returns when the client has gone; a job that still waits is dropped then.

        Raises:
            TooBusyError: the queue is full, or time is up.
            GoneError: the client has disconnected.
        """
        with self._lock:
            if self._closed:
                raise TooBusyError(_STOPPING)
            self._places.take(client)
            future = self._pool.submit(job)
        future.add_done_callback(lambda _: self._places.leave(client))
        result: asyncio.Future[Any] = asyncio.wrap_future(future)
        disconnect: asyncio.Future[Any] = asyncio.ensure_future(disconnected())
        try:
            done, _ = await asyncio.wait(
                {result, disconnect}, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if result.cancelled():
                raise TooBusyError(_STOPPING)
            if result in done:
                return result.result()
            if done:
                raise GoneError
            raise TooBusyError(
                f"no answer within {self._seconds:g} s; try again when the server is less busy"
            )
        finally:
            disconnect.cancel()
            # A job that has begun cannot be stopped; it keeps its place until it ends.
            future.cancel()
            if not result.done():
                result.cancel()

    def close(self) -> None:
        """Take no more jobs and refuse those that wait; running ones end by themselves."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
