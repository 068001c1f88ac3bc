"""How many things in composites are found, with regions and without.

A composite's right answers are the photos of the things in it; a thing counts as found if its photo
is verified. Every setting is asked the same composites.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from delg.errors import UsageError
from delg.images.decode import decode
from delg.images.scan import Photo
from delg.types import Progress
from eval.regions.composites import compose
from index.image_index import ImageIndex

# The method's name -> settings by section and key.
METHODS: Mapping[str, Mapping[str, Any]] = {
    "whole photo": {"regions": {"enabled": False}},
    "regions": {"regions": {"enabled": True}},
}


@dataclass(frozen=True)
class CompositeSet:
    """Composites of one kind.

    Attributes:
        things: in each photo.
        share: of the photo's area that each thing covers, 0 to 1.
        photos: number of composites.
    """

    things: int
    share: float
    photos: int


@dataclass(frozen=True)
class RegionsRow:
    """What was found in one set by one method.

    Attributes:
        things, share, photos: see :class:`CompositeSet`.
        method: its name.
        first: share of the photos whose first hit is right and verified.
        recall: share of all things whose photo is verified.
        complete: share of the photos in which all things were found.
        wrong: verified hits per photo that show none of its things.
        milliseconds: per query, mean.
    """

    things: int
    share: float
    photos: int
    method: str
    first: float
    recall: float
    complete: float
    wrong: float
    milliseconds: float

    def as_json(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)


def measure_regions(
    images: ImageIndex,
    others: Sequence[ImageIndex],
    objects: Sequence[Photo],
    backgrounds: Sequence[Photo],
    spec: CompositeSet,
    progress: Progress,
    seed: int = 0,
) -> Iterator[RegionsRow]:
    """Measure all methods on one set.

    Args:
        images: holds the things; its settings are changed.
        others: distractors.
        objects: the things' photos, named as in the index.
        backgrounds: photos that show none of them.
        progress: called after every photo.

    Raises:
        UsageError: there are too few photos, or one of a thing is not in the index.
    """
    if len(objects) < spec.things or not backgrounds:
        raise UsageError("there are too few photos of things, or none of backgrounds")
    unknown = [photo.id for photo in objects if images.image(photo.id) is None]
    if unknown:
        raise UsageError(f"{images.path}: has no image {unknown[0]!r}, which is a thing's photo")
    counts = {method: np.zeros(5) for method in METHODS}
    rng = np.random.default_rng(seed)
    for number in range(spec.photos):
        pixels, right = _composite(objects, backgrounds, spec, rng)
        for method, overrides in METHODS.items():
            images.configure(overrides)
            counts[method] += _ask(images, others, pixels, right)
        progress(number + 1, spec.photos, 0)
    for method, count in counts.items():
        means = count / [spec.photos, spec.photos * spec.things, *[spec.photos] * 3]
        yield RegionsRow(spec.things, spec.share, spec.photos, method, *map(float, means))


def _composite(
    objects: Sequence[Photo],
    backgrounds: Sequence[Photo],
    spec: CompositeSet,
    rng: np.random.Generator,
) -> tuple[np.ndarray, set[str]]:
    """A composite that has room for all things, and the ids of its answers."""
    for _ in range(100):
        chosen = [objects[n] for n in rng.choice(len(objects), spec.things, replace=False)]
        background = backgrounds[int(rng.integers(len(backgrounds)))]
        things = [decode(photo.path) for photo in chosen]
        composite = compose(decode(background.path), things, spec.share, rng)
        if all(composite.boxes):
            return composite.pixels, {photo.id for photo in chosen}
    raise UsageError(f"{spec.things} things of {spec.share:.0%} do not fit into one photo")


def _ask(
    images: ImageIndex, others: Sequence[ImageIndex], pixels: np.ndarray, right: set[str]
) -> list[float]:
    """First right, things found, all found, wrong hits, milliseconds."""
    result = images.search(pixels, others=others).hits(max(10, 2 * len(right)))
    verified = {hit.id for hit in result if hit.verified}
    first = next((hit.id for hit in result if hit.verified and hit.rank == 1), None)
    return [
        first in right,
        len(verified & right),
        right <= verified,
        len(verified - right),
        sum(result.timing_ms.values()),
    ]
