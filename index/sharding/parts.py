"""A part of a sharded index: one shard that is open, in this process or in another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from index.image_index import ImageIndex
from index.search.shard import Answer, Request, SearchContext, Shard
from index.storage.index_record import SentEntries, SentRecord

T = TypeVar("T")
Operation = Callable[[ImageIndex], T]


class Part(Protocol):
    """One shard, wherever it is open."""

    name: str

    def run(self, operation: Operation[T]) -> T:
        """The result of an operation on the shard's index, where that is open.

        Raises:
            ShardLostError: the shard cannot answer.
        """

    def begin(self, request: Request[T]) -> Answer[T]:
        """See :class:`index.search.shard.Shard`."""

    def close(self) -> None:
        """Let go of it."""


class LocalPart:
    """A shard that is open in this process."""

    def __init__(self, name: str, folder: Path, model: str | None = None) -> None:
        self.name, self._images = name, ImageIndex.open(folder, model)

    def run(self, operation: Operation[T]) -> T:
        """See :class:`Part`."""
        return operation(self._images)

    def begin(self, request: Request[T]) -> Answer[T]:
        """See :class:`Part`."""
        return partial(self._images.answer_request, request)

    def close(self) -> None:
        """See :class:`Part`."""
        self._images.close()


@dataclass(frozen=True, eq=False)
class PartRecord:
    """What a shard records of itself.

    Attributes:
        index: its model, its settings and what was learnt for it.
        next_row: the row number after the highest ever given.
    """

    index: SentRecord
    next_row: int

    @classmethod
    def of(cls, images: ImageIndex) -> PartRecord:
        """That of an open index."""
        entries = SentEntries(images.path, images.meta())
        return cls(SentRecord(images.path, entries, images.settings), images.next_row)


@dataclass(frozen=True, eq=False)
class SearchedPart:
    """A part as a search sees it; see :class:`index.search.shard.Shard`."""

    part: Part
    context: SearchContext

    @property
    def name(self) -> str:
        """Of the shard."""
        return self.part.name

    def begin(self, request: Request[T]) -> Answer[T]:
        """See :class:`index.search.shard.Shard`."""
        return self.part.begin(request)


def as_shards(parts: Sequence[Part], context: SearchContext) -> list[Shard]:
    """Parts of one index as a search sees them."""
    return [SearchedPart(part, context) for part in parts]


def run_on_all(parts: Mapping[int, Part], operations: Mapping[int, Operation[T]]) -> dict[int, T]:
    """The results of operations, at once, by the number of the shard."""
    with ThreadPoolExecutor(max(1, len(operations))) as threads:
        futures = {
            number: threads.submit(parts[number].run, operation)
            for number, operation in operations.items()
        }
        return {number: future.result() for number, future in futures.items()}
