"""DELG: images, networks and feature extraction.

    from delg import load_model
    features = load_model().extract("photo.jpg")

Importing this is cheap; what a name needs is loaded when it is first used.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from delg.errors import DelgError, ModelError, UsageError
    from delg.extraction.extractor import Extractor
    from delg.images.decode import ImageError
    from delg.types import Failure, ImageFeatures, LocalFeatures
    from delg.zoo.registry import load_model

# ONNX Runtime would start a thread to report its use, for which the end of a forked child waits.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "DelgError": "delg.errors",
    "Extractor": "delg.extraction.extractor",
    "Failure": "delg.types",
    "ImageError": "delg.images.decode",
    "ImageFeatures": "delg.types",
    "LocalFeatures": "delg.types",
    "ModelError": "delg.errors",
    "UsageError": "delg.errors",
    "load_model": "delg.zoo.registry",
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
    "__version__",
    "load_model",
]


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("delg-retrieval")
    except PackageNotFoundError:
        # Run from a source tree that was never installed.
        return "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module 'delg' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
