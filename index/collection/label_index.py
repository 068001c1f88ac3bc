"""The labels of an index with the photos of each, in memory, to be searched among hundreds of
thousands."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from delg.paths import name_forms, normal_form

Order = Literal["count", "name"]
# Stands between names; no label contains it.
_GAP = "\n"


@dataclass(frozen=True)
class LabelPage:
    """Some of the labels that a search found.

    Attributes:
        labels: (name, number of photos, rows of its oldest photos).
        total: number of labels found.
    """

    labels: list[tuple[str, int, list[int]]]
    total: int


class LabelIndex:
    """All labels and the rows of their photos.

    Args:
        labelled: (label, row number) of every photo that has one.
    """

    def __init__(self, labelled: Iterable[tuple[str, int]]) -> None:
        codes: dict[str, int] = {}
        pairs = [(codes.setdefault(label, len(codes)), row) for label, row in labelled]
        by_code, rows = np.array(pairs, np.int64).reshape(-1, 2).T
        self._names = sorted(codes)
        # Codes are of the order of appearance; labels lie in the order of their names.
        place = np.empty(len(codes), np.int64)
        place[[codes[name] for name in self._names]] = np.arange(len(codes))
        order = np.lexsort((rows, place[by_code]))
        self._rows = rows[order]
        self._starts = np.searchsorted(place[by_code][order], np.arange(len(codes) + 1))
        self._counts = np.diff(self._starts)
        self._by_count = np.argsort(-self._counts, kind="stable")
        folded = [fold_case(name) for name in self._names]
        # All of them in one array of bytes, so that they are searched at once.
        encoded = [_encode(name + _GAP) for name in folded]
        self._text = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def photos(self) -> int:
        """The number of photos that have a label."""
        return len(self._rows)

    def count(self, name: str) -> int:
        """The number of photos with that label."""
        return len(self.rows(name))

    def rows(self, name: str) -> NDArray[np.int64]:
        """Row numbers of the photos with that label, ascending; none if there is no such label."""
        return next((self._rows_at(place) for place in self._places_of(name)), self._rows[:0])

    def rows_of_any_form(self, name: str) -> NDArray[np.int64]:
        """Row numbers of the photos with that label, in whichever Unicode form each is written."""
        return np.concatenate([self._rows[:0], *map(self._rows_at, self._places_of(name))])

    def rows_containing(self, text: str) -> NDArray[np.int64]:
        """Row numbers of the photos whose label contains a text, whatever its case, by label."""
        folded = fold_case(text)
        if not folded:
            return self._rows
        is_found = np.zeros(len(self._names), bool)
        is_found[self._containing(folded)] = True
        return self._rows[np.repeat(is_found, self._counts)]

    def codes(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """int32 (len(rows),): the place of each row's label among all, by name; -1 for none.

        Args:
            rows: ascending row numbers, among them all that have a label.
        """
        codes = np.full(len(rows), -1, np.int32)
        codes[np.searchsorted(rows, self._rows)] = np.repeat(
            np.arange(len(self._names), dtype=np.int32), self._counts
        )
        return codes

    def most_frequent(
        self, counts: NDArray[np.int64] | None = None, limit: int = 100
    ) -> list[tuple[str, int]]:
        """The labels of most photos, and how many; of equal ones the first by name.

        Args:
            counts: photos of each label by place, where not all photos count.
        """
        if counts is None:
            return [(self._names[i], int(self._counts[i])) for i in self._by_count[:limit]]
        places = np.flatnonzero(counts)
        if len(places) > limit:
            # Names in order, so that of equal counts the first stay first.
            least = np.partition(counts[places], -limit)[-limit]
            places = places[counts[places] >= least]
        best = places[np.argsort(-counts[places], kind="stable")][:limit]
        return [(self._names[i], int(counts[i])) for i in best]

    def _places_of(self, name: str) -> Iterator[int]:
        """Places of a name in the forms that there are."""
        for form in name_forms(name):
            place = bisect.bisect_left(self._names, form)
            if self._names[place : place + 1] == [form]:
                yield place

    def _rows_at(self, place: int) -> NDArray[np.int64]:
        return self._rows[self._starts[place] : self._starts[place + 1]]

    def search(
        self, text: str = "", order: Order = "count", limit: int = 50, offset: int = 0,
        covers: int = 1,
    ) -> LabelPage:  # fmt: skip
        """The labels that contain a text, whatever its case.

        Args:
            order: by number of photos, the most first, or by name.
            covers: rows of each label that are given.
        """
        places: Sequence[int] | NDArray[np.int64]
        if fold_case(text):
            is_found = np.zeros(len(self._names), bool)
            is_found[self._containing(fold_case(text))] = True
            places = self._by_count[is_found[self._by_count]]
            if order == "name":
                places = np.flatnonzero(is_found)
        else:
            places = self._by_count if order == "count" else np.arange(len(self._names))
        chosen = [int(place) for place in places[offset : offset + limit]]
        labels = [
            (self._names[place], int(self._counts[place]), self._covers(place, covers))
            for place in chosen
        ]
        return LabelPage(labels, len(places))

    def _covers(self, place: int, count: int) -> list[int]:
        start, end = self._starts[place], self._starts[place + 1]
        return self._rows[start : min(end, start + count)].tolist()

    def _containing(self, text: str) -> NDArray[np.intp]:
        """Places of the names that contain a text."""
        wanted = np.frombuffer(_encode(text), np.uint8)
        last = max(0, len(self._text) - len(wanted) + 1)
        starts = np.flatnonzero(self._text[:last] == wanted[0])
        for offset, character in enumerate(wanted[1:], 1):
            starts = starts[self._text[starts + offset] == character]
        return np.unique(np.searchsorted(self._ends, starts, side="right"))


def _encode(text: str) -> bytes:
    """In UTF-8, in which no character is part of another."""
    return text.encode("utf-8", "surrogatepass")


def fold_case(text: str) -> str:
    """A text as it is compared in searches."""
    return normal_form(text).casefold().replace(_GAP, " ").strip()
