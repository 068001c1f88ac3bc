"""A saved search: what was searched with, and where and until when it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

Sign = Literal["plus", "minus"]


@dataclass(frozen=True)
class FurtherPhoto:
    """An upload besides the photo that was searched with.

    Attributes:
        sign: "plus" shows the same thing, "minus" what it is not.
        name: its file name.
        width, height: upright, pixels.
    """

    sign: Sign
    name: str
    width: int
    height: int


@dataclass(frozen=True)
class SavedSearch:
    """A saved search, without its photo and its results.

    Attributes:
        id: cannot be guessed.
        title: given by whoever saved it.
        created: seconds since 1970.
        query: name of the photo, or id of the indexed image that was searched with.
        params: of the search, as text by name.
        hits, verified: their numbers.
        bytes: that it takes in the file.
        further: uploads besides the photo, in the order in which they were sent.
    """

    id: str
    title: str
    created: float
    query: str
    params: dict[str, str]
    hits: int
    verified: int
    bytes: int
    further: tuple[FurtherPhoto, ...] = ()

    @property
    def plus(self) -> tuple[str, ...]:
        """Ids of further indexed images of the same thing."""
        return tuple(self.params.get("plus", "").splitlines())

    @property
    def minus(self) -> tuple[str, ...]:
        """Ids of indexed images of what it is not."""
        return tuple(self.params.get("minus", "").splitlines())

    @property
    def photos(self) -> tuple[int | str, ...]:
        """The photos of the thing, in the order of :attr:`index.results.Hit.photo`: numbers of
        uploads, as :meth:`index.serve.saved_searches.SavedSearches.photo` takes them, and ids of
        indexed images."""
        first = self.params.get("id", 0)
        uploads = [n for n, photo in enumerate(self.further, 1) if photo.sign == "plus"]
        return (first, *uploads, *self.plus)

    @property
    def others(self) -> list[tuple[str, str]]:
        """Sign and name of what was searched with besides the first photo."""
        return [
            *((photo.sign, photo.name) for photo in self.further),
            *(("plus", image_id) for image_id in self.plus),
            *(("minus", image_id) for image_id in self.minus),
        ]

    def query_json(self) -> dict[str, Any]:
        """What the search page needs to search anew."""
        further = [vars(photo) for photo in self.further]
        return {
            "id": self.id,
            "indexed": self.params.get("id"),
            "name": self.query,
            "further": further,
        }

    def as_json(self, expires: float | None = None) -> dict[str, Any]:
        """As plain values, moments in ISO 8601.

        Args:
            expires: when it will be deleted, seconds since 1970; None: never.
        """
        return {
            **vars(self),
            "further": [vars(photo) for photo in self.further],
            "created": _moment(self.created),
            "expires": None if expires is None else _moment(expires),
        }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
