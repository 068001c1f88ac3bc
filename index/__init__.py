"""Index photos and find them again by photo.

from index import ImageIndex
images = ImageIndex.open_or_create("my.index")
images.add("photos/")
for hit in images.query("q.jpg"): print(hit.id, hit.percent, hit.verified)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from index.image_index import ImageIndex
    from index.results import Hit, QueryResult, Verification
    from index.settings import IndexSettings

_HOMES = {
    "Hit": "index.results",
    "ImageIndex": "index.image_index",
    "IndexSettings": "index.settings",
    "QueryResult": "index.results",
    "Verification": "index.results",
}

__all__ = ["Hit", "ImageIndex", "IndexSettings", "QueryResult", "Verification"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'index' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
