"""Disjoint sets (union-find), of which some must stay apart."""

from __future__ import annotations

from collections.abc import Iterable


class DisjointSets:
    """Which numbers belong together; at first each is a set of its own.

    Args:
        apart: pairs of numbers whose sets are never joined.
    """

    def __init__(self, apart: Iterable[tuple[int, int]] = ()) -> None:
        self._parents: dict[int, int] = {}
        # By root, the roots of the sets it must stay apart from.
        self._apart: dict[int, set[int]] = {}
        for a, b in apart:
            self._apart.setdefault(a, set()).add(b)
            self._apart.setdefault(b, set()).add(a)

    def root(self, number: int) -> int:
        """The lowest number of its set."""
        while (parent := self._parents.get(number, number)) != number:
            self._parents[number] = self._parents.get(parent, parent)
            number = parent
        return number

    def join(self, a: int, b: int) -> bool:
        """Join the sets of two numbers.

        Returns:
            Whether they were joined: not if they are one set already, or must stay apart.
        """
        low, high = sorted((self.root(a), self.root(b)))
        if low == high or high in self._apart.get(low, ()):
            return False
        self._parents[high] = low
        for other in self._apart.pop(high, ()):
            self._apart[other].discard(high)
            self._apart[other].add(low)
            self._apart.setdefault(low, set()).add(other)
        return True
