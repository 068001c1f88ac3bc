"""What commands on an index share: options, and opening an index."""

from __future__ import annotations

import getpass
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delg.cli.options import PARTLY
from delg.errors import DelgError
from delg.paths import exists

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

NamedModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="The index's model, a name or a folder, where it is not the recorded one or not yet "
        "trusted (delg model trust).",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Work on the shards with the machines of a Ray cluster: HOST:PORT of its head, auto "
        "for the cluster of this machine, local for a new one. DELG_RAY says it for all commands.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="PATTERN",
        help="Leave out files and folders of that name or relative path; repeatable. Hidden ones, "
        "@eaDir, #recycle and the like are left out anyway, without --no-default-excludes.",
    ),
]
DefaultExcludes = Annotated[
    bool,
    typer.Option(
        "--default-excludes/--no-default-excludes",
        help="Leave out hidden files and folders, @eaDir, #recycle and the like.",
    ),
]
Reread = Annotated[
    bool,
    typer.Option("--reread", help="Notice also changes that kept a photo's size and time."),
]


def user_name() -> str:
    """The user of this machine, for the log of changes; empty if he has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return ""


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


@contextmanager
def no_blank_index(folder: Path) -> Iterator[None]:
    """A new index goes again if the work ends in an error before anything is in it."""
    from index import ImageIndex
    from index.storage.lock import BusyError, writer_lock

    is_new, was_there = not ImageIndex.exists(folder), exists(folder)
    try:
        yield
    except BusyError:
        raise  # Another process fills it.
    except DelgError:
        with suppress(BusyError, OSError):
            if is_new and ImageIndex.exists(folder):
                with writer_lock(folder):
                    with ImageIndex.open(folder) as images:
                        is_blank = images.is_blank()
                    if is_blank:
                        _empty(folder)
                if is_blank and not was_there:
                    folder.rmdir()
        raise


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def naming_missing_shards(images: ImageIndex) -> Iterator[None]:
    """Name the shards that queries could not search, in words and by the exit code."""
    code = 0
    try:
        yield
    except typer.Exit as stop:
        code = stop.exit_code
    missing = images.unsearched_shards()
    for shard in missing:
        log.warning("not searched, so that photos may be missing: shard %s", shard)
    if code or missing:
        raise typer.Exit(code or PARTLY)


def open_index(
    index: Path,
    config: Path | None = None,
    model: str | None = None,
    ray: str | None = None,
    searched: bool = True,
) -> ImageIndex:
    """Open an index with settings overridden; photos with unreadable features are a warning."""
    overrides = read_config(config)
    from index import ImageIndex

    images = ImageIndex.open(index, model, ray, searched)
    for problem in images.unreadable_segments():
        log.warning("%s", problem)
    if config is not None:
        images.configure(overrides, str(config))
    return images
