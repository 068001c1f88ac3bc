"""The photos of a sharded index: what its shards know of them, put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from delg.types import ImageFeatures
from index.collection.columns import CollectionTable, Columns, State
from index.collection.label_review import rank_by_mean
from index.collection.photo_collection import PhotoCollection
from index.photos.missing import MissingPhotos, join_missing
from index.selection import Where
from index.sharding.part_set import PartSet
from index.storage.catalog_tables import ImageRow


class ShardedCollection(PhotoCollection):
    """The photos of all shards, as one collection; those of missing shards are not known."""

    _opened_parts: PartSet

    @property
    def _parts(self) -> PartSet:
        """What every method works on; raises a ``UsageError`` if the index is closed."""
        self._check_open()
        return self._opened_parts

    def __len__(self) -> int:
        return sum(self._parts.run_on_open(len).values())

    def is_blank(self) -> bool:
        """Whether no shard holds anything."""
        return all(self._parts.run_on_open(lambda images: images.is_blank()).values())

    @property
    def generation(self) -> int:
        """Counts the changes of what can be found."""
        return sum(self._parts.run_on_open(lambda images: images.generation).values())

    def ids(self) -> list[str]:
        """Ids of the images that can be found."""
        parts = self._parts.run_on_open(lambda images: images.ids()).values()
        return sorted(image_id for ids in parts for image_id in ids)

    def paths(self, ids: Iterable[str]) -> dict[str, str]:
        """Where the photos lie, of those ids that are in the index."""
        parts = self._parts.run_on_shards_of(ids, lambda images, own: images.paths(own))
        return _union(paths for _, paths in parts)

    def image(self, image_id: str) -> ImageRow | None:
        """What is known of one image; None if it is not in the index."""
        return self._parts.run_on_shard_of(image_id, lambda images: images.image(image_id))

    def select(self, where: Where = ()) -> list[ImageRow]:
        """The images of all shards that fulfil conditions, by id."""
        parts = self._parts.run_on_all(lambda images: images.select(where))
        return sorted(chain(*parts), key=lambda image: image.id)

    def features(self, image_id: str) -> ImageFeatures:
        """The stored features of an image."""
        return self._parts.run_on_shard_of(image_id, lambda images: images.features(image_id))

    def collection_table(self, state: State = "ok") -> CollectionTable:
        """What is known of all images in a state, of all shards together."""
        tables = self._parts.run_on_open(lambda images: images.collection_table(state)).values()
        return CollectionTable.join(list(tables))

    def columns(self, state: State = "ok") -> Columns:
        """See :meth:`index.ImageIndex.columns`; made anew each time."""
        return Columns(self.collection_table(state))

    def by_rows(self, rows: Sequence[int]) -> list[ImageRow]:
        """What is known of images by row numbers, which are unique in all shards."""
        parts = self._parts.run_on_open(lambda images: images.by_rows(rows)).values()
        known = {image.row: image for part in parts for image in part}
        return [known[row] for row in rows if row in known]

    def plain_rows(self) -> dict[int, int]:
        """Photos with few local features; see :meth:`index.ImageIndex.plain_rows`."""
        parts = self._parts.run_on_open(lambda images: images.plain_rows()).values()
        few = sorted((count, row) for part in parts for row, count in part.items())
        return {row: count for count, row in few}

    def typicality(self, rows: Sequence[int]) -> tuple[list[int], list[float]]:
        """How alike photos are; see :func:`index.collection.label_review.rank_by_typicality`."""
        parts = list(self._parts.run_on_open(lambda images: images.read_sample(rows)).values())
        return rank_by_mean(
            np.concatenate([sample for sample, _ in parts]),
            np.concatenate([vectors for _, vectors in parts]),
        )

    def reasons(self, limit: int = 1000) -> list[tuple[str, int]]:
        """Why images failed, the most frequent reasons first."""
        counter: Counter[str] = Counter()
        for part in self._parts.run_on_open(lambda images: images.reasons(limit)).values():
            counter.update(dict(part))
        return sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:limit]

    def info(self) -> dict[str, Any]:
        """What the shards hold together, as plain values."""
        parts = list(self._parts.run_on_open(lambda images: images.info()).values())
        info = dict(parts[0])
        counts = "images", "failed", "segments", "unreadable_segments", "dead", "bytes", "regions"
        for key in counts:
            info[key] = sum(part[key] for part in parts)
        kinds = sorted({part["shortlist"] for part in parts})
        info |= {
            "index": str(self.path),
            "bytes_per_image": round(info["bytes"] / info["images"]) if info["images"] else None,
            "shortlist": kinds[0] if len(kinds) == 1 else "mixed",
        }
        settings = info.pop("settings")
        shards, missing = self._parts.shards, self._parts.missing_shards()
        info |= {"shards": len(shards.shards), "replicas": shards.replicas}
        info["missing_shards"] = len(missing)
        return {**info, "settings": settings}

    def failures(self) -> dict[str, str]:
        """Id -> reason of every photo that could not be used."""
        return _union(self._parts.run_on_open(lambda images: images.failures()).values())

    def missing(self) -> MissingPhotos:
        """The images whose file is gone or cannot be looked at."""
        return join_missing(self._parts.run_on_all(lambda images: images.missing()))

    def unreadable_segments(self) -> list[str]:
        """What is wrong with segments that cannot be read, and shards that are missing."""
        parts = self._parts.run_on_open(lambda images: images.unreadable_segments()).values()
        problems = [problem for part in parts for problem in part]
        return problems + [f"shard {missing}" for missing in self._parts.missing_shards()]


def _union(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {key: value for part in parts for key, value in part.items()}
