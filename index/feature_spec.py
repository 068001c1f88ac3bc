"""What the features of an index have in common, whoever made them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from delg.errors import UsageError
from delg.types import ImageFeatures
from index.storage.index_record import IndexRecord


@dataclass(frozen=True)
class FeatureSpec:
    """What the features of an index have in common.

    Attributes:
        model: name of the model that made them.
        global_dim, local_dim: widths of the descriptors; the local one is 0 where there are none.
        aggregated: the model gives no global descriptor, so the local ones are aggregated to one.
    """

    model: str
    global_dim: int
    local_dim: int
    aggregated: bool

    @classmethod
    def of(cls, index: IndexRecord) -> FeatureSpec:
        """As an index records it.

        Raises:
            UsageError: it was made by a version that did not record it.
        """
        meta = index.catalog.meta
        try:
            widths = int(meta("global_dim")), int(meta("local_dim"))
        except ValueError:
            raise UsageError(
                f"{index.folder}: does not record the widths of its descriptors"
            ) from None
        return cls(meta("model_name"), *widths, bool(meta("aggregated")))

    @property
    def widths(self) -> tuple[int, int]:
        """Of the global and of the local descriptors."""
        return self.global_dim, self.local_dim

    @property
    def fingerprint(self) -> str:
        """Of an index of such features that are made elsewhere: 16 hexadecimal digits."""
        # Indexes on disk carry the hash of exactly this text.
        text = (
            f"Kind(model={self.model!r}, global_dim={self.global_dim}, "
            f"local_dim={self.local_dim}, aggregated={self.aggregated})"
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check(self, features: ImageFeatures, index: Path) -> None:
        """Make sure that features can be compared with those of the index in that folder.

        Raises:
            UsageError: their descriptors have other widths.
        """
        global_dim, local_dim = len(features.global_descriptor), features.local.descriptors.shape[1]
        local_fits = local_dim == self.local_dim or not len(features.local)
        if global_dim != self.global_dim or not local_fits:
            raise UsageError(
                f"{index} holds descriptors of {self.global_dim} and {self.local_dim} numbers "
                f"(global and local), the query's have {global_dim} and {local_dim}"
            )

    def as_meta(self) -> dict[str, str]:
        """As the catalog of an index records it."""
        return {
            "model_name": self.model,
            "global_dim": str(self.global_dim),
            "local_dim": str(self.local_dim),
            "aggregated": "1" if self.aggregated else "",
        }
