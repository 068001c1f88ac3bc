"""A shard: what a search needs of one index, wherever it lies.

A search asks shards by requests (:mod:`index.search.requests`). A request is answered where the
features lie, by the store there; only ids, scores, matched points and the global descriptors of
candidates come back. :class:`LocalShard` answers in this process.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from delg.errors import DelgError
from delg.types import FloatArray
from index.settings import IndexSettings
from index.storage.adaptation import Adaptation
from index.storage.index_record import IndexRecord
from index.storage.store import Store
from index.storage.vocabulary import Vocabulary

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class ShardLostError(DelgError):
    """A shard cannot answer: it is gone, or takes too long."""


class Request(Protocol[T_co]):
    """What one shard is asked."""

    def answer(self, store: Store) -> T_co:
        """The answer of the shard whose features lie in that store."""


class Answer(Protocol[T_co]):
    """What a shard was asked."""

    def __call__(self) -> T_co:
        """The answer: worked out now, or waited for where the shard lies elsewhere.

        Raises:
            ShardLostError: the shard cannot answer.
        """


@dataclass(frozen=True, eq=False)
class SearchContext:
    """What shards that are searched together have in common.

    Attributes:
        settings: of the index.
        model_name: for people.
        is_aggregated: whether the model has no global head.
        dim: width of the global descriptors as they are compared.
        adaptation: how they are projected before that; None: not at all.
        vocabulary: whose visual words photos are shortlisted by; None: by none.
    """

    settings: IndexSettings
    model_name: str
    is_aggregated: bool
    dim: int
    adaptation: Adaptation | None
    vocabulary: Vocabulary | None

    @classmethod
    def of(cls, index: IndexRecord) -> SearchContext:
        """That of an index."""
        meta = index.catalog.meta
        return cls(
            index.settings,
            meta("model_name"),
            bool(meta("aggregated")),
            index.search_dim,
            index.adaptation,
            index.shortlist_vocabulary,
        )

    def adapt(self, descriptors: FloatArray) -> FloatArray:
        """Global descriptors (N, D) of the model as they are compared: (N, dim)."""
        return descriptors if self.adaptation is None else self.adaptation.apply(descriptors)


class Shard(Protocol):
    """One index among those that are searched together."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def context(self) -> SearchContext:
        """The same for all shards of an index."""

    def begin(self, request: Request[T]) -> Answer[T]:
        """Send it a request, without waiting for the answer."""


class LocalShard:
    """A shard whose store is open in this process."""

    def __init__(self, store: Store, name: str = "") -> None:
        self._store, self.name = store, name or str(store.folder)

    @property
    def context(self) -> SearchContext:
        """See :class:`Shard`."""
        return SearchContext.of(self._store)

    def begin(self, request: Request[T]) -> Answer[T]:
        """See :class:`Shard`."""
        return partial(request.answer, self._store)
