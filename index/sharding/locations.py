"""Where a shard lies: a location becomes a folder on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from delg.errors import UsageError

# A scheme has two letters or more; one letter is a drive of Windows.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_url(location: str) -> bool:
    """Whether a location is a URL, not a path."""
    return _URL.match(location) is not None


def local_folder(location: str, base: Path) -> Path:
    """The folder on this machine where a shard can be read.

    Args:
        location: as ``index.yaml`` names it.
        base: folder that relative paths start from, that of ``index.yaml``.

    Raises:
        UsageError: it lies where this machine cannot read.
    """
    if is_url(location):
        raise UsageError(f"{location}: a shard lies in a folder; no URLs are read")
    return base / location
