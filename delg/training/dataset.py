"""The photos that are learnt from: what there is, with labels as numbers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from delg.errors import UsageError
from delg.images.scan import scan
from delg.training.settings import DataSettings
from delg.types import Failure

NO_LABEL = -1


@dataclass(frozen=True)
class Record:
    """One image inside a TFRecord file: where its bytes lie."""

    file: Path
    offset: int
    length: int


@dataclass(frozen=True)
class Item:
    """A photo to learn from.

    Attributes:
        id: unique, and the same on every machine.
        source: its path, or where it lies in a TFRecord file.
        label: the name of the instance it shows, or None.
    """

    id: str
    source: Path | Record
    label: str | None


@dataclass(frozen=True)
class Parts:
    """Photos by their use; every list is in the order of ids.

    Attributes:
        train: learnt from.
        validation: photos of trained labels, to watch the classifier.
        held_out: photos of labels that are never trained.
        held_out_unlabelled: unlabelled photos that are never trained.
    """

    train: list[Item]
    validation: list[Item]
    held_out: list[Item]
    held_out_unlabelled: list[Item]

    @property
    def labels(self) -> list[str]:
        """The classes, sorted; a class's number is its place here."""
        return sorted({item.label for item in self.train if item.label is not None})


def _matches(label: str | None, patterns: Sequence[str]) -> bool:
    return label is not None and any(fnmatchcase(label, pattern) for pattern in patterns)


def list_items(settings: DataSettings) -> tuple[list[Item], list[Failure]]:
    """Every photo the settings name, sorted by id, and what could not be listed.

    Raises:
        UsageError: a source is missing, or there is no photo at all.
    """
    from delg.training.gldv2 import read_gldv2
    from delg.training.tfrecords import list_records

    items: list[Item] = []
    failures: list[Failure] = []
    for labelled, folders in ((True, settings.folders), (False, settings.unlabelled)):
        for folder in folders:
            found, failed = scan([folder], prefix=f"{folder.name}/")
            failures += failed
            for photo in found:
                parts = photo.id.split("/")
                inside = labelled and len(parts) > 2
                items.append(Item(photo.id, photo.path, parts[-2] if inside else None))
    if settings.gldv2 is not None:
        items += read_gldv2(settings.gldv2.csv, settings.gldv2.images)
    if settings.tfrecords:
        items += list_records(settings.tfrecords)
    if not items:
        raise UsageError("data: no photos; name folders, gldv2, tfrecords or unlabelled")
    repeated = [name for name, count in Counter(item.id for item in items).items() if count > 1]
    if repeated:
        raise UsageError(
            f"data: {len(repeated)} photos have the same id as another, first {repeated[0]!r}; "
            "give the folders different names"
        )
    items = [
        replace(item, label=None) if _matches(item.label, settings.kinds) else item
        for item in items
    ]
    return sorted(items, key=lambda item: item.id), failures


def split(items: Sequence[Item], settings: DataSettings, seed: int) -> Parts:
    """Share the photos out.

    Each label is drawn with a seed of its own, so that adding or removing one label changes no
    other's share. A label's last photo is never taken from training.
    """
    by_label: dict[str, list[Item]] = {}
    loose: list[Item] = []
    for item in items:
        if item.label is None:
            loose.append(item)
        else:
            by_label.setdefault(item.label, []).append(item)
    train, validation, held_out = [], [], []
    for label, group in by_label.items():
        shuffled = list(group)
        random.Random(f"{seed} {label}").shuffle(shuffled)
        if _matches(label, settings.held_out):
            held_out += shuffled[: settings.held_out_photos]
            continue
        count = min(round(settings.validation_share * len(group)), len(group) - 1)
        validation += shuffled[:count]
        train += shuffled[count:]
    random.Random(f"{seed} unlabelled").shuffle(loose)
    apart = settings.held_out_unlabelled
    parts = (train + loose[apart:], validation, held_out, loose[:apart])
    return Parts(*(sorted(part, key=lambda item: item.id) for part in parts))
