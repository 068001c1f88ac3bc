"""The training data: which photos there are, how they are used, and their pixels."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from delg.errors import UsageError
from delg.images.scan import scan
from delg.training.gldv2 import read_gldv2
from delg.training.image_cache import (
    CachedStore,
    DiskStore,
    PhotoStore,
    Report,
    SubsetStore,
)
from delg.training.items import NO_LABEL, Item
from delg.training.settings import DataSettings, TrainSettings
from delg.training.targets import read_targets
from delg.training.tfrecords import list_records
from delg.types import Failure

# Shows that something goes on: called with a description, it gives a function to be called as
# ``report(done, total, failed)``.
Progress = Callable[[str], AbstractContextManager[Report]]


def no_progress(description: str) -> AbstractContextManager[Report]:
    """The progress of work that nobody watches."""
    return nullcontext(lambda done, total, failed: None)


@dataclass(frozen=True)
class Split:
    """Photos by their use; every list is in the order of ids.

    Attributes:
        train: trained on.
        validation: photos of trained labels, to measure the classifiers.
        held_out: photos of labels that are never trained on.
        held_out_unlabelled: unlabelled photos that are never trained on.
    """

    train: list[Item]
    validation: list[Item]
    held_out: list[Item]
    held_out_unlabelled: list[Item]

    @property
    def labels(self) -> list[str]:
        """The classes, sorted; a class's number is its place here."""
        return sorted({item.label for item in self.train if item.label is not None})


@dataclass(eq=False)
class TrainingData:
    """Photos ready to train on.

    Attributes:
        split: the photos by use, without those that cannot be read.
        train, validation, held_out, held_out_unlabelled: their pixels.
        labels: int32 (len(train.items),), class numbers of the training photos or ``NO_LABEL``.
        failures: what could not be listed or decoded beforehand.
    """

    split: Split
    train: PhotoStore
    validation: PhotoStore
    held_out: PhotoStore
    held_out_unlabelled: PhotoStore
    labels: NDArray[np.int32]
    failures: list[Failure]

    def all_failures(self) -> list[Failure]:
        """Those from beforehand, and those of photos that were decoded while training."""
        failures = list(self.failures)
        for store in (self.train, self.validation, self.held_out, self.held_out_unlabelled):
            failures += store.failures
        return list({(failure.path, failure.reason): failure for failure in failures}.values())


def load_training_data(settings: TrainSettings, progress: Progress = no_progress) -> TrainingData:
    """List and split the photos and, with a cache, decode them.

    Raises:
        UsageError: there is nothing to train on.
        DelgError: the file of targets is damaged.
    """
    items, failures = list_items(settings.data)
    split = split_items(items, settings.data, settings.seed)
    if not split.train:
        raise UsageError("data: every photo is held out; nothing is left to train on")
    stores = {
        name: _open_store(photos, name, settings, progress) for name, photos in vars(split).items()
    }
    split = Split(**{name: store.items for name, store in stores.items()})
    for store in stores.values():
        failures += store.failures
    if settings.data.targets_only:
        store = _with_targets(stores["train"], settings.data)
        stores["train"], split = store, replace(split, train=store.items)
    numbers = {label: number for number, label in enumerate(split.labels)}
    labels = [NO_LABEL if item.label is None else numbers[item.label] for item in split.train]
    return TrainingData(split=split, labels=np.array(labels, np.int32), failures=failures, **stores)


def _with_targets(store: PhotoStore, settings: DataSettings) -> PhotoStore:
    """The photos that have a target."""
    assert settings.targets is not None  # TrainSettings checks it.
    rows = read_targets(settings.targets).rows_of(store.items)
    numbers = np.flatnonzero(rows >= 0).tolist()
    if not numbers:
        raise UsageError(f"{settings.targets}: no photo to train on has a target there")
    return SubsetStore(store, numbers)


def _open_store(
    items: list[Item], name: str, settings: TrainSettings, progress: Progress
) -> PhotoStore:
    data = settings.data
    if data.cache is None or not items:
        return DiskStore(items, data.cache_side, data.trim_borders)
    with progress(f"decoding {name} photos") as report:
        return CachedStore(
            items,
            data.cache_side,
            data.trim_borders,
            data.cache / name,
            settings.schedule.threads,
            report,
        )


def list_items(settings: DataSettings) -> tuple[list[Item], list[Failure]]:
    """Every photo that the settings name, sorted by id, and what could not be listed.

    Raises:
        UsageError: a source is missing, or there is no photo at all.
    """
    items: list[Item] = []
    failures: list[Failure] = []
    for labelled, folders in ((True, settings.folders), (False, settings.unlabelled)):
        for folder in folders:
            photos, unreadable, _ = scan([folder], prefix=f"{folder.name}/")
            failures += unreadable
            for photo in photos:
                names = photo.id.split("/")
                label = names[-2] if labelled and len(names) > 2 else None
                items.append(Item(photo.id, photo.path, label))
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
        replace(item, label=None) if _matches(item.label, settings.category_labels) else item
        for item in items
    ]
    return sorted(items, key=lambda item: item.id), failures


def split_items(items: Sequence[Item], settings: DataSettings, seed: int) -> Split:
    """Share the photos out.

    Each label is drawn with a seed of its own, so that adding or removing one label changes no
    other's share. A label's last photo is never taken from training.
    """
    by_label: dict[str, list[Item]] = {}
    unlabelled: list[Item] = []
    for item in items:
        if item.label is None:
            unlabelled.append(item)
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
    random.Random(f"{seed} unlabelled").shuffle(unlabelled)
    count = settings.held_out_unlabelled
    uses = (train + unlabelled[count:], validation, held_out, unlabelled[:count])
    return Split(*(sorted(photos, key=lambda item: item.id) for photos in uses))


def _matches(label: str | None, patterns: Sequence[str]) -> bool:
    return label is not None and any(fnmatchcase(label, pattern) for pattern in patterns)
