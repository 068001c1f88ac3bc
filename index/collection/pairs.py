"""Two collections against each other: photos of one that show the same thing as photos of the
other, or of one collection among themselves.

Each photo of the first is compared with its shortlist in the second. Files of the same bytes are
pairs in any case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from delg.errors import UsageError
from delg.types import Progress
from index.arguments import whole_number
from index.collection.decisions import PairVerdict
from index.search.verified_matches import find_verified_matches
from index.storage.catalog_tables import ImageRow
from index.storage.store import Store
from index.verification.calibration import Calibration

# Photos of the second collection that each photo of the first is compared with.
DEPTH = 20
Decided = Mapping[tuple[str, str], PairVerdict]


@dataclass(frozen=True)
class PhotoPair:
    """Two photos of the same thing.

    Attributes:
        a, b: ids, in the first collection and in the second.
        similarity: inner product of the global descriptors, at most 1.
        probability, inliers: see :class:`index.results.Verification`; 1 and 0 of the same file.
        same_file: whether both are the same bytes.
        decision: what people decided; None: nothing yet.
    """

    a: str
    b: str
    similarity: float
    probability: float
    inliers: int
    same_file: bool
    decision: PairVerdict | None


def find_pairs(
    store: Store,
    other: Store,
    calibration: Calibration,
    decided: Decided,
    min_similarity: float = -1.0,
    max_similarity: float = 1.0,
    depth: int = DEPTH,
    progress: Progress | None = None,
) -> list[PhotoPair]:
    """Photos of two indexes that show the same thing, the surest pairs first.

    Args:
        other: the second index; the same as the first to compare its photos among themselves.
        calibration: of the model that made both.
        decided: what people decided, by the contents of both photos.
        min_similarity, max_similarity: of the pairs. What is just below 1 is the same picture,
            altered a little; what is lower shows the same thing from elsewhere.
        depth: photos of the shortlist that each photo is compared with.

    Raises:
        UsageError: the interval of similarities is empty, or ``depth`` is below 1.
        DelgError: features cannot be read.
    """
    if not min_similarity <= max_similarity:
        raise UsageError(
            f"no similarity is at least {min_similarity} and at most {max_similarity}; "
            "exchange the minimum and the maximum"
        )
    depth = whole_number("depth", depth, 1)
    search = _PairSearch(store, other, calibration, decided, (min_similarity, max_similarity))
    images = store.searchable_images().values()
    pairs: list[PhotoPair] = []
    for number, image in enumerate(images, 1):
        pairs += search.pairs_of(image, depth)
        if progress is not None:
            progress(number, len(images), 0)
    return sorted(pairs, key=lambda pair: (-pair.probability, -pair.similarity, pair.a, pair.b))


class _PairSearch:
    def __init__(
        self,
        store: Store,
        other: Store,
        calibration: Calibration,
        decided: Decided,
        interval: tuple[float, float],
    ) -> None:
        self._store, self._other, self._calibration = store, other, calibration
        self._decided, self._interval = decided, interval
        self._is_same_index = store.folder.resolve() == other.folder.resolve()
        self._images = other.searchable_images()
        self._by_file: dict[str, list[ImageRow]] = {}
        for image in self._images.values():
            if image.sha256:
                self._by_file.setdefault(image.sha256, []).append(image)
        # Row numbers of the pairs so far: of one collection, each would come from both sides.
        self._known: set[tuple[int, int]] = set()

    def pairs_of(self, image: ImageRow, depth: int) -> Iterator[PhotoPair]:
        """The pairs of a photo of the first collection that are new."""
        copies = [other for other in self._by_file.get(image.sha256, ()) if image.sha256]
        for other in copies:
            if self._is_wanted(image, other.row, 1.0):
                self._known.add((image.row, other.row))
                yield self._pair(image, other, 1.0, 1.0, 0)
        matches = find_verified_matches(
            self._other,
            self._calibration,
            self._store.features(image),
            depth + len(copies),
            {image.id} if self._is_same_index else (),
            lambda row, similarity: self._is_wanted(image, row, similarity),
        )
        for match in matches:
            self._known.add((image.row, match.row))
            verification = match.verification
            yield self._pair(
                image,
                self._images[match.row],
                min(match.similarity, 1.0),
                verification.probability,
                verification.inliers,
            )

    def _is_wanted(self, image: ImageRow, row: int, similarity: float) -> bool:
        least, most = self._interval
        if not least <= min(similarity, 1.0) <= most or row not in self._images:
            return False
        if self._is_same_index:
            return row != image.row and not {(row, image.row), (image.row, row)} & self._known
        return (image.row, row) not in self._known

    def _pair(
        self, image: ImageRow, other: ImageRow, similarity: float, probability: float, inliers: int
    ) -> PhotoPair:
        low, high = sorted((image.content, other.content))
        return PhotoPair(
            a=image.id,
            b=other.id,
            similarity=similarity,
            probability=probability,
            inliers=inliers,
            same_file=bool(image.sha256) and image.sha256 == other.sha256,
            decision=self._decided.get((low, high)),
        )
