"""Photos to train on, by name: where their bytes lie and which instance they show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from delg.remote_path import Location

# The class number of photos without a label.
NO_LABEL = -1


@dataclass(frozen=True)
class Record:
    """One image inside a TFRecord file: where its bytes lie."""

    file: Path
    offset: int
    length: int


@dataclass(frozen=True)
class Item:
    """A photo to train on.

    Attributes:
        id: unique, and the same on every machine.
        source: its path or URL, or where it lies in a TFRecord file.
        label: the name of the instance it shows, or None.
    """

    id: str
    source: Location | Record
    label: str | None
