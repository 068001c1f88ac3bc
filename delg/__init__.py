"""DELG: images, networks and feature extraction.

    from delg import load_model
    features = load_model().extract("photo.jpg")

Importing this is cheap; what a name needs is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from delg.decode import ImageError
    from delg.errors import DelgError, ModelError, UsageError
    from delg.extractor import Extractor
    from delg.registry import load_model
    from delg.values import Failure, ImageFeatures, LocalFeatures

_HOMES = {
    "DelgError": "delg.errors",
    "Extractor": "delg.extractor",
    "Failure": "delg.values",
    "ImageError": "delg.decode",
    "ImageFeatures": "delg.values",
    "LocalFeatures": "delg.values",
    "ModelError": "delg.errors",
    "UsageError": "delg.errors",
    "load_model": "delg.registry",
}

__all__ = [
    "DelgError",
    "Extractor",
    "Failure",
    "ImageError",
    "ImageFeatures",
    "LocalFeatures",
    "ModelError",
    "UsageError",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'delg' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
