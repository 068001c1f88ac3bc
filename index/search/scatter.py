"""Scatter and gather: all shards of a search are asked at once, and their answers put together.

A shard that cannot answer is left out from then on. Whoever asked learns it by a
:class:`PartLostError` and starts again with the shards that are left, so that a partial result is
what a search of these alone gives.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import TypeVar

import numpy as np

from delg.errors import DelgError
from delg.types import FloatArray
from index.results import MissingShard
from index.search.candidates import ImageKey
from index.search.in_turn import take_in_turn
from index.search.requests import DescriptorsRequest
from index.search.shard import Request, SearchContext, Shard, ShardLostError
from index.storage.ann_index import Rows
from index.storage.global_codec import decode_global

T = TypeVar("T")


class PartLostError(DelgError):
    """A shard was lost while it was asked; the search starts again without it."""


class Scatter:
    """The shards that one query is searched for in.

    Args:
        shards: of indexes of one model.
        missing: shards that are known not to answer.
        deadline: seconds that a shard has for each answer; None: as long as it takes.
        report_lost: called with each shard that is lost.

    Attributes:
        context: of the first shard.
        missing: shards that do not take part, and why.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        missing: Sequence[MissingShard] = (),
        deadline: float | None = None,
        report_lost: Callable[[MissingShard], None] = lambda missing: None,
    ) -> None:
        self.context: SearchContext = shards[0].context
        self.missing = list(missing)
        self._deadline, self._report_lost = deadline, report_lost
        self._shards = dict(enumerate(shards))

    def ask_all(self, request: Request[T]) -> dict[int, T]:
        """The answers of all shards, by number."""
        return self.ask(dict.fromkeys(self._shards, request))

    def ask(self, requests: Mapping[int, Request[T]]) -> dict[int, T]:
        """The answers to one request per shard, by number.

        Raises:
            PartLostError: a shard was lost.
            DelgError: none is left.
        """
        answers = {number: self._shards[number].begin(r) for number, r in requests.items()}
        if len(answers) < 2 and self._deadline is None:
            return {number: answer() for number, answer in answers.items()}
        return self._gather(take_in_turn(answers, self._threads, self._deadline))

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        """As many as there are shards: one that hangs, and is left out, keeps no other waiting."""
        import faiss

        # Each would start as many threads for FAISS as there are processors.
        share = max(1, (os.cpu_count() or 1) // len(self._shards))
        return ThreadPoolExecutor(
            len(self._shards), initializer=faiss.omp_set_num_threads, initargs=(share,)
        )

    def _gather(self, futures: Mapping[int, Future[T]]) -> dict[int, T]:
        answers: dict[int, T] = {}
        lost: dict[int, str] = {}
        for number, future in futures.items():
            if not future.done():
                lost[number] = f"no answer within {self._deadline:g} s"
                continue
            try:
                answers[number] = future.result()
            except ShardLostError as error:
                lost[number] = str(error)
        if lost:
            self._leave_out(lost)
        return answers

    def _leave_out(self, lost: Mapping[int, str]) -> None:
        """Go on without some shards."""
        reasons = [
            MissingShard(self._shards.pop(number).name, reason) for number, reason in lost.items()
        ]
        self.missing += reasons
        for missing in reasons:
            self._report_lost(missing)
        described = "; ".join(map(str, reasons))
        raise PartLostError(described) if self._shards else DelgError(f"no shard left: {described}")

    def ask_about(
        self, images: Sequence[ImageKey], request: Callable[[Rows], Request[T]]
    ) -> list[tuple[list[int], T]]:
        """The answers of the shards that hold images.

        Args:
            request: makes the request of a shard from row numbers of its images.

        Returns:
            Of each shard, the places in ``images`` of those that it holds, and its answer.
        """
        places = by_shard(images)
        answers = self.ask(
            {
                number: request(np.array([images[place].row for place in inside], np.int64))
                for number, inside in places.items()
            }
        )
        return [(places[number], answer) for number, answer in answers.items()]

    def read_descriptors(self, images: Sequence[ImageKey]) -> FloatArray:
        """Stored global descriptors as they are compared, float32 (len(images), D)."""
        descriptors = np.empty((len(images), self.context.dim), np.float32)
        for places, vectors in self.ask_about(images, DescriptorsRequest):
            descriptors[places] = decode_global(vectors)
        return descriptors


def by_shard(images: Sequence[ImageKey]) -> dict[int, list[int]]:
    """Number of each shard -> places in ``images`` of those that it holds."""
    places: dict[int, list[int]] = {}
    for place, image in enumerate(images):
        places.setdefault(image.store, []).append(place)
    return places
