"""The local descriptors of many photos, each in two views, kept in a file while a model learns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delg.errors import DelgError
from delg.extraction.descriptor_attention import DescriptorAttention
from delg.extraction.local_aggregate import Classes, aggregate
from delg.types import FloatArray


@dataclass(frozen=True, eq=False)
class DescriptorViews:
    """Of N photos, as they are and photographs of them.

    Attributes:
        descriptors: floats (2 · N, n, d), unit length, both views of a photo one after the other;
            what a view has less than n is zero.
        counts: int64 (2 · N,), how many each view has.
        labels: int64 (N,), the same number for photos of one label; −1: none.
    """

    descriptors: NDArray[np.floating]
    counts: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def classes(self) -> Classes:
        """Of the views; photographs have no label."""
        labels = np.stack([self.labels, np.full(len(self), -1)], axis=1)
        return Classes(np.repeat(np.arange(len(self)), 2), labels.ravel())

    def aggregate(self, words: FloatArray, attention: DescriptorAttention | None) -> FloatArray:
        """Aggregates float32 (2 · N, K · d); see
        :func:`delg.extraction.local_aggregate.aggregate`."""
        pairs = zip(self.descriptors, self.counts, strict=True)
        return np.stack(
            [
                aggregate(of_view[:count].astype(np.float32), words, attention)
                for of_view, count in pairs
            ]
        )

    def draw(
        self, rng: np.random.Generator, photos: NDArray[np.int64], count: int
    ) -> tuple[FloatArray, FloatArray]:
        """At most ``count`` descriptors of both views of photos (B,).

        Returns:
            float32 (2 · B, count, d), and float32 (2 · B, count): 1 where there is one, else 0.
        """
        views = np.stack([2 * photos, 2 * photos + 1], axis=1).ravel()
        drawn = np.zeros((len(views), count, self.descriptors.shape[2]), np.float32)
        used = np.zeros(drawn.shape[:2], np.float32)
        for row, view in enumerate(views):
            chosen = np.sort(rng.permutation(self.counts[view])[:count])
            drawn[row, : len(chosen)] = self.descriptors[view][chosen]
            used[row, : len(chosen)] = 1
        return drawn, used


class DescriptorFile:
    """Descriptors of views as they are extracted, in a file of half floats: those of thousands of
    photos do not fit into the memory of every machine.

    Args:
        path: to write.
        shape: n and d, of each.

    Raises:
        DelgError: it cannot be written.
    """

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        self._path, self._shape = path, shape
        self._counts: list[int] = []

    def append(self, descriptors: FloatArray) -> None:
        """Those of the next view, (N, d); of more than n the first."""
        padded = np.zeros(self._shape, np.float16)
        count = min(len(descriptors), len(padded))
        padded[:count] = descriptors[:count]
        # Not through a memory map, whose writes end the process where the disk is full.
        try:
            with self._path.open("ab") as file:
                file.write(padded.tobytes())
        except OSError as error:
            raise DelgError(
                f"{self._path}: cannot be written: {error.strerror or error}; TMPDIR chooses "
                "another place"
            ) from None
        self._counts.append(count)

    def views(self, labels: NDArray[np.int64]) -> DescriptorViews:
        """All of them; two for each label."""
        shape = len(self._counts), *self._shape
        stored = np.memmap(self._path, np.float16, "r", shape=shape)
        return DescriptorViews(stored, np.array(self._counts, np.int64), labels)
