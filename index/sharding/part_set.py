"""The shards of an index together: those that are open, and those that are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeVar

from delg.errors import DelgError
from index.results import MissingShard
from index.search.shard import ShardLostError
from index.sharding.locations import local_folder
from index.sharding.parts import LocalPart, Operation, Part, run_on_all
from index.sharding.shards import ShardMap, by_number

T = TypeVar("T")


class PartSet:
    """The shards of an index.

    Args:
        folder: of ``index.yaml``.
        shards: what that says.
        parts: the shards that are open, by number.
        missing: number -> reason of the others.

    Attributes:
        folder, shards: as given.
        parts: as given.

    Raises:
        DelgError: none is open.
    """

    def __init__(
        self, folder: Path, shards: ShardMap, parts: dict[int, Part], missing: dict[int, str]
    ) -> None:
        self.folder, self.shards, self.parts, self._missing = folder, shards, parts, missing
        if not parts:
            reasons = "; ".join(map(str, self.missing_shards()))
            raise DelgError(f"{folder}: no shard can be opened: {reasons}")

    @classmethod
    def open(cls, folder: Path, shards: ShardMap, model: str | None, ray: str | None) -> PartSet:
        """Open all shards that can be opened.

        Args:
            model: see :meth:`index.ImageIndex.open`.
            ray: address of a Ray cluster whose workers open them; None: this process.
        """
        if ray is not None:
            from index.sharding.ray_backend import open_parts

            return cls(folder, shards, *open_parts(ray, folder, shards))
        parts: dict[int, Part] = {}
        missing: dict[int, str] = {}
        for number, entry in enumerate(shards.shards):
            try:
                place = local_folder(entry.location, folder)
                parts[number] = LocalPart(entry.name, place, model)
            except (DelgError, OSError) as error:
                missing[number] = str(error)
        return cls(folder, shards, parts, missing)

    def close(self) -> None:
        """Let go of the shards."""
        for part in self.parts.values():
            part.close()

    def name(self, number: int) -> str:
        """Name of a shard, for people."""
        return self.shards.shards[number].name

    def missing_shards(self) -> list[MissingShard]:
        """The shards that cannot be opened, and why."""
        return [MissingShard(self.name(n), reason) for n, reason in self._missing.items()]

    def check_complete(self) -> None:
        """Make sure that all shards are open.

        Raises:
            ShardLostError: one is not.
        """
        if self._missing:
            missing = "; ".join(map(str, self.missing_shards()))
            raise ShardLostError(f"{self.folder}: shards are missing: {missing}")

    def run_on_open(self, operation: Operation[T]) -> dict[int, T]:
        """The results of an operation on each shard that is open, by number."""
        return run_on_all(self.parts, dict.fromkeys(self.parts, operation))

    def run_on_all(self, operation: Operation[T]) -> list[T]:
        """The same, for what must not leave out a shard.

        Raises:
            ShardLostError: a shard is missing.
        """
        self.check_complete()
        return list(self.run_on_open(operation).values())

    def run_on_shard_of(self, image_id: str, operation: Operation[T]) -> T:
        """The result of an operation on the shard of an image.

        Raises:
            ShardLostError: that is missing.
        """
        number = self.shards.number_of(image_id)
        if number in self._missing:
            raise ShardLostError(f"{image_id}: its shard {self.name(number)} is missing")
        return self.parts[number].run(operation)

    def run_on_shards_of(
        self, ids: Iterable[str], operation: Callable[..., T]
    ) -> list[tuple[list[str], T]]:
        """The ids of each open shard that holds some of the images, and the operation's result.

        Args:
            operation: called with the shard's index and ``own``, its ids.
        """
        groups = by_number(ids, len(self.shards.shards))
        return [
            (own, self.parts[number].run(partial(operation, own=own)))
            for number, own in groups.items()
            if number in self.parts
        ]
