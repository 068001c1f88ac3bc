"""Segments: immutable HDF5 files that hold the features of a batch of photos.

Layout, for n photos with f local features in all:

    ids                 n UTF-8 strings, the image ids
    sizes               int32 (n, 2), width and height of the upright photo
    global_descriptors  float32 (n, D), or float16
    offsets             int64 (n + 1): photo i owns local features offsets[i] … offsets[i + 1]
    descriptors         (f, d), packed by ``index.storage.codec``
    keypoints           float32 (f, 2), (x, y)
    scales, scores      float32 (f,)

With the codec "compact" the global descriptors are float16, and in place of the last four:

    records             uint8 (f, m + 5), a feature a row, see ``index.storage.feature_record``
    rotation, centroids float16 (d, r), (m, 256, r / m), of ``index.storage.product_quantizer``

Datasets are contiguous and not compressed, so that a reader maps them into memory and one photo's
features are a slice. A segment is written under another name, flushed to disk and renamed.
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from delg.errors import DelgError
from delg.files import atomic_write
from delg.types import FloatArray, ImageFeatures, LocalFeatures
from index.storage import feature_record
from index.storage.codec import decode, encode
from index.storage.feature_record import EXTRA, Records, decode_records, encode_records
from index.storage.product_quantizer import CENTROIDS, ProductQuantizer
from index.verification.int8_matmul import Descriptors
from index.verification.matchable import MatchableFeatures

FOLDER = "segments"
_LOCAL = ("descriptors", "keypoints", "scales", "scores")
_QUANTISER = ("rotation", "centroids")
_COMPACT = ("records", *_QUANTISER)
_WHOLE = ("sizes", "global_descriptors", "offsets")


class SegmentError(DelgError):
    """A segment file is missing or damaged."""


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """A photo's features as a compact segment holds them.

    Attributes:
        global_descriptor: float16 (D,).
        records: see :mod:`index.storage.feature_record`.
    """

    global_descriptor: NDArray[np.float16]
    records: Records
    width: int
    height: int

    @classmethod
    def encode(cls, features: ImageFeatures, quantizer: ProductQuantizer) -> EncodedImage:
        """Pack what was extracted."""
        size = features.width, features.height
        return cls(
            features.global_descriptor.astype(np.float16),
            encode_records(features.local, size, quantizer),
            *size,
        )


def segment_path(folder: Path, number: int) -> Path:
    """Where segment ``number`` of the index in ``folder`` lies."""
    return folder / FOLDER / f"{number:06d}.h5"


def write_segment(
    path: Path,
    ids: Sequence[str],
    features: Sequence[ImageFeatures],
    codec: str,
    whole: type[np.floating] = np.float32,
) -> None:
    """Write a segment; afterwards it is on disk under its name, or not there at all.

    Args:
        path: of the new file.
        ids: image ids.
        features: one for each id.
        codec: of the local descriptors, see :mod:`index.storage.codec`.
        whole: type of the global descriptors.

    Raises:
        DelgError: it cannot be written (no space, no permission).
    """
    local = [one.local for one in features]
    arrays = {
        "global_descriptors": np.stack([one.global_descriptor.astype(whole) for one in features]),
        "descriptors": np.concatenate([encode(one.descriptors, codec) for one in local]),
        "keypoints": np.concatenate([one.keypoints for one in local]),
        "scales": np.concatenate([one.scales for one in local]),
        "scores": np.concatenate([one.scores for one in local]),
    }
    sizes = [(one.width, one.height) for one in features]
    _write(path, ids, sizes, list(map(len, local)), arrays)


def write_compact_segment(
    path: Path, ids: Sequence[str], photos: Sequence[EncodedImage], quantizer: ProductQuantizer
) -> None:
    """The same of packed photos, all of them by that quantizer; see :func:`write_segment`."""
    arrays = {
        "global_descriptors": np.stack([one.global_descriptor for one in photos]),
        "records": np.concatenate([one.records for one in photos]),
        "rotation": quantizer.rotation,
        "centroids": quantizer.centroids,
    }
    sizes = [(one.width, one.height) for one in photos]
    _write(path, ids, sizes, [len(one.records) for one in photos], arrays)


def _write(
    path: Path,
    ids: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    counts: Sequence[int],
    arrays: dict[str, np.ndarray],
) -> None:
    # HDF5 makes the bytes in memory: on a full disk it can take the whole process with it.
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        file["ids"] = np.array([one.encode() for one in ids], dtype=h5py.string_dtype())
        file["sizes"] = np.array(sizes, np.int32)
        file["offsets"] = np.cumsum([0, *counts], dtype=np.int64)
        for name, array in arrays.items():
            file[name] = array
    with atomic_write(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data.getbuffer())


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class Segment:
    """One segment, mapped into memory.

    It stays readable after the file is deleted, as a compaction elsewhere may do.

    Args:
        path: of the file.
        held: its bytes, if it is open already.

    Raises:
        SegmentError: it is missing or not a segment.
    """

    def __init__(self, path: Path, held: mmap.mmap | None = None) -> None:
        self.path = path
        try:
            self._held = held or _mapped(path)
            with h5py.File(self._held, "r") as file:
                parts = _COMPACT if "records" in file else _LOCAL
                arrays = {name: self._map(file[name]) for name in (*_WHOLE, *parts)}
                self.ids = [one.decode() for one in file["ids"][()]]
        except FileNotFoundError:
            raise SegmentError(f"{path}: the segment is missing") from None
        except Exception as error:  # What HDF5 raises depends on which bytes are damaged.
            raise SegmentError(f"{path}: not a readable segment ({error})") from None
        self.sizes, self._global = arrays["sizes"], arrays["global_descriptors"]
        self.offsets = np.asarray(arrays["offsets"])
        self._local = {name: arrays[name] for name in parts if name not in _QUANTISER}
        # Of a compact segment; None for one whose descriptors are as they were extracted.
        self.quantizer: ProductQuantizer | None = None
        if "records" in self._local:
            self.quantizer = ProductQuantizer(*(np.asarray(arrays[name]) for name in _QUANTISER))
        self._check()

    def _map(self, dataset: h5py.Dataset) -> np.ndarray:
        offset = dataset.id.get_offset()
        if 0 in dataset.shape:
            return np.zeros(dataset.shape, dataset.dtype)
        if offset is None:
            raise ValueError(f"{dataset.name} is not stored in one piece")
        numbers = np.frombuffer(self._held, dataset.dtype, dataset.size, offset)
        return numbers.reshape(dataset.shape)

    def _check(self) -> None:
        images, offsets, local = len(self.ids), self.offsets, self._local
        rows = local["descriptors" if self.quantizer is None else "records"]
        features = len(rows) if rows.ndim == 2 else -1
        good = (
            self.sizes.shape == (images, 2)
            and self._global.ndim == 2
            and len(self._global) == images
            and self._global.dtype.kind == "f"
            and offsets.shape == (images + 1,)
            and offsets[0] == 0
            and offsets[-1] == features
            and bool((np.diff(offsets) >= 0).all())
            and self._local_fits(features)
        )
        if not good:
            raise SegmentError(f"{self.path}: the parts of the segment do not fit each other")

    def _local_fits(self, features: int) -> bool:
        local, quantizer = self._local, self.quantizer
        if quantizer is None:
            return (
                local["keypoints"].shape == (features, 2)
                and local["scales"].shape == local["scores"].shape == (features,)
                and all(array.dtype.kind in "fi" for array in local.values())
            )
        rotation, centroids = quantizer.rotation, quantizer.centroids
        return (
            local["records"].dtype == np.uint8
            and rotation.dtype == centroids.dtype == np.float16
            and rotation.ndim == 2
            and centroids.ndim == 3
            and centroids.shape[1] == CENTROIDS
            and centroids.shape[0] * centroids.shape[2] == rotation.shape[1]
            and local["records"].shape[1] == quantizer.code_bytes + EXTRA
            and bool((self.sizes > 0).all())
        )

    def __len__(self) -> int:
        return len(self.ids)

    def _part(self, position: int) -> slice:
        return slice(self.offsets[position], self.offsets[position + 1])

    def size(self, position: int) -> tuple[int, int]:
        """Width and height of the photo at that position."""
        width, height = self.sizes[position]
        return int(width), int(height)

    def local(self, position: int) -> LocalFeatures:
        """Local features of the photo at that position."""
        part = self._part(position)
        if self.quantizer is not None:
            records = np.asarray(self._local["records"][part])
            return decode_records(records, self.size(position), self.quantizer)
        return LocalFeatures(
            keypoints=np.asarray(self._local["keypoints"][part]),
            descriptors=decode(self._local["descriptors"][part]),
            scales=np.asarray(self._local["scales"][part]),
            scores=np.asarray(self._local["scores"][part]),
        )

    def matchable(self, position: int) -> MatchableFeatures:
        """What matching and verification need of the photo at that position."""
        part, size = self._part(position), self.size(position)
        descriptors: Descriptors
        if self.quantizer is None:
            descriptors = decode(self._local["descriptors"][part])
            places, scales = (
                np.asarray(self._local[name][part]) for name in ("keypoints", "scales")
            )
            return MatchableFeatures(places, descriptors, scales, size)
        # One read.
        records = np.array(self._local["records"][part])
        descriptors = self.quantizer.decode_int8(records[:, :-EXTRA])
        return MatchableFeatures(
            feature_record.keypoints(records, size),
            descriptors,
            feature_record.scales(records),
            size,
            self.quantizer,
        )

    def encoded(self, position: int, quantizer: ProductQuantizer) -> EncodedImage:
        """The photo at that position, packed by that quantizer; unchanged if it is this one's."""
        if self.quantizer is None or not self.quantizer.is_same(quantizer):
            return EncodedImage.encode(self.features(position), quantizer)
        records = np.asarray(self._local["records"][self._part(position)])
        return EncodedImage(np.asarray(self._global[position]), records, *self.size(position))

    def globals(self, positions: Sequence[int] | np.ndarray) -> FloatArray:
        """Global descriptors (len(positions), D) of the photos at those positions."""
        return np.asarray(self._global[np.asarray(positions, np.int64)], np.float32)

    def features(self, position: int) -> ImageFeatures:
        """Everything stored of the photo at that position."""
        return ImageFeatures(
            self.globals([position])[0], self.local(position), *self.size(position)
        )
