"""Where a photo comes from, by its metadata: the page about it, its IIIF manifest and canvas."""

from __future__ import annotations

from collections.abc import Mapping

from delg.images.iiif_manifest import CANVAS, MANIFEST, SOURCE_URL
from delg.remote_path import is_web_url

_ADDRESSES = (MANIFEST, CANVAS, SOURCE_URL)


def source_url_of(metadata: Mapping[str, str]) -> str | None:
    """The entry ``source_url``, where it is the address of a web page: it may come from anyone."""
    url = metadata.get(SOURCE_URL, "")
    return url if is_web_url(url) else None


def iiif_of(metadata: Mapping[str, str]) -> dict[str, str] | None:
    """``manifest`` and ``canvas`` of a photo that came from a manifest; None for others."""
    names = {"manifest": MANIFEST, "canvas": CANVAS}
    return {name: metadata[key] for name, key in names.items() if key in metadata} or None


def descriptive_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """What metadata say of the thing itself: values that are not empty, but for addresses."""
    return {key: value for key, value in metadata.items() if value and key not in _ADDRESSES}
