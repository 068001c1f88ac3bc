"""Review of a label: its most typical and most different photos, and those that may be wrong.

A photo is suspicious if it is verified to show the same thing as a photo of another label, or if
it is verified with no photo of its own label. Both are looked for where they are likely, in the
shortlist of each photo, within a limit of pairs and seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from delg.types import FloatArray, ImageFeatures
from index.storage.ann_index import Rows
from index.storage.catalog_rows import UnknownRowError
from index.storage.catalog_tables import ImageRow
from index.storage.store import Store
from index.verification.calibration import Calibration
from index.verification.pair import verify_features

# Photos of a label that are compared as a whole; of larger ones, a sample.
MAX_COMPARED = 2000
# Photos that are reviewed, the least typical first; candidates of each, of other labels and of its
# own; and seconds.
_REVIEWED, _OTHERS, _OWN, _SECONDS = 60, 3, 4, 30.0
# Nearest photos among which those of other labels are looked for.
_NEAREST = 40
# Similarity below which photos of other labels are not compared.
_LEAST_SIMILAR = 0.3


@dataclass(frozen=True)
class Mislabelled:
    """A photo that shows the same thing as one of another label.

    Attributes:
        id: of the photo.
        other: id of the other photo, and ``other_label`` its label.
        probability: that both show the same thing.
    """

    id: str
    other: str
    other_label: str
    probability: float


@dataclass(frozen=True)
class LabelReview:
    """What may be wrong with a label.

    Attributes:
        photos: number of photos with the label, and ``reviewed`` how many were looked at.
        mislabelled: photos that match another label.
        unmatched: ids of photos that match none of their own label.
        pairs: photos compared point by point.
    """

    photos: int
    reviewed: int
    mislabelled: tuple[Mislabelled, ...]
    unmatched: tuple[str, ...]
    pairs: int


def rank_by_typicality(store: Store, rows: Sequence[int]) -> tuple[list[int], list[float]]:
    """Rows, the most typical first, and the similarity of each to the mean of all.

    Args:
        rows: of photos; beyond ``MAX_COMPARED`` an even sample of them is ranked.
    """
    return rank_by_mean(*read_sample(store, rows))


def read_sample(store: Store, rows: Sequence[int]) -> tuple[Rows, FloatArray]:
    """Those of the rows that are in the store and can be read, int64 (n,), an even sample of at
    most ``MAX_COMPARED``, and their global descriptors, float32 (n, D)."""
    readable = np.array([row for row in rows if _is_readable(store, int(row))], np.int64)
    if len(readable) > MAX_COMPARED:
        readable = readable[np.linspace(0, len(readable) - 1, MAX_COMPARED).astype(int)]
    return readable, store.global_descriptors(readable)


def rank_by_mean(readable: Rows, vectors: FloatArray) -> tuple[list[int], list[float]]:
    """Rows (n,), the nearest to the mean of all descriptors (n, D) first, and how near each is."""
    if not len(readable):
        return [], []
    mean = vectors.mean(0)
    similarities = vectors @ (mean / max(float(np.linalg.norm(mean)), 1e-9))
    order = np.argsort(-similarities, kind="stable")
    return readable[order].tolist(), similarities[order].tolist()


def _is_readable(store: Store, row: int) -> bool:
    try:
        return store.catalog.place(row)[0] not in store.unreadable
    except UnknownRowError:
        return False


def review_label(
    store: Store, calibration: Calibration, name: str, rows: Sequence[int]
) -> LabelReview:
    """Look for photos of a label that may have another; see the head of this file.

    Args:
        calibration: of the model that made the index.
        name: the label.
        rows: of its photos.
    """
    deadline = time.monotonic() + _SECONDS
    ranked, _ = rank_by_typicality(store, rows)
    review = _Review(store, calibration, name, np.array(ranked, np.int64))
    reviewed = 0
    for row in reversed(ranked[-_REVIEWED:]):
        if time.monotonic() > deadline:
            break
        review.look_at(row)
        reviewed += 1
    review.mislabelled.sort(key=lambda photo: -photo.probability)
    return LabelReview(
        len(rows), reviewed, tuple(review.mislabelled), tuple(review.unmatched), review.pairs
    )


class _Review:
    def __init__(self, store: Store, calibration: Calibration, name: str, rows: Rows) -> None:
        self._store, self._calibration, self._name = store, calibration, name
        self._rows, self._vectors = rows, store.global_descriptors(rows)
        self.mislabelled: list[Mislabelled] = []
        self.unmatched: list[str] = []
        self.pairs = 0

    def look_at(self, row: int) -> None:
        vector = self._vectors[int(np.flatnonzero(self._rows == row)[0])]
        image = self._store.catalog.by_row(row)
        features = self._store.features(image)
        if len(self._rows) > 1 and not any(
            self._probability(features, self._store.catalog.by_row(other))
            for other in self._nearest_own(row, vector)
        ):
            self.unmatched.append(image.id)
        for other in self._nearest_others(vector):
            if probability := self._probability(features, other):
                self.mislabelled.append(
                    Mislabelled(image.id, other.id, other.label or "", probability)
                )
                break

    def _nearest_own(self, row: int, vector: np.ndarray) -> Iterable[int]:
        others = self._rows != row
        order = np.argsort(-(self._vectors[others] @ vector), kind="stable")
        return self._rows[others][order][:_OWN].tolist()

    def _nearest_others(self, vector: np.ndarray) -> list[ImageRow]:
        rows, similarities = self._store.nearest(vector, _NEAREST)
        likely = rows[similarities >= _LEAST_SIMILAR].tolist()
        images = self._store.catalog.by_rows(likely)
        return [image for image in images if image.label not in (None, self._name)][:_OTHERS]

    def _probability(self, features: ImageFeatures, other: ImageRow) -> float:
        """That both photos show the same thing; 0 if it is not verified."""
        self.pairs += 1
        result = verify_features(
            features, self._store.features(other), self._store.settings, self._calibration
        )
        return result.probability if result.verified else 0.0
