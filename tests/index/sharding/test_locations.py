"""A shard's location becomes a folder here."""

from __future__ import annotations

from pathlib import Path

import pytest

from delg.errors import UsageError
from index.sharding.locations import local_folder


def test_relative_paths_start_at_the_index():
    assert local_folder("shards/00", Path("/photos/big.index")) == Path(
        "/photos/big.index/shards/00"
    )
    assert local_folder("/disk2/00", Path("/photos/big.index")) == Path("/disk2/00")


def test_what_cannot_be_read_is_named():
    with pytest.raises(UsageError, match="s3://bucket/00"):
        local_folder("s3://bucket/00", Path("big.index"))
