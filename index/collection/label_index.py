"""The labels of an index with the photos of each, in memory, to be searched among hundreds of
thousands."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
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
        # One character per number, so that it is searched at once for all labels.
        self._text = _characters(_GAP.join([*folded, ""]))
        self._ends = np.cumsum([len(name) + len(_GAP) for name in folded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._names)

    def count(self, name: str) -> int:
        """The number of photos with that label."""
        return len(self.rows(name))

    def rows(self, name: str) -> NDArray[np.int64]:
        """Row numbers of the photos with that label, ascending; none if there is no such label."""
        for form in name_forms(name):
            place = bisect.bisect_left(self._names, form)
            if self._names[place : place + 1] == [form]:
                return self._rows[self._starts[place] : self._starts[place + 1]]
        return self._rows[:0]

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
        wanted = _characters(text)
        last = max(0, len(self._text) - len(wanted) + 1)
        starts = np.flatnonzero(self._text[:last] == wanted[0])
        for offset, character in enumerate(wanted[1:], 1):
            starts = starts[self._text[starts + offset] == character]
        return np.unique(np.searchsorted(self._ends, starts, side="right"))


def _characters(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def fold_case(text: str) -> str:
    """A text as it is compared in searches."""
    return normal_form(text).casefold().replace(_GAP, " ").strip()
