"""``delg index shard``, ``merge`` and ``move``: split, join and move indexes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from delg.cli.console import plural, print_result, progress
from delg.errors import UsageError
from index.cli.options import IndexDir

OutDir = Annotated[Path, typer.Option("--out", help="Folder of the new index.")]
Shards = Annotated[
    int | None,
    typer.Option("--shards", min=1, max=10_000, help="Number of shards of the new index."),
]
Replicas = Annotated[
    int,
    typer.Option(min=1, max=16, help="With Ray, processes that answer for each shard."),
]


def index_shard(
    index: IndexDir,
    out: OutDir,
    shards: Annotated[int, typer.Option(min=1, max=10_000, help="Number of shards.")],
    replicas: Replicas = 1,
) -> None:
    """Split an index into shards, or a sharded one into another number; nothing is extracted."""
    _reshard([index], out, shards, replicas)


def index_merge(
    indexes: Annotated[list[Path], typer.Argument(metavar="INDEX", help="Folders of indexes.")],
    out: OutDir,
    shards: Shards = None,
    replicas: Replicas = 1,
) -> None:
    """Join indexes of one model, sharded or not, into a new one; nothing is extracted."""
    if shards is None and replicas > 1:
        raise UsageError("--replicas needs --shards")
    _reshard(indexes, out, shards, replicas)


def _reshard(sources: list[Path], out: Path, shards: int | None, replicas: int) -> None:
    from index.sharding.reshard import reshard

    with progress("photos") as report:
        count = reshard(sources, out, shards, replicas, report)
    parts = f" in {plural(shards, 'shard')}" if shards is not None else ""
    print_result(f"{plural(count, 'photo')} in {out}{parts}; the former index is as it was")


def index_move(
    name: Annotated[str, typer.Argument(metavar="SHARD", help="Name of the shard.")],
    to: Annotated[str, typer.Argument(metavar="FOLDER|URL", help="Its new folder, or a URL.")],
    index: IndexDir,
) -> None:
    """Move one shard of a sharded index to another folder or disk."""
    from index.sharding.reshard import move

    print_result(f"shard {name} is now in {move(index, name, to)}")
