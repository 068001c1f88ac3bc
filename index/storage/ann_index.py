"""Approximate nearest neighbours: FAISS over the global descriptors, with the catalog's row numbers
as ids.

The file is derived from the segments. Its footer says which state of the catalog it shows, so that
one left behind by a kill is noticed and brought up to date.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np
from numpy.typing import NDArray

from delg.errors import DelgError
from delg.files import atomic_write
from delg.forks import after_fork
from delg.types import FloatArray
from index.settings import GlobalCodec, ShortlistSettings
from index.storage.global_codec import STEPS

FILE = "global.faiss"
# Mark of the descriptors' space, generation, number of images trained for, CRC-32 of everything
# before.
_FOOTER = struct.Struct("<8sQQI")
_LISTED = ("ivf", "rabitq")
# The kinds in words, for people.
KIND_DESCRIPTIONS = {
    "flat": "exhaustive, exact (flat)",
    "fp16": "exhaustive, 2 bytes per component (fp16)",
    "int8": "exhaustive, 1 byte per component (int8)",
    "sq8": "exhaustive, 1 byte per component (sq8)",
    "ivf": "inverted lists, 1 byte per component (ivf)",
    "rabitq": "inverted lists, 1 bit per component (rabitq)",
}
_TRAINED = ("sq8", *_LISTED)
# The types of components of which a kind keeps all digits.
_EXACT_FOR: dict[str, tuple[GlobalCodec, ...]] = {
    "flat": ("int8", "float16", "float32"),
    "fp16": ("int8", "float16"),
    "int8": ("int8",),
}
_SCALAR_KINDS = {
    faiss.ScalarQuantizer.QT_fp16: "fp16",
    faiss.ScalarQuantizer.QT_8bit_uniform: "int8",
}
# An index is trained anew beyond this multiple of the images it was trained for; below enough of
# them to know the descriptors' range, at every growth.
_MAX_GROWTH, _ENOUGH_IMAGES = 2, 1000
_MAGIC = b"DELGROWS"
_BLOCK = 1 << 20
# Sample per list that k-means should have (39 at least), and its iterations.
_POINTS_PER_LIST, _KMEANS_ITERATIONS = 40, 6
# Sample from which the range of the components is learnt.
_POINTS_FOR_RANGE = 65_536
# Where the settings leave it open: at most so many lists, as training grows with the square.
_MAX_LISTS = 4096
# Where the settings leave it open: one list in ten is searched, and at least so many.
_LISTS_PER_PROBE, _MIN_PROBES = 10, 32
# Where components take a byte or two, only neighbours change places: refine fewer.
_MAX_BYTE_REFINE_FACTOR = 2
# Candidates beyond the results wanted, at most, that are ranked again.
_MAX_EXTRA_CANDIDATES = 4000

Rows = NDArray[np.int64]


def products(vectors: FloatArray, query: FloatArray) -> FloatArray:
    """Inner products, float32 (n,), of vectors (n, D) and a query (D,); each the same whatever the
    others are, where a matrix product rounds differently beside other rows."""
    return np.asarray(np.einsum("nd,d->n", vectors, query), np.float32)


# The thread that forks would wait for OpenMP's other threads, which the child does not have.
after_fork(lambda: faiss.omp_set_num_threads(1))


def choose_kind(settings: ShortlistSettings, count: int, stored: GlobalCodec) -> str:
    """The kind of FAISS index for that many images, whose descriptors came from that type."""
    if settings.kind != "auto":
        return settings.kind
    if count >= settings.ivf_from:
        return "rabitq"
    return "int8" if stored == "int8" else "fp16"


def choose_list_count(settings: ShortlistSettings, count: int) -> int:
    """Lists of an inverted file for that many images: what is asked for, if they fill them."""
    lists = settings.nlist or min(_MAX_LISTS, round(4 * math.sqrt(count)))
    return max(1, min(lists, count // _POINTS_PER_LIST))


class AnnIndex:
    """A FAISS index by inner product that can add, remove and search.

    Args:
        faiss_index: with ids.
        kind: "flat", "fp16", "int8", "sq8", "ivf" or "rabitq".
        nprobe: lists searched, for the last two; see :meth:`set_nprobe`.
        trained_for: number of images whose descriptors it was trained to hold.
    """

    def __init__(self, faiss_index: Any, kind: str, nprobe: int | None, trained_for: int) -> None:
        self._index, self.kind, self._trained_for = faiss_index, kind, trained_for
        self.set_nprobe(nprobe)

    def set_nprobe(self, nprobe: int | None) -> None:
        """Lists searched from now on, or None for a tenth; only an inverted file has any."""
        if self.kind in _LISTED:
            lists = faiss.extract_index_ivf(self._index)
            lists.nprobe = nprobe or max(_MIN_PROBES, lists.nlist // _LISTS_PER_PROBE)

    @classmethod
    def train(
        cls,
        dim: int,
        count: int,
        sample: Callable[[int], FloatArray],
        settings: ShortlistSettings,
        stored: GlobalCodec = "float32",
    ) -> AnnIndex:
        """An empty index of the kind that suits ``count`` images, trained for them.

        Args:
            dim: D.
            count: images that will be added.
            sample: called with a number, gives at most so many descriptors (N, D) to train on.
            settings: the kind and its parameters.
            stored: the type that descriptors come from.
        """
        # With nothing to train on, the exact kind stands in; it is rebuilt when there is.
        kind = choose_kind(settings, count, stored) if count else "flat"
        if kind == "int8":
            return cls(_index_of_bytes(dim), kind, settings.nprobe, 0)
        lists = choose_list_count(settings, count) if kind in _LISTED else 0
        description = {
            "flat": "IDMap2,Flat",
            "fp16": "IDMap2,SQfp16",
            "sq8": "IDMap2,SQ8",
            "ivf": f"IVF{lists},SQ8",
            "rabitq": f"IVF{lists},RaBitQ",
        }[kind]
        index = faiss.index_factory(dim, description, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            if lists:
                faiss.extract_index_ivf(index).cp.niter = _KMEANS_ITERATIONS
            points = max(_POINTS_PER_LIST * lists, _POINTS_FOR_RANGE)
            index.train(np.ascontiguousarray(sample(points)))
        return cls(index, kind, settings.nprobe, count if kind in _TRAINED else 0)

    @property
    def faiss_index(self) -> Any:
        """The FAISS index itself."""
        return self._index

    @property
    def list_count(self) -> int:
        """Lists of an inverted file; 0 for other kinds."""
        return int(faiss.extract_index_ivf(self._index).nlist) if self.kind in _LISTED else 0

    @property
    def bytes_per_image(self) -> int:
        """Bytes of one image's code and row number."""
        index = self._index if self.kind in _LISTED else self._index.index
        return int(index.sa_code_size()) + np.dtype(np.int64).itemsize

    def is_exact(self, stored: GlobalCodec = "float32") -> bool:
        """Whether its similarities are those of the descriptors that were added.

        Args:
            stored: the type that they came from.
        """
        return stored in _EXACT_FOR.get(self.kind, ())

    def candidate_count(self, count: int, settings: ShortlistSettings) -> int:
        """Candidates to rank again by their descriptors in order to find the ``count`` nearest."""
        if self.is_exact():
            return count
        factor = settings.refine_factor
        if self.kind != "rabitq":
            factor = min(factor, _MAX_BYTE_REFINE_FACTOR)
        return count + min((factor - 1) * count, _MAX_EXTRA_CANDIDATES)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def suits(self, settings: ShortlistSettings, stored: GlobalCodec = "float32") -> bool:
        """Whether a fresh build of descriptors that come from that type would choose this kind, and
        training has seen enough."""
        if choose_kind(settings, len(self), stored) != self.kind:
            return False
        max_growth = _MAX_GROWTH if self._trained_for >= _ENOUGH_IMAGES else 1
        return self.kind not in _TRAINED or len(self) <= max_growth * self._trained_for

    def rows(self) -> Rows:
        """Row numbers of the images in it, in no order."""
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
        """Add descriptors (N, D) under these row numbers (N,)."""
        self._index.add_with_ids(np.ascontiguousarray(vectors, np.float32), rows)

    def remove(self, rows: Rows) -> None:
        """Remove the descriptors under these row numbers."""
        self._index.remove_ids(np.ascontiguousarray(rows, np.int64))

    def search(
        self, vector: FloatArray, count: int, selected: Rows | None = None
    ) -> tuple[Rows, FloatArray]:
        """The nearest rows and their similarities, best first; equal ones by row number.

        Args:
            vector: float32 (D,), unit length.
            count: at most this many are returned; so many, if so many are selected.
            selected: rows to search among, ascending; those that are not in the index do not
                matter. None: all.
        """
        count = min(count, len(self) if selected is None else len(selected))
        if count == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        if selected is None:
            similarities, rows = self._index.search(vector[None], count)
        else:
            similarities, rows = self._search_among(vector, count, selected)
        # FAISS fills up with -1 where the lists searched hold fewer.
        is_hit = rows[0] >= 0
        rows, similarities = rows[0][is_hit], similarities[0][is_hit]
        order = np.lexsort((rows, -similarities))
        return rows[order], similarities[order]

    def _search_among(
        self, vector: FloatArray, count: int, selected: Rows
    ) -> tuple[FloatArray, Rows]:
        """What FAISS returns, -1 included, of the rows selected."""
        is_selected = np.zeros(int(selected[-1]) + 1, np.uint8)
        is_selected[selected] = 1
        # Its types are of C++, what Python passes is not.
        wrapped: Any = faiss
        selector = wrapped.IDSelectorBitmap(np.packbits(is_selected, bitorder="little"))
        if self.kind not in _LISTED:
            parameters = wrapped.SearchParameters(sel=selector)
            return self._index.search(vector[None], count, params=parameters)
        lists = faiss.extract_index_ivf(self._index)
        # As many of the selected are looked at as would be of all; more where these are too few.
        probes = min(lists.nlist, math.ceil(lists.nprobe * len(self) / len(selected)))
        while True:
            parameters = _list_parameters(self.kind)(sel=selector, nprobe=probes)
            similarities, rows = self._index.search(vector[None], count, params=parameters)
            if probes == lists.nlist or rows[0, -1] >= 0:
                return similarities, rows
            probes = min(lists.nlist, 2 * probes)

    def save(self, folder: Path, generation: int, space: str = "", name: str = FILE) -> None:
        """Write it, marked as showing that generation of the catalog.

        Args:
            folder: of the image index.
            generation: of the catalog.
            space: hexadecimal digest of what was done to the model's descriptors; empty: nothing.
            name: of the file.

        Raises:
            DelgError: it cannot be written.
        """
        path = folder / name
        with atomic_write(path) as temporary:
            try:
                with temporary.open("wb") as file:
                    writer = faiss.PyCallbackIOWriter(file.write)  # type: ignore[attr-defined]
                    faiss.write_index(self._index, writer)
            except RuntimeError as error:
                raise DelgError(f"{path}: cannot be written: {error}") from None
            with temporary.open("r+b") as file:
                checksum = _checksum(file, temporary.stat().st_size)
                file.seek(0, os.SEEK_END)
                file.write(_FOOTER.pack(_mark(space), generation, self._trained_for, checksum))

    @classmethod
    def load(
        cls, folder: Path, dim: int, nprobe: int | None, space: str = "", name: str = FILE
    ) -> tuple[AnnIndex, int] | None:
        """The stored index and the generation it shows; None if it is missing, damaged or of
        another space.

        Args:
            folder: of the image index.
            dim: D, of the descriptors that it must hold.
            nprobe: see :meth:`set_nprobe`.
            space, name: see :meth:`save`.
        """
        path = folder / name
        try:
            with path.open("rb") as file:
                file.seek(-_FOOTER.size, os.SEEK_END)
                end = file.tell()
                magic, generation, trained_for, checksum = _FOOTER.unpack(file.read())
                # FAISS does not check what it reads.
                if magic != _mark(space) or _checksum(file, end) != checksum:
                    return None
                # By this handle, as another writer may meanwhile have put a new file at the path.
                file.seek(0)
                reader: Any = faiss.PyCallbackIOReader  # type: ignore[attr-defined]
                index = faiss.read_index(reader(file.read, _BLOCK))
        except (OSError, struct.error, RuntimeError):
            return None
        if index.d != dim:
            return None
        return cls(index, _kind_of(index), nprobe, trained_for), generation


