"""The shortlist: FAISS over the global descriptors, with the catalog's row numbers as ids.

The file is derived from the segments and says at its end which state of the catalog it shows, so
that one left behind by a kill is noticed and brought up to date.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from delg.errors import DelgError
from delg.files import atomic_write
from delg.types import FloatArray
from index.settings import ShortlistSettings

FILE = "global.faiss"
# Magic, generation, number of images trained for, CRC-32 of everything before.
_FOOTER = struct.Struct("<8sQQI")
_LISTED = ("ivf", "rabitq")
# The kinds in words, for people.
KIND_DESCRIPTIONS = {
    "flat": "exhaustive, exact (flat)",
    "fp16": "exhaustive, 2 bytes per component (fp16)",
    "sq8": "exhaustive, 1 byte per component (sq8)",
    "ivf": "inverted lists, 1 byte per component (ivf)",
    "rabitq": "inverted lists, 1 bit per component (rabitq)",
}
_TRAINED = ("sq8", *_LISTED)
# Beyond this many times the images it was trained for, an index is trained anew; from fewer than
# enough to know the descriptors' range, at every growth.
_OUTGROWN, _ENOUGH = 2, 1000
_MAGIC = b"DELGROWS"
# What k-means wants to see for each list (39 at least), and in how many rounds.
_POINTS_PER_LIST, _ROUNDS = 40, 6
# What a quantizer's range wants to see.
_POINTS_FOR_RANGE = 65_536
# Lists that a choice by size makes at most: their training grows with the square.
_MOST_LISTS = 4096
# One list in so many is searched, and so many at least.
_PROBED, _FEWEST_PROBES = 10, 32
# So many times the images wanted at most, where components take a byte or two.
_OF_BYTES = 2
# So many images at most are looked at again for those wanted.
_MOST_AGAIN = 4000

Rows = NDArray[np.int64]


def choose_kind(settings: ShortlistSettings, count: int) -> str:
    """The kind of FAISS index for that many images."""
    if settings.kind != "auto":
        return settings.kind
    return "rabitq" if count >= settings.ivf_from else "fp16"


def _lists(settings: ShortlistSettings, count: int) -> int:
    wanted = settings.nlist or min(_MOST_LISTS, round(4 * math.sqrt(count)))
    return max(1, min(wanted, count // _POINTS_PER_LIST))


class AnnIndex:
    """A FAISS index by inner product that can add, remove and search.

    Args:
        faiss_index: with ids.
        kind: "flat", "fp16", "sq8", "ivf" or "rabitq".
        probes: lists searched, for the last two; see :meth:`set_nprobe`.
        trained_for: number of images whose descriptors it was trained to hold.
    """

    def __init__(self, faiss_index: Any, kind: str, probes: int | None, trained_for: int) -> None:
        self._index, self.kind, self._trained_for = faiss_index, kind, trained_for
        self.set_nprobe(probes)

    def set_nprobe(self, probes: int | None) -> None:
        """Lists searched from now on, or None for a tenth; only an inverted file has any."""
        if self.kind in _LISTED:
            lists = faiss.extract_index_ivf(self._index)
            lists.nprobe = probes or max(_FEWEST_PROBES, lists.nlist // _PROBED)

    @classmethod
    def train(
        cls, dim: int, count: int, sample: Callable[[int], FloatArray], settings: ShortlistSettings
    ) -> AnnIndex:
        """An index of the kind that suits ``count`` images, trained but with nothing in it.

        Args:
            dim: D.
            count: images that will be added.
            sample: gives up to so many descriptors (N, D) to train on.
            settings: the kind and its parameters.
        """
        # With nothing to train on, the exact kind stands in; it is built anew when there is.
        kind = choose_kind(settings, count) if count else "flat"
        spec = {
            "flat": "IDMap2,Flat",
            "fp16": "IDMap2,SQfp16",
            "sq8": "IDMap2,SQ8",
            "ivf": f"IVF{_lists(settings, count)},SQ8",
            "rabitq": f"IVF{_lists(settings, count)},RaBitQ",
        }[kind]
        index = faiss.index_factory(dim, spec, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            lists = _lists(settings, count) if kind in _LISTED else 0
            if lists:
                faiss.extract_index_ivf(index).cp.niter = _ROUNDS
            points = max(_POINTS_PER_LIST * lists, _POINTS_FOR_RANGE)
            index.train(np.ascontiguousarray(sample(points)))
        return cls(index, kind, settings.nprobe, count if kind in _TRAINED else 0)

    @property
    def faiss_index(self) -> Any:
        """The FAISS index itself."""
        return self._index

    def is_exact(self, halves: bool = False) -> bool:
        """Whether the similarities it gives are those of the descriptors put in.

        Args:
            halves: what was put in came from float16.
        """
        return self.kind == "flat" or (halves and self.kind == "fp16")

    def candidate_count(self, count: int, settings: ShortlistSettings) -> int:
        """How many of its answers hold the ``count`` nearest, if they are looked at again."""
        if self.is_exact():
            return count
        # Of a byte a component only neighbours change places.
        times = settings.refine_factor
        if self.kind != "rabitq":
            times = min(times, _OF_BYTES)
        return count + min((times - 1) * count, _MOST_AGAIN)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def suits(self, settings: ShortlistSettings) -> bool:
        """Whether a fresh build would choose this kind, and training has seen enough."""
        if choose_kind(settings, len(self)) != self.kind:
            return False
        growth = _OUTGROWN if self._trained_for >= _ENOUGH else 1
        return self.kind not in _TRAINED or len(self) <= growth * self._trained_for

    def rows(self) -> Rows:
        """Row numbers held, in no order."""
        if self.kind not in _LISTED:
            return faiss.vector_to_array(self._index.id_map).astype(np.int64)
        lists = self._index.invlists
        parts = [
            faiss.rev_swig_ptr(lists.get_ids(i), lists.list_size(i)).copy()
            for i in range(self._index.nlist)
            if lists.list_size(i)
        ]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def add(self, vectors: FloatArray, rows: Rows) -> None:
        """Add descriptors (N, D) under these row numbers."""
        self._index.add_with_ids(np.ascontiguousarray(vectors, np.float32), rows)

    def remove(self, rows: Rows) -> None:
        """Take out what lies under these row numbers."""
        self._index.remove_ids(np.ascontiguousarray(rows, np.int64))

    def search(self, vector: FloatArray, count: int) -> tuple[Rows, FloatArray]:
        """The nearest rows and their similarities, best first; equal ones by row number.

        Args:
            vector: float32 (D,), unit length.
            count: at most so many are returned.
        """
        count = min(count, len(self))
        if count == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        similarities, rows = self._index.search(vector[None], count)
        found = rows[0] >= 0
        rows, similarities = rows[0][found], similarities[0][found]
        order = np.lexsort((rows, -similarities))
        return rows[order], similarities[order]

    def save(self, folder: Path, generation: int) -> None:
        """Write it, marked as showing that generation of the catalog."""
        path = folder / FILE
        with atomic_write(path) as temporary:
            try:
                faiss.write_index(self._index, str(temporary))
            except RuntimeError as error:
                raise DelgError(f"{path}: cannot be written: {error}") from None
            checksum = _checksum(temporary)
            with temporary.open("ab") as file:
                file.write(_FOOTER.pack(_MAGIC, generation, self._trained_for, checksum))

    @classmethod
    def load(cls, folder: Path, dim: int, probes: int | None) -> tuple[AnnIndex, int] | None:
        """The stored shortlist and the generation it shows; None if it is missing or damaged."""
        path = folder / FILE
        try:
            with path.open("rb") as file:
                file.seek(-_FOOTER.size, os.SEEK_END)
                end = file.tell()
                magic, generation, trained_for, checksum = _FOOTER.unpack(file.read())
            # FAISS takes what it reads on trust.
            if magic != _MAGIC or _checksum(path, end) != checksum:
                return None
            index = faiss.read_index(str(path))
        except (OSError, struct.error, RuntimeError):
            return None
        if index.d != dim:
            return None
        return cls(index, _kind_of(index), probes, trained_for), generation


def _checksum(path: Path, length: int | None = None) -> int:
    """CRC-32 of the file's first ``length`` bytes, or of all of them."""
    checksum, left = 0, path.stat().st_size if length is None else length
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            checksum = zlib.crc32(block, checksum)
            left -= len(block)
    return checksum


def _kind_of(index: Any) -> str:
    if isinstance(index, faiss.IndexIVF):
        return "rabitq" if isinstance(index, faiss.IndexIVFRaBitQ) else "ivf"
    inner = faiss.downcast_index(index.index)
    if isinstance(inner, faiss.IndexScalarQuantizer):
        return "fp16" if inner.sq.qtype == faiss.ScalarQuantizer.QT_fp16 else "sq8"
    return "flat"
