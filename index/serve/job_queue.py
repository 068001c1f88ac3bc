"""Heavy work in a few threads, with a short queue before them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from delg.errors import DelgError

T = TypeVar("T")
_STOPPING = "the server is stopping"


class TooBusyError(DelgError):
    """The queue is full, or the work took too long; worth another try later."""


class GoneError(Exception):
    """Whoever asked has hung up."""


async def never() -> None:
    """Nobody hangs up: the work is done even so."""
    await asyncio.Event().wait()


class Workers:
    """A pool of threads that refuses work rather than letting it pile up.

    Args:
        threads: jobs at once.
        queue: jobs that may wait.
        seconds: waiting and work of one job together.
    """

    def __init__(self, threads: int, queue: int, seconds: float) -> None:
        self._room, self._seconds = threads + queue, seconds
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="work")
        self._lock = threading.Lock()
        self._inside = 0
        self._closed = False

    @property
    def inside(self) -> int:
        """Jobs running and waiting."""
        return self._inside

    async def run(self, work: Callable[[], T], gone: Callable[[], Awaitable[None]]) -> T:
        """The result of ``work``.

        Args:
            gone: returns when whoever asked has hung up; a job that still waits is dropped then.

        Raises:
            TooBusyError: the queue is full, or time is up.
            GoneError: nobody waits for the answer any more.
        """
        with self._lock:
            if self._closed:
                raise TooBusyError(_STOPPING)
            if self._inside >= self._room:
                raise TooBusyError("too many queries at once; try again in a moment")
            self._inside += 1
            future = self._pool.submit(work)
        future.add_done_callback(self._leave)
        answer: asyncio.Future[Any] = asyncio.wrap_future(future)
        hung_up: asyncio.Future[Any] = asyncio.ensure_future(gone())
        try:
            done, _ = await asyncio.wait(
                {answer, hung_up}, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if answer.cancelled():
                raise TooBusyError(_STOPPING)
            if answer in done:
                return answer.result()
            raise (
                GoneError
                if done
                else TooBusyError(
                    f"no answer within {self._seconds:g} s; try again when there is less to do"
                )
            )
        finally:
            hung_up.cancel()
            # A job that has begun cannot be stopped; it keeps its place until it ends.
            future.cancel()
            if not answer.done():
                answer.cancel()

    def _leave(self, future: Future) -> None:
        with self._lock:
            self._inside -= 1

    def close(self) -> None:
        """Take no more and refuse what waits; what runs ends by itself."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