def _index_of_bytes(dim: int) -> Any:
    """An empty index whose codes are the bytes of :mod:`index.storage.global_codec`."""
    scalar = faiss.IndexScalarQuantizer(
        dim, faiss.ScalarQuantizer.QT_8bit_uniform, faiss.METRIC_INNER_PRODUCT
    )
    # A code c stands for the middle of the c-th of 256 steps from the smallest value that it is
    # trained on: whole steps lie in the middle of these.
    ends = (np.array([0, 255], np.float32) - 128.5) / STEPS
    scalar.train(np.repeat(ends[:, None], dim, axis=1))
    return faiss.IndexIDMap2(scalar)


def _list_parameters(kind: str) -> Any:
    return faiss.IVFRaBitQSearchParameters if kind == "rabitq" else faiss.SearchParametersIVF


def _mark(space: str) -> bytes:
    return bytes.fromhex(space)[: len(_MAGIC)] if space else _MAGIC


def _checksum(file: BinaryIO, length: int) -> int:
    """CRC-32 of the file's first ``length`` bytes."""
    checksum, remaining = 0, length
    file.seek(0)
    while remaining > 0 and (block := file.read(min(remaining, _BLOCK))):
        checksum = zlib.crc32(block, checksum)
        remaining -= len(block)
    return checksum


def _kind_of(index: Any) -> str:
    if isinstance(index, faiss.IndexIVF):
        return "rabitq" if isinstance(index, faiss.IndexIVFRaBitQ) else "ivf"
    inner = faiss.downcast_index(index.index)
    if isinstance(inner, faiss.IndexScalarQuantizer):
        return _SCALAR_KINDS.get(inner.sq.qtype, "sq8")
    return "flat"
