"""What an index records of itself: its model, its settings and what was learnt for it.

A store has it, as far as its catalog says, and so has what a shard that is open elsewhere sent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from delg.errors import DelgError
from index.settings import IndexSettings
from index.storage.adaptation import ADAPTATION, Adaptation
from index.storage.vocabulary import VOCABULARY_DIGEST, Vocabulary, find_vocabulary

# Numbers that a descriptor may have.
MAX_DIM = 1 << 20


class Entries(ABC):
    """What is known of an index, by key.

    Attributes:
        path: where that is recorded.
    """

    path: Path

    @abstractmethod
    def meta(self, key: str) -> str:
        """What is known of the index under that key; empty if nothing is."""

    def meta_number(self, key: str, least: int = 0, most: int = 1 << 62) -> int:
        """A whole number that is known of the index; 0 if none is.

        Raises:
            DelgError: it is none, or not between ``least`` and ``most``.
        """
        text = self.meta(key) or "0"
        try:
            number = int(text)
        except (ValueError, TypeError, OverflowError):
            number = least - 1
        if not least <= number <= most:
            raise DelgError(f"{self.path}: {key} is damaged ({text!r:.40})")
        return number

    @property
    def dim(self) -> int:
        """D, width of the global descriptors as the model makes them."""
        return self.meta_number("global_dim", 1, MAX_DIM)

    def find_vocabulary(self) -> Vocabulary | None:
        """The present vocabulary of the model; None if it has none or is not here.

        Raises:
            ModelError: the vocabulary is damaged.
        """
        local_dim = self.meta_number("local_dim", 0, MAX_DIM)
        return find_vocabulary(self.meta("model"), self.meta("weights"), local_dim)

    def read_vocabulary(self) -> Vocabulary | None:
        """The same, if the words in the index are of it."""
        digest = self.meta(VOCABULARY_DIGEST)
        vocabulary = self.find_vocabulary() if digest else None
        return vocabulary if vocabulary is not None and vocabulary.digest == digest else None

    def read_adaptation(self) -> Adaptation | None:
        """How global descriptors are projected before they are compared; None: not at all.

        Raises:
            DelgError: it is damaged.
        """
        text = self.meta(ADAPTATION)
        return Adaptation.from_text(text, self.dim, str(self.path)) if text else None


class IndexRecord(Protocol):
    """What an index records of itself.

    Attributes:
        folder: of the index.
        catalog: entries by key.
        settings: with overrides.
        adaptation: how global descriptors are projected before they are compared.
        search_dim: their width then.
        shortlist_vocabulary: whose visual words photos are shortlisted by; None: by none.
    """

    @property
    def folder(self) -> Path: ...
    @property
    def catalog(self) -> Entries: ...
    @property
    def settings(self) -> IndexSettings: ...
    @property
    def adaptation(self) -> Adaptation | None: ...
    @property
    def search_dim(self) -> int: ...
    @property
    def shortlist_vocabulary(self) -> Vocabulary | None: ...


class SentEntries(Entries):
    """Entries that were sent from elsewhere."""

    def __init__(self, path: Path, values: Mapping[str, str]) -> None:
        self.path, self.values = path, values

    def meta(self, key: str) -> str:
        """See :class:`Entries`."""
        return self.values.get(key, "")


@dataclass(frozen=True, eq=False)
class SentRecord:
    """What an index that is open elsewhere records of itself; an :class:`IndexRecord`.

    Attributes:
        folder: of the index.
        catalog: entries by key.
        settings: with overrides.
    """

    folder: Path
    catalog: SentEntries
    settings: IndexSettings

    @cached_property
    def adaptation(self) -> Adaptation | None:
        """See :class:`IndexRecord`."""
        return self.catalog.read_adaptation()

    @property
    def search_dim(self) -> int:
        """See :class:`IndexRecord`."""
        return self.catalog.dim if self.adaptation is None else self.adaptation.dim

    @cached_property
    def shortlist_vocabulary(self) -> Vocabulary | None:
        """See :class:`IndexRecord`."""
        return self.catalog.read_vocabulary() if self.settings.uses_words else None
