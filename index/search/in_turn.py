"""Answers in turn: those of shards in one process are worked out one after the other.

Python runs one thread at a time, and threads that take it from each other several times in a
millisecond cost more than they gain: eight shards of small requests took twice the time of one
index. An answer that takes long waits for a disk or another machine, or works outside of Python;
then the next is taken meanwhile.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Executor, Future, wait
from typing import TypeVar

from index.search.shard import Answer

T = TypeVar("T")
_PATIENCE = 0.01


def take_in_turn(
    answers: Mapping[int, Answer[T]],
    threads: Executor,
    seconds: float | None = None,
    patience: float = _PATIENCE,
) -> dict[int, Future[T]]:
    """Answers, as far as there are any in time.

    Args:
        answers: of shards, by number.
        threads: that can take as many answers at once as there are.
        seconds: for all of them; None: as long as they take.
        patience: seconds without any answer after which the next is taken meanwhile.

    Returns:
        What was asked, by number; not done where there was no answer in time.
    """
    futures: dict[int, Future[T]] = {number: Future() for number in answers}
    waiting = deque((answer, futures[number]) for number, answer in answers.items())
    until = None if seconds is None else time.monotonic() + seconds
    done = 0
    while waiting:
        finished = sum(future.done() for future in futures.values())
        if finished == done:
            threads.submit(_take_all, waiting)
        done = finished
        left = math.inf if until is None else until - time.monotonic()
        if left <= 0:
            waiting.clear()
        wait(futures.values(), min(patience, max(0.0, left)))
    wait(futures.values(), None if until is None else max(0.0, until - time.monotonic()))
    return futures


def _take_all(waiting: deque[tuple[Answer[T], Future[T]]]) -> None:
    """Take one answer after the other until none is left to take."""
    while waiting:
        try:
            answer, future = waiting.popleft()
        except IndexError:
            return  # Another thread took the last one.
        try:
            future.set_result(answer())
        except BaseException as error:
            future.set_exception(error)
