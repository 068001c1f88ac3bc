"""An image as the API returns it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from index.answers.source_links import iiif_of, source_url_of
from index.search.notes import few_features
from index.storage.catalog_tables import ImageRow


class IiifJson(BaseModel):
    """Manifest and canvas that a photo came from."""

    manifest: str | None = None
    canvas: str | None = None


class ImageJson(BaseModel):
    """An image of the index."""

    id: str
    path: str
    state: Literal["ok", "failed"]
    reason: str | None
    label: str | None
    metadata: dict[str, str]
    width: int | None
    height: int | None
    bytes: int
    sha256: str
    source_url: str | None
    iiif: IiifJson | None
    # Why it may not be found, in words.
    notes: list[str]


def image_json(row: ImageRow, features: int | None = None) -> dict[str, Any]:
    """An image as the API returns it.

    Args:
        features: number of its local features, if they are few.
    """
    return {
        "id": row.id,
        "path": row.path,
        "state": row.state,
        "reason": row.reason,
        "label": row.label,
        "metadata": row.metadata,
        "width": row.width,
        "height": row.height,
        "bytes": row.size,
        "sha256": row.sha256,
        "source_url": source_url_of(row.metadata),
        "iiif": iiif_of(row.metadata),
        "notes": [] if features is None else [few_features(features)],
    }
