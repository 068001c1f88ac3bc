"""What commands on an index share: options, and opening an index."""

from __future__ import annotations

import logging
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from index.image_index import ImageIndex


log = logging.getLogger(__name__)


class Orientations(str, Enum):
    """How the query may be rotated."""

    auto = "auto"
    upright = "1"
    rotations = "4"


IndexDir = Annotated[Path, typer.Option("--index", help="Folder of the index.")]
Labels = Annotated[
    str | None, typer.Option(help="'folders', or a CSV file with columns id,label[,…].")
]
Prefix = Annotated[str, typer.Option(help="Put this before every id, to tell sources apart.")]


def read_config(config: Path | None) -> Any:
    """The keys given in a settings file of an index, checked before anything heavy loads.

    Raises:
        UsageError: it cannot be read, or a key or a value is wrong.
    """
    if config is None:
        return {}
    from delg.settings import read_yaml
    from index.settings import read_overrides

    return read_overrides(read_yaml(config), str(config))


def open_index(index: Path, config: Path | None = None) -> ImageIndex:
    """Open an index with settings overridden; photos with unreadable features are a warning."""
    overrides = read_config(config)
    from index import ImageIndex

    images = ImageIndex.open(index)
    for problem in images.unreadable_segments():
        log.warning("%s", problem)
    if config is not None:
        images.configure(overrides, str(config))
    return images
