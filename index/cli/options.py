"""What commands on an index have in common: options, and opening an index."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delg.cli.console import say

if TYPE_CHECKING:
    from index.image_index import ImageIndex


class Orientations(str, Enum):
    """How the query may be turned."""

    auto = "auto"
    one = "1"
    four = "4"


IndexDir = Annotated[Path, typer.Option("--index", help="Folder of the index.")]
Labels = Annotated[str | None, typer.Option(help="'folders', or a CSV with id,label[,…].")]
Prefix = Annotated[str, typer.Option(help="Put before every id, to keep sources apart.")]


def read_config(config: Path | None) -> Any:
    """The keys given in a file of settings of an index, checked before anything heavy loads.

    Raises:
        UsageError: it cannot be read, or a key or a value is wrong.
    """
    if config is None:
        return {}
    from delg.settings import read_yaml
    from index.settings import read_overrides

    return read_overrides(read_yaml(config), str(config))


def open_index(index: Path, config: Path | None = None) -> ImageIndex:
    """Open an index with settings overridden; photos that are lost are a warning."""
    overrides = read_config(config)
    from index import ImageIndex

    images = ImageIndex.open(index)
    for problem in images.lost():
        say(f"warning: {problem}")
    if config is not None:
        images.configure(overrides, str(config))
    return images
