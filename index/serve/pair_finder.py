"""Pairs of photos of the same thing, of two indexes of the server or within one: compared in the
background, listed, accepted and rejected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal

from delg.errors import UsageError
from index.collection.decisions import PairVerdict
from index.collection.pair_review import pairs_csv
from index.collection.pairs import PhotoPair
from index.image_index import ImageIndex
from index.serve.background import BackgroundTask, NotReadyError, Report, TaskState
from index.serve.shared_index import SharedIndex
from index.serve.uploads import NotFoundError, is_text
from index.storage.catalog_tables import ImageRow

Shown = Literal["undecided", "accepted", "rejected", "all"]
# More pairs than there can be.
_ALL = 1 << 31
_Content = tuple[str, str]


@dataclass(frozen=True)
class ComparedPairs:
    """All pairs that were found.

    Attributes:
        pairs: the surest first.
        contents: of both photos of each, in their order as texts, by which decisions know them.
    """

    pairs: tuple[PhotoPair, ...]
    contents: tuple[_Content, ...]


@dataclass(frozen=True)
class PairFilter:
    """Which pairs are listed.

    Attributes:
        show: by what was decided.
        min_similarity, max_similarity: of the global descriptors.
    """

    show: Shown = "undecided"
    min_similarity: float = -1.0
    max_similarity: float = 1.0

    def passes(self, pair: PhotoPair) -> bool:
        """Whether a pair is listed."""
        is_shown = self.show == "all" or (pair.decision or "undecided") == self.show
        return is_shown and self.min_similarity <= pair.similarity <= self.max_similarity


@dataclass(frozen=True)
class PairListing:
    """Pairs of photos.

    Attributes:
        state: of the comparison; its value is None until the first one has ended.
        is_current: whether neither index has changed since.
        pairs: those of the page.
        total: number of those that pass the filter; ``all``: of all.
        first, second: the photos of the page's pairs, by id.
    """

    state: TaskState[ComparedPairs]
    is_current: bool
    pairs: Sequence[PhotoPair]
    total: int
    all: int
    first: Mapping[str, ImageRow]
    second: Mapping[str, ImageRow]


class PairFinder:
    """The pairs of an index with each index of the server.

    Args:
        shared: the index; decisions are kept in its folder.
        indexes: all of the server by name, this one too.
    """

    def __init__(self, shared: SharedIndex, indexes: Mapping[str, SharedIndex]) -> None:
        self._shared, self._indexes = shared, indexes
        self._tasks: dict[str, BackgroundTask[ComparedPairs]] = {
            name: BackgroundTask("the comparison of photos") for name in indexes
        }

    def start(self, name: str) -> TaskState[ComparedPairs]:
        """Compare the photos with those of another index, in the background.

        Raises:
            NotFoundError: the server has no index of that name.
        """
        other = self._other(name)

        def work(report: Report) -> ComparedPairs:
            with self._shared.reading() as images, other.reading() as others:
                same = other is self._shared
                pairs = images.pairs(
                    None if same else others,
                    progress=lambda done, total, _: report(done / max(1, total)),
                )
                return _with_contents(pairs, images, images if same else others)

        return self._tasks[name].start(work, self._key(other))

    def listing(self, name: str, condition: PairFilter, limit: int, offset: int = 0) -> PairListing:
        """Some pairs, the surest first.

        Raises:
            NotFoundError: the server has no index of that name.
        """
        other, state = self._other(name), self._tasks[name].state
        with ExitStack() as stack:
            images = stack.enter_context(self._shared.reading())
            others = stack.enter_context(other.reading())
            pairs = _decided(state.value, images)
            passing = [pair for pair in pairs if condition.passes(pair)]
            page = passing[offset : offset + limit]
            first = images.known(pair.a for pair in page)
            second = others.known(pair.b for pair in page)
        shown = [pair for pair in page if pair.a in first and pair.b in second]
        is_current = state.key == self._key(other)
        return PairListing(state, is_current, shown, len(passing), len(pairs), first, second)

    def csv(self, name: str, condition: PairFilter) -> str:
        """A table as ``delg index pairs --csv`` writes it.

        Raises:
            NotFoundError: the server has no index of that name.
            NotReadyError: they were not compared yet.
        """
        listing = self.listing(name, condition, limit=_ALL)
        if listing.state.value is None:
            raise NotReadyError(listing.state.error or "these photos were not compared yet")
        return pairs_csv(listing.pairs, listing.first, listing.second)

    def decide(self, name: str, a: str, b: str, verdict: PairVerdict | None) -> PhotoPair | None:
        """Remember what was decided on a pair; None: forget it.

        Raises:
            NotFoundError: the server has no such index, or an id is in neither.
        """
        other = self._other(name)
        if not is_text(a) or not is_text(b):
            raise NotFoundError("an image is not in the index")
        with self._shared.reading() as images, other.reading() as others:
            try:
                images.decide_pairs([(a, b, verdict)], others)
            except UsageError as error:
                raise NotFoundError(str(error)) from None
            pairs = _decided(self._tasks[name].state.value, images)
        return next((pair for pair in pairs if (pair.a, pair.b) == (a, b)), None)

    def _other(self, name: str) -> SharedIndex:
        if name not in self._indexes:
            raise NotFoundError(f"the server has no index {name!r}")
        return self._indexes[name]

    def _key(self, other: SharedIndex) -> object:
        with self._shared.reading() as images, other.reading() as others:
            return images.generation, others.generation

    def stop(self) -> None:
        """Give up what runs."""
        for task in self._tasks.values():
            task.stop()


def _with_contents(
    pairs: Sequence[PhotoPair], images: ImageIndex, others: ImageIndex
) -> ComparedPairs:
    first = images.known({pair.a for pair in pairs})
    second = others.known({pair.b for pair in pairs})
    contents = []
    for pair in pairs:
        low, high = sorted((first[pair.a].content, second[pair.b].content))
        contents.append((low, high))
    return ComparedPairs(tuple(pairs), tuple(contents))


def _decided(value: ComparedPairs | None, images: ImageIndex) -> list[PhotoPair]:
    """All pairs with what is decided on them now."""
    if value is None:
        return []
    decisions = images.decisions.on_pairs()
    return [
        replace(pair, decision=decisions.get(content))
        for pair, content in zip(value.pairs, value.contents, strict=True)
    ]
