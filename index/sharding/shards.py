"""``index.yaml``: the shards of an index, ordinary indexes of one model, and where each lives.

A photo belongs to the shard that the hash of its id names, so that nothing has to be looked up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, model_validator

from delg.errors import DelgError, UsageError
from delg.files import write_text
from delg.paths import exists, normal_form
from delg.remote_path import is_url
from delg.settings import Settings, read_settings
from index.storage.adaptation import ADAPTATION_DIGEST
from index.storage.store import CODEBOOK_DIGEST
from index.storage.vocabulary import VOCABULARY_DIGEST

FILE = "index.yaml"
MAX_SHARDS = 10_000
# What shards have in common: key of index.yaml -> key of catalogs.
_ORIGIN = {
    "fingerprint": "fingerprint",
    "codebook": CODEBOOK_DIGEST,
    "vocabulary": VOCABULARY_DIGEST,
    "adaptation": ADAPTATION_DIGEST,
}


class ShardEntry(Settings):
    """One shard."""

    # For people, unique.
    name: str
    # An index's folder: absolute, or relative to that of index.yaml; see index.sharding.locations.
    location: str


class ShardMap(Settings):
    """What ``index.yaml`` says."""

    version: Literal[1] = 1
    # What all shards were made by: the model, and digests of what was learnt for it.
    model: str
    fingerprint: str
    codebook: str = ""
    vocabulary: str = ""
    adaptation: str = ""
    # In the order of their numbers, which hashes of ids name.
    shards: tuple[ShardEntry, ...] = Field(min_length=1, max_length=MAX_SHARDS)
    # With Ray, processes that answer for each shard; one that dies is replaced by another.
    replicas: int = Field(1, ge=1, le=16)
    # Seconds that a shard has for each answer of a query.
    deadline_seconds: float = Field(10.0, gt=0)

    @model_validator(mode="after")
    def _check_unique(self) -> ShardMap:
        names = [shard.name for shard in self.shards]
        if len(set(names)) < len(names):
            raise ValueError("two shards have the same name")
        return self

    @classmethod
    def of(
        cls, meta: Mapping[str, str], shards: Sequence[ShardEntry], replicas: int = 1
    ) -> ShardMap:
        """That of shards of which one's catalog records ``meta``."""
        origin = {key: meta.get(name, "") for key, name in _ORIGIN.items()}
        return cls(model=meta["model_name"], **origin, shards=tuple(shards), replicas=replicas)

    def check_origin(self, meta: Mapping[str, str], name: str) -> None:
        """Make sure that a shard is of the same model.

        Args:
            meta: what its catalog records.
            name: of the shard.

        Raises:
            DelgError: it is of another.
        """
        for key, meta_key in _ORIGIN.items():
            expected, actual = getattr(self, key), meta.get(meta_key, "")
            if expected != actual:
                raise DelgError(
                    f"shard {name} has the {key} {actual or 'none'}, {FILE} says "
                    f"{expected or 'none'}: all shards must be made and maintained by one model"
                )

    def number_of(self, image_id: str) -> int:
        """Number of the shard that an image belongs to."""
        return shard_number(image_id, len(self.shards))

    def write(self, folder: Path) -> None:
        """Write ``index.yaml`` at once."""
        write_text(folder / FILE, yaml.safe_dump(self.model_dump(), sort_keys=False))

    @classmethod
    def read(cls, folder: Path) -> ShardMap:
        """As written in a folder.

        Raises:
            DelgError: there is none, or it is damaged.
        """
        try:
            return read_settings(cls, folder / FILE)
        except UsageError as error:
            raise DelgError(str(error)) from None


def is_sharded(folder: str | Path) -> bool:
    """Whether a sharded index lies in that folder."""
    return exists(Path(folder) / FILE)


def shard_number(image_id: str, count: int) -> int:
    """Number, from 0, of the shard among ``count`` that an image belongs to."""
    digest = hashlib.sha256(normal_form(image_id).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % count


def new_entries(count: int) -> tuple[ShardEntry, ...]:
    """Entries of shards that lie below the index's own folder."""
    names = [f"{number:04d}" for number in range(count)]
    return tuple(ShardEntry(name=name, location=f"shards/{name}") for name in names)


def by_number(ids: Iterable[str], count: int) -> dict[int, list[str]]:
    """Number of each shard -> those of the ids that belong to it."""
    groups: dict[int, list[str]] = {}
    for image_id in ids:
        groups.setdefault(shard_number(image_id, count), []).append(image_id)
    return groups


def shard_folders(folder: Path) -> list[Path]:
    """The folders of a sharded index's shards that lie on this machine; none, if it has none."""
    entries = ShardMap.read(folder).shards if is_sharded(folder) else ()
    return [folder / entry.location for entry in entries if not is_url(entry.location)]
