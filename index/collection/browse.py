"""A look into an index: a page of its images, why some failed, and numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from index.storage.adaptation import ADAPTATION_DIGEST
from index.storage.catalog import Catalog
from index.storage.catalog_tables import ImageRow
from index.storage.store import CODEBOOK_DIGEST, Store
from index.storage.vocabulary import VOCABULARY_DIGEST


@dataclass(frozen=True)
class ImagePage:
    """Some of the images that pass a filter.

    Attributes:
        images: by id.
        total: number of images that pass.
    """

    images: Sequence[ImageRow]
    total: int


def count_reasons(catalog: Catalog, limit: int) -> list[tuple[str, int]]:
    """Why photos failed, the most frequent reasons first, and how many."""
    return catalog.count_values("reason AS value FROM images WHERE state = 'failed'", limit=limit)


def describe(store: Store) -> dict[str, Any]:
    """What an index holds, as plain values."""
    catalog = store.catalog
    segments = catalog.segments()
    images = catalog.count("ok")
    return {
        "index": str(store.folder),
        "model": catalog.meta("model_name"),
        "fingerprint": catalog.meta("fingerprint"),
        "images": images,
        "failed": catalog.count("failed"),
        "segments": len(segments),
        "unreadable_segments": len(store.unreadable),
        "dead": sum(segment.images for segment in segments) - images,
        "bytes": (size := _bytes_in(store.folder)),
        "bytes_per_image": round(size / images) if images else None,
        "shortlist": store.ann_index.kind,
        # Parts of photos that are stored as photos of their own.
        "regions": 0 if (regions := store.region_index()) is None else len(regions),
        # Of the model's, by its digest; empty where local features have no codes of one.
        "codebook": catalog.meta(CODEBOOK_DIGEST),
        # Likewise; empty where no visual words are kept.
        "vocabulary": catalog.meta(VOCABULARY_DIGEST),
        # Of the adaptation, by its digest; empty where there is none.
        "adaptation": catalog.meta(ADAPTATION_DIGEST),
        "settings": store.settings.model_dump(mode="json"),
    }


def _bytes_in(folder: Path) -> int:
    """Bytes of the files in a folder, of which a writer may just remove some."""
    size = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            size += file.stat().st_size if file.is_file() else 0
    return size
