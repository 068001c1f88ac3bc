"""Segments: immutable HDF5 files that hold the features of a batch of photos.

Layout, for n photos with f local features in all:

    ids                 n UTF-8 strings, the image ids
    sizes               int32 (n, 2), width and height of the upright photo
    global_descriptors  float32, float16 or int8 (n, D), :mod:`index.storage.global_codec`
    offsets             int64 (n + 1): photo i owns local features offsets[i] … offsets[i + 1]
    descriptors         (f, d), encoded by :mod:`index.storage.codec`
    keypoints           float32 (f, 2), (x, y)
    scales, scores      float32 (f,)

With the codec "compact", in place of the last four:

    records             uint8 (f, m + 5), one feature per row, :mod:`index.storage.feature_record`
    rotation, centroids float16 (d, r), (m, 256, r / m), of :mod:`index.storage.product_quantizer`

Where the model has a vocabulary, with the words of all photos, at most 65,535 each, in one row:

    word_counts         uint16 (n,), words of each photo
    words               uint16 (t,), ascending within a photo
    word_signs          uint8 (t, b), see :class:`index.storage.vocabulary.BinaryWords`

and the attribute ``vocabulary``, its digest. They are derived from the descriptors as stored here.

Parts of photos that are stored as photos of their own (``store.regions``), r in all, follow behind
the photos in ``sizes``, ``global_descriptors`` and ``offsets``, which have n + r rows then:

    region_photos       int32 (r,), position of the photo that each is part of, ascending
    region_origins      int32 (r, 2), (x, y) of its top-left pixel there

The file's attribute ``scales`` is "pyramid". Files without it may be of versions before 0.2, which
stored the scales of published exports upside down (:mod:`index.storage.inverse_scales`).

Datasets are contiguous and not compressed, so that a reader maps them into memory and one photo's
features are a slice. :mod:`index.storage.segment_writer` writes them.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from delg.errors import DelgError
from delg.types import (
    Box,
    FloatArray,
    ImageFeatures,
    LocalFeatures,
    RegionFeatures,
    invert_scales,
)
from index.storage.codec import decode
from index.storage.feature_record import (
    EXTRA_BYTES,
    Records,
    decode_keypoints,
    decode_records,
    decode_scales,
    decode_scores,
    encode_records,
    invert_record_scales,
)
from index.storage.global_codec import decode_global
from index.storage.inverted_file import Postings
from index.storage.product_quantizer import CENTROIDS, ProductQuantizer
from index.storage.vocabulary import BinaryWords, Vocabulary
from index.verification.int8_matmul import Descriptors
from index.verification.matchable import MatchableFeatures

FOLDER = "segments"
_PER_IMAGE = ("sizes", "global_descriptors", "offsets")
_LOCAL = ("descriptors", "keypoints", "scales", "scores")
_GLOBAL_TYPES = (np.int8, np.float16, np.float32)
_QUANTIZER = ("rotation", "centroids")
_COMPACT = ("records", *_QUANTIZER)
WORDS = ("word_counts", "words", "word_signs")
REGIONS = ("region_photos", "region_origins")
# The attribute that names the vocabulary of the words.
VOCABULARY_MARK = "vocabulary"
# The attribute that says that scales are pyramid scales.
SCALES_MARK = ("scales", "pyramid")


class SegmentError(DelgError):
    """A segment file is missing or damaged."""


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """A photo's features as a compact segment holds them.

    Attributes:
        global_descriptor: float32 (D,).
        records: uint8 (N, m + 5), see :mod:`index.storage.feature_record`.
        width, height: pixels of the upright photo.
        regions: x and y of each part of the photo that is stored, and its features.
    """

    global_descriptor: FloatArray
    records: Records
    width: int
    height: int
    regions: tuple[tuple[int, int, EncodedImage], ...] = ()

    @classmethod
    def encode(cls, features: ImageFeatures, quantizer: ProductQuantizer) -> EncodedImage:
        """Encode features as they were extracted."""
        size = features.width, features.height
        parts = [(p.x, p.y, cls.encode(p.features, quantizer)) for p in features.regions]
        return cls(
            features.global_descriptor,
            encode_records(features.local, size, quantizer),
            *size,
            tuple(parts),
        )


def segment_path(folder: Path, number: int) -> Path:
    """Where segment ``number`` of the index in ``folder`` lies."""
    return folder / FOLDER / f"{number:06d}.h5"


def _map_file(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset of the file itself.

    Raises:
        ValueError: it is a link, which may lead to another file.
    """
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is a link")
    dataset = file[name]
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{name} lies in another file")
    return dataset


