"""Segments: immutable HDF5 files that hold the features of a batch of photos.

Layout, for n photos with f local features in all:

    ids                 n UTF-8 strings, the image ids
    sizes               int32 (n, 2), width and height of the upright photo
    global_descriptors  float32 (n, D)
    offsets             int64 (n + 1): photo i owns local features offsets[i] … offsets[i + 1]
    descriptors         (f, d), packed by ``index.codec``
    keypoints           float32 (f, 2), (x, y)
    scales, scores      float32 (f,)

Datasets are contiguous and not compressed, so that a reader maps them into memory and one photo's
features are a slice. A segment is written under another name, flushed to disk and renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from delg.errors import DelgError
from delg.values import FloatArray, ImageFeatures, LocalFeatures
from index.codec import decode, encode

FOLDER = "segments"
_LOCAL = ("descriptors", "keypoints", "scales", "scores")
_MAPPED = ("sizes", "global_descriptors", "offsets", *_LOCAL)


class SegmentError(DelgError):
    """A segment file is missing or damaged."""


def segment_path(folder: Path, number: int) -> Path:
    """Where segment ``number`` of the index in ``folder`` lies."""
    return folder / FOLDER / f"{number:06d}.h5"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_segment(
    path: Path, ids: Sequence[str], features: Sequence[ImageFeatures], codec: str
) -> None:
    """Write a segment; afterwards it is on disk under its name, or not there at all.

    Args:
        path: of the new file.
        ids: image ids.
        features: one for each id.
        codec: of the local descriptors, see :mod:`index.codec`.

    Raises:
        DelgError: it cannot be written (no space, no permission).
    """
    # HDF5 makes the bytes in memory: on a full disk it can take the whole process with it.
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        local = [one.local for one in features]
        file["ids"] = np.array([one.encode() for one in ids], dtype=h5py.string_dtype())
        file["sizes"] = np.array([(one.width, one.height) for one in features], np.int32)
        file["global_descriptors"] = np.stack([one.global_descriptor for one in features])
        file["offsets"] = np.cumsum([0, *map(len, local)], dtype=np.int64)
        packed = [encode(one.descriptors, codec) for one in local]
        file["descriptors"] = np.concatenate(packed)
        file["keypoints"] = np.concatenate([one.keypoints for one in local])
        file["scales"] = np.concatenate([one.scales for one in local])
        file["scores"] = np.concatenate([one.scores for one in local])
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data.getbuffer())
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise DelgError(f"{path}: cannot be written: {error}") from None


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
                arrays = {name: self._map(file[name]) for name in _MAPPED}
                self.ids = [one.decode() for one in file["ids"][()]]
        except FileNotFoundError:
            raise SegmentError(f"{path}: the segment is missing") from None
        except Exception as error:  # What HDF5 raises depends on which bytes are damaged.
            raise SegmentError(f"{path}: not a readable segment ({error})") from None
        self.sizes, self.global_descriptors = arrays["sizes"], arrays["global_descriptors"]
        self.offsets = np.asarray(arrays["offsets"])
        self._local = {name: arrays[name] for name in _LOCAL}
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
        features = len(local["descriptors"]) if local["descriptors"].ndim == 2 else -1
        good = (
            self.sizes.shape == (images, 2)
            and self.global_descriptors.ndim == 2
            and len(self.global_descriptors) == images
            and offsets.shape == (images + 1,)
            and offsets[0] == 0
            and offsets[-1] == features
            and bool((np.diff(offsets) >= 0).all())
            and local["keypoints"].shape == (features, 2)
            and local["scales"].shape == local["scores"].shape == (features,)
            and all(
                array.dtype.kind in "fi" for array in (self.global_descriptors, *local.values())
            )
        )
        if not good:
            raise SegmentError(f"{self.path}: the parts of the segment do not fit each other")

    def __len__(self) -> int:
        return len(self.ids)

    def local(self, position: int) -> LocalFeatures:
        """Local features of the photo at that position."""
        part = slice(self.offsets[position], self.offsets[position + 1])
        return LocalFeatures(
            keypoints=np.asarray(self._local["keypoints"][part]),
            descriptors=decode(self._local["descriptors"][part]),
            scales=np.asarray(self._local["scales"][part]),
            scores=np.asarray(self._local["scores"][part]),
        )

    def globals(self, positions: Sequence[int] | np.ndarray) -> FloatArray:
        """Global descriptors (len(positions), D) of the photos at those positions."""
        return np.asarray(self.global_descriptors[np.asarray(positions, np.int64)])

    def features(self, position: int) -> ImageFeatures:
        """Everything stored of the photo at that position."""
        width, height = (int(side) for side in self.sizes[position])
        return ImageFeatures(self.globals([position])[0], self.local(position), width, height)
