"""Adapt an index to the user's own labels, from the descriptors that it stores.

A linear within-class whitening (:mod:`delg.network.within_class`) is learnt in closed form from the
global descriptors of labelled photos, and the index compares projected descriptors from then on.
Whether that helps is measured before anything is written: labels are held out in turn, the
projection is learnt from the others, and the photos of the held-out ones search all labelled
photos, by it and without it.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delg.errors import UsageError
from delg.network.within_class import fit_within_class, project
from delg.types import FloatArray
from index.labels import Labels
from index.storage.adaptation import ADAPTATION_DIGEST, Adaptation
from index.storage.catalog_tables import ImageRow
from index.storage.store import Store

# With fewer labels, or photos of labels that repeat, held-out quality fell as often as it rose.
MIN_LABELS, MIN_PHOTOS = 8, 50
SHRINKAGE = 0.3
# More photos do not change the projection; labels beyond them are left out.
MAX_PHOTOS = 20_000
_FOLDS, _MAX_QUERIES, _BLOCK = 5, 1000, 250
# Key of the catalog.
REPORT = "adaptation_report"


@dataclass(frozen=True)
class AdaptReport:
    """The result of an adaptation.

    Attributes:
        labels: number of labels with two photos or more.
        photos: number of labelled photos that it was learnt from.
        map_before, map_after: mean average precision of photos of held-out labels among all
            labelled photos, without adaptation and with one learnt from the other labels.
        applied: whether the index is adapted now; it is not where that would not help.
        unknown_labels: ids in the label file that name no photo in the index.
        seconds: of work.
    """

    labels: int
    photos: int
    map_before: float
    map_after: float
    applied: bool
    unknown_labels: list[str]
    seconds: float


@dataclass(frozen=True, eq=False)
class _Sample:
    """Descriptors float32 (N, D) and labels int64 (N,), of which the first ``repeated`` numbers
    have two photos or more."""

    vectors: FloatArray
    labels: NDArray[np.int64]
    repeated: int


def adapt(
    store: Store,
    labels: Labels | None = None,
    shrinkage: float = SHRINKAGE,
    force: bool = False,
) -> AdaptReport:
    """Adapt an index to labelled photos, unless that does not help; under the store's lock.

    Args:
        labels: by id; None takes those that the index records.
        shrinkage: 0 to 1, see :func:`delg.network.within_class.fit_within_class`.
        force: adapt even if the mean average precision of held-out labels does not rise.

    Raises:
        UsageError: there are too few labels, or a value does not fit.
    """
    started = time.monotonic()
    if not 0 <= shrinkage <= 1:
        raise UsageError(f"shrinkage={shrinkage!r}: must be between 0 and 1")
    sample = _read_sample(store, labels)
    before, after = _cross_validate(sample, shrinkage)
    applied = force or after > before
    report = AdaptReport(
        labels=sample.repeated,
        photos=len(sample.labels),
        map_before=round(before, 4),
        map_after=round(after, 4),
        applied=applied,
        unknown_labels=_unknown(store, labels),
        seconds=time.monotonic() - started,
    )
    if applied:
        mean, kernel = _fit(sample.vectors, sample.labels, shrinkage)
        values = {key: value for key, value in asdict(report).items() if key in _RECORDED}
        adaptation = Adaptation(mean, kernel.astype(np.float16))
        store.set_adaptation(adaptation, {REPORT: json.dumps(values)})
    return report


# The folder of an index, and what it records by key.
Meta = tuple[Path, Mapping[str, str]]
_RECORDED = ("labels", "photos", "map_before", "map_after")


def undo_adaptation(store: Store) -> bool:
    """Compare descriptors as the model made them again; under the store's lock.

    Returns:
        Whether the index was adapted.
    """
    if store.adaptation is None:
        return False
    store.set_adaptation(None, {REPORT: ""})
    return True


def check_same_adaptation(meta: Meta, other: Meta) -> None:
    """Make sure that similarities in two indexes can be compared.

    Args:
        meta, other: folder of each index, and what it records by key.

    Raises:
        UsageError: one is adapted otherwise than the other.
    """
    digests = [values.get(ADAPTATION_DIGEST) or "none" for _, values in (meta, other)]
    if digests[0] != digests[1]:
        raise UsageError(
            f"{other[0]} has the adaptation {digests[1]}, {meta[0]} has {digests[0]}: "
            "search them one by one, or undo adaptations (delg index adapt --undo)"
        )


def _read_sample(store: Store, labels: Labels | None) -> _Sample:
    """Photos with a label, of at most :data:`MAX_PHOTOS`, whole labels at a time."""

    def label_of(image: ImageRow) -> str | None:
        if labels is None:
            return image.label
        label = labels.get(image.id)
        return label.label if label else None

    searchable = set(store.searchable().tolist())
    images = [image for image in store.catalog.images("ok") if image.row in searchable]
    labelled = {image.row: label for image in images if (label := label_of(image))}
    counts = Counter(labelled.values())
    repeated = sorted(label for label, count in counts.items() if count > 1)
    _check_enough(store, len(repeated), sum(counts[label] for label in repeated))
    rng = np.random.default_rng(0)
    single = sorted(label for label, count in counts.items() if count == 1)
    numbers, photos = dict[str, int](), 0
    for label in [repeated[i] for i in rng.permutation(len(repeated))] + single:
        if photos + counts[label] <= MAX_PHOTOS or len(numbers) < MIN_LABELS:
            numbers[label], photos = len(numbers), photos + counts[label]
    rows = np.array([row for row, label in sorted(labelled.items()) if label in numbers], np.int64)
    return _Sample(
        store.stored_descriptors(rows),
        np.array([numbers[labelled[row]] for row in rows.tolist()], np.int64),
        sum(counts[label] > 1 for label in numbers),
    )


def _check_enough(store: Store, labels: int, photos: int) -> None:
    if labels < MIN_LABELS or photos < MIN_PHOTOS:
        raise UsageError(
            f"{store.folder}: adapting takes {MIN_LABELS} labels or more that have two photos or "
            f"more each, and {MIN_PHOTOS} such photos; there are {labels} and {photos}"
        )


def _cross_validate(sample: _Sample, shrinkage: float) -> tuple[float, float]:
    """Mean average precision without adaptation and with it, over held-out labels."""
    can_query = sample.labels < sample.repeated
    queries = np.random.default_rng(1).permutation(np.flatnonzero(can_query))[:_MAX_QUERIES]
    # Labels are numbered at random.
    folds = sample.labels % _FOLDS
    before = _average_precisions(sample.vectors, sample.labels, queries)
    after = []
    for fold in range(_FOLDS):
        rest = (folds != fold) | ~can_query
        mean, kernel = _fit(sample.vectors[rest], sample.labels[rest], shrinkage)
        adapted = project(sample.vectors, mean, kernel)
        held_out = queries[folds[queries] == fold]
        after.append(_average_precisions(adapted, sample.labels, held_out))
    return float(before.mean()), float(np.concatenate(after).mean())


def _fit(
    vectors: FloatArray, labels: NDArray[np.int64], shrinkage: float
) -> tuple[FloatArray, FloatArray]:
    # Leaving out components of small variance costs more than whitening gains.
    return fit_within_class(vectors, labels, vectors.shape[1], shrinkage)


def _average_precisions(
    vectors: FloatArray, labels: NDArray[np.int64], queries: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Average precision (len(queries),) of some of the vectors among all others."""
    parts = [np.zeros(0)]
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK]
        similarities = vectors[block] @ vectors.T
        similarities[np.arange(len(block)), block] = -np.inf
        # The query itself comes last.
        ranking = np.argsort(-similarities, axis=1, kind="stable")[:, :-1]
        relevant = labels[ranking] == labels[block][:, None]
        precision = relevant.cumsum(axis=1) / np.arange(1, len(vectors))
        parts.append((precision * relevant).sum(axis=1) / relevant.sum(axis=1))
    return np.concatenate(parts)


def _unknown(store: Store, labels: Labels | None) -> list[str]:
    ids = labels.ids() if labels else set()
    return sorted(image_id for image_id in ids if store.catalog.by_id(image_id) is None)
