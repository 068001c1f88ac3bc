"""Answers of shards in one process are taken one after the other, unless one takes long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from index.search.in_turn import take_in_turn

COUNT = 6


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(COUNT) as executor:
        yield executor


def values(futures) -> dict[int, int]:
    return {number: future.result() for number, future in futures.items() if future.done()}


def test_quick_answers_are_taken_by_one_thread_in_order(threads):
    taken: list[tuple[int, int]] = []

    def answer(number: int) -> int:
        taken.append((number, threading.get_ident()))
        return number * number

    futures = take_in_turn({n: lambda n=n: answer(n) for n in range(COUNT)}, threads, patience=60)
    assert values(futures) == {n: n * n for n in range(COUNT)}
    assert [number for number, _ in taken] == list(range(COUNT))
    assert len({thread for _, thread in taken}) == 1


def test_answers_that_wait_for_each_other_are_taken_at_once(threads):
    together = threading.Barrier(COUNT, timeout=60)
    futures = take_in_turn(dict.fromkeys(range(COUNT), together.wait), threads)
    assert sorted(values(futures).values()) == list(range(COUNT))


def test_one_that_hangs_keeps_no_other_waiting(threads):
    end = threading.Event()
    answers = {n: lambda n=n: n for n in range(COUNT)} | {1: end.wait, 3: end.wait}
    futures = take_in_turn(answers, threads, 0.5)
    try:
        assert values(futures) == {0: 0, 2: 2, 4: 4, 5: 5}
    finally:
        end.set()


def test_what_no_thread_was_free_for_in_time_is_not_taken_later():
    end, taken = threading.Event(), []
    with ThreadPoolExecutor(1) as executor:
        futures = take_in_turn({0: end.wait, 1: lambda: taken.append(1)}, executor, 0.05)
        end.set()
    assert not futures[1].done() and not taken


def test_an_error_is_that_of_its_shard(threads):
    def fail() -> int:
        raise OSError("gone")

    futures = take_in_turn({0: fail, 1: lambda: 1}, threads)
    assert futures[1].result() == 1
    with pytest.raises(OSError, match="gone"):
        futures[0].result()