class Segment:
    """One segment, mapped into memory.

    It stays readable after the file is deleted, as a compaction elsewhere may do. What its methods
    return are copies, which do not keep the file open.

    Args:
        path: of the file.
        data: its mapped bytes, if it is open already.
        has_inverse_scales: whether the index is one whose segments, if they are not marked, hold
            1 / pyramid scale.

    Attributes:
        ids: of the photos, by position.
        sizes: int32 (n, 2), width and height of the photos.
        offsets: int64 (n + 1), see the head of this file.
        quantizer: of a compact segment; None where descriptors are stored component by component.
        postings: the words of its photos; None where it has none.
        inverse_scales: whether the file holds 1 / pyramid scale; what is read from it does not.

    Raises:
        SegmentError: it is missing or not a segment.
    """

    def __init__(
        self,
        path: Path,
        data: mmap.mmap | None = None,
        has_inverse_scales: Callable[[], bool] = lambda: False,
    ) -> None:
        self.path = path
        try:
            self._data = data or _map_file(path)
            with h5py.File(self._data, "r") as file:
                parts = _COMPACT if "records" in file else _LOCAL
                words = WORDS if VOCABULARY_MARK in file.attrs else ()
                regions = REGIONS if REGIONS[0] in file else ()
                names = (*_PER_IMAGE, *parts, *words, *regions)
                arrays = {name: self._view(_dataset(file, name)) for name in names}
                vocabulary = str(file.attrs.get(VOCABULARY_MARK, ""))
                ids = _dataset(file, "ids")
                if ids.ndim != 1 or ids.size > len(self._data):
                    raise ValueError("more ids than it has bytes")
                self.ids = [image_id.decode() for image_id in ids[()]]
                is_marked = SCALES_MARK[0] in file.attrs
        except FileNotFoundError:
            raise SegmentError(f"{path}: the segment is missing") from None
        except Exception as error:  # What HDF5 raises depends on which bytes are damaged.
            raise SegmentError(f"{path}: not a readable segment ({error})") from None
        self.sizes, self._global = arrays["sizes"], arrays["global_descriptors"]
        self.offsets = np.asarray(arrays["offsets"])
        self._local = {name: arrays[name] for name in parts if name not in _QUANTIZER}
        self.quantizer: ProductQuantizer | None = None
        if "records" in self._local:
            self.quantizer = ProductQuantizer(*(np.array(arrays[name]) for name in _QUANTIZER))
        self.postings: Postings | None = None
        if words:
            self.postings = Postings(vocabulary, *(arrays[name] for name in words))
        self.region_photos, self._origins = np.zeros(0, np.int32), np.zeros((0, 2), np.int32)
        if regions:
            self.region_photos, self._origins = (np.array(arrays[name]) for name in regions)
        self._check_shapes()
        self.inverse_scales = not is_marked and has_inverse_scales()

    def _view(self, dataset: h5py.Dataset) -> np.ndarray:
        """The dataset as an array that reads from the mapped file."""
        offset = dataset.id.get_offset()
        if 0 in dataset.shape:
            return np.zeros(dataset.shape, dataset.dtype)
        if offset is None:
            raise ValueError(f"{dataset.name} is not stored in one piece")
        values = np.frombuffer(self._data, dataset.dtype, dataset.size, offset)
        return values.reshape(dataset.shape)

    def _check_shapes(self) -> None:
        offsets, local = self.offsets, self._local
        images = len(self.ids) + len(self.region_photos)
        rows = local["descriptors" if self.quantizer is None else "records"]
        features = len(rows) if rows.ndim == 2 else -1
        fits = (
            self.sizes.shape == (images, 2)
            and self._global.ndim == 2
            and len(self._global) == images
            and self._global.dtype in _GLOBAL_TYPES
            and offsets.shape == (images + 1,)
            and offsets[0] == 0
            and offsets[-1] == features
            and bool((np.diff(offsets) >= 0).all())
            and self._local_fits(features)
            and (self.postings is None or self.postings.fit(len(self.ids)))
            and self._regions_fit()
        )
        if not fits:
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
            and local["records"].shape[1] == quantizer.code_bytes + EXTRA_BYTES
            and bool((self.sizes > 0).all())
        )

    def _regions_fit(self) -> bool:
        photos, origins = self.region_photos, self._origins
        return (
            photos.dtype.kind == origins.dtype.kind == "i"
            and photos.shape == (len(origins),)
            and origins.shape == (len(photos), 2)
            and bool((np.diff(photos) >= 0).all())
            and (not len(photos) or 0 <= photos[0] <= photos[-1] < len(self.ids))
        )

    def __len__(self) -> int:
        return len(self.ids)

    def regions(self, position: int) -> range:
        """Where the parts of the photo at that position are stored: positions like its own."""
        first, end = np.searchsorted(self.region_photos, [position, position + 1])
        return range(len(self) + int(first), len(self) + int(end))

    def _origin(self, position: int) -> tuple[int, int]:
        x, y = self._origins[position - len(self)]
        return int(x), int(y)

    def region_box(self, position: int) -> Box:
        """The part at that position in its photo, (x, y, width, height) in pixels."""
        x, y = self._origin(position)
        width, height = self.size(position)
        return float(x), float(y), float(width), float(height)

    def _rows(self, position: int) -> slice:
        """The local features of the photo at that position.

        Raises:
            SegmentError: there is none.
        """
        if not 0 <= position < len(self.sizes):
            raise SegmentError(f"{self.path}: has no photo {position}")
        return slice(self.offsets[position], self.offsets[position + 1])

    def size(self, position: int) -> tuple[int, int]:
        """Width and height of the photo at that position, pixels."""
        width, height = self.sizes[position]
        return int(width), int(height)

    def global_descriptors(self, positions: Sequence[int] | np.ndarray) -> FloatArray:
        """Global descriptors float32 (len(positions), D) of the photos at those positions.

        Raises:
            SegmentError: there is no photo at one of them.
        """
        places = np.asarray(positions, np.int64)
        if len(places) and not 0 <= places.min() <= places.max() < len(self.sizes):
            raise SegmentError(f"{self.path}: has no photo {places.max()}")
        return decode_global(self._global[places])

    def local(self, position: int) -> LocalFeatures:
        """Local features of the photo at that position."""
        rows = self._rows(position)
        if self.quantizer is not None:
            records = np.asarray(self._local["records"][rows])
            local = decode_records(records, self.size(position), self.quantizer)
        else:
            local = LocalFeatures(
                keypoints=np.array(self._local["keypoints"][rows]),
                descriptors=decode(self._local["descriptors"][rows]),
                scales=np.array(self._local["scales"][rows]),
                scores=np.array(self._local["scores"][rows]),
            )
        return replace(local, scales=self._pyramid_scales(local.scales))

    def _pyramid_scales(self, stored: FloatArray) -> FloatArray:
        return invert_scales(stored) if self.inverse_scales else stored

    def count_features(self, least_score: float) -> NDArray[np.int64]:
        """For each photo, int64 (n,), its local features with that score or a higher one."""
        if self.quantizer is not None:
            scores = decode_scores(self._local["records"])
        else:
            scores = self._local["scores"]
        before = np.concatenate([[0], np.cumsum(scores >= least_score)])[self.offsets]
        return np.diff(before)[: len(self)]

    def features(self, position: int) -> ImageFeatures:
        """Everything stored of the photo at that position."""
        [descriptor] = self.global_descriptors([position])
        regions = tuple(
            RegionFeatures(*self._origin(part), self.features(part))
            for part in self.regions(position)
        )
        return ImageFeatures(descriptor, self.local(position), *self.size(position), regions)

    def matchable(self, position: int) -> MatchableFeatures:
        """What matching and verification need of the photo at that position."""
        rows, size = self._rows(position), self.size(position)
        descriptors: Descriptors
        if self.quantizer is None:
            descriptors = decode(self._local["descriptors"][rows])
            keypoints = np.array(self._local["keypoints"][rows])
            scales = self._pyramid_scales(np.array(self._local["scales"][rows]))
            return MatchableFeatures(keypoints, descriptors, scales, size)
        # Copied, so that the file is read once.
        records = np.array(self._local["records"][rows])
        descriptors = self.quantizer.decode_int8(records[:, :-EXTRA_BYTES])
        return MatchableFeatures(
            decode_keypoints(records, size),
            descriptors,
            self._pyramid_scales(decode_scales(records)),
            size,
            self.quantizer,
        )

    def words(self, position: int, vocabulary: Vocabulary, max_words: int) -> BinaryWords:
        """The words of the photo at that position, from its descriptors if they are not stored.

        Args:
            max_words: see :meth:`index.storage.vocabulary.Vocabulary.photo_words`.
        """
        if self.postings is not None and self.postings.are_of(vocabulary):
            return self.postings.photo(position)
        return vocabulary.photo_words(self._descriptors(position), max_words)

    def _descriptors(self, position: int) -> FloatArray:
        rows = self._rows(position)
        if self.quantizer is None:
            return decode(self._local["descriptors"][rows])
        return self.quantizer.reconstruct(self._local["records"][rows, :-EXTRA_BYTES])

    def encoded(self, position: int, quantizer: ProductQuantizer) -> EncodedImage:
        """The photo at that position, encoded by ``quantizer``; if that is the segment's own, the
        bytes stay as they are, but for scales that are stored upside down."""
        if self.quantizer is None or not self.quantizer.is_same(quantizer):
            return EncodedImage.encode(self.features(position), quantizer)
        records = np.array(self._local["records"][self._rows(position)])
        if self.inverse_scales:
            records = invert_record_scales(records)
        regions = tuple(
            (*self._origin(part), self.encoded(part, quantizer)) for part in self.regions(position)
        )
        [descriptor] = self.global_descriptors([position])
        return EncodedImage(descriptor, records, *self.size(position), regions)
