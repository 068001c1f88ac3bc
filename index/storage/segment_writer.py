"""Segments are written: which features are kept, how they are encoded, and the file itself.

:mod:`index.storage.segments` describes the layout. The file is complete under its name, or absent.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import h5py
import numpy as np

from delg.files import atomic_write, file_sha256
from delg.types import FloatArray, ImageFeatures
from index.settings import GlobalCodec, StoreSettings
from index.storage.catalog_tables import SegmentRow
from index.storage.codec import decode, encode
from index.storage.feature_record import EXTRA_BYTES
from index.storage.feature_selection import top_k
from index.storage.global_codec import encode_global
from index.storage.inverted_file import Postings
from index.storage.product_quantizer import ProductQuantizer
from index.storage.segments import (
    REGIONS,
    SCALES_MARK,
    VOCABULARY_MARK,
    WORDS,
    EncodedImage,
    Segment,
    segment_path,
)
from index.storage.vocabulary import NO_WORDS, BinaryWords, Vocabulary
from index.verification.matching import one_blas_thread

# With "compact", where the model has no codebook.
_CODEC_WITHOUT_CODES = "int8"


class SegmentWriter:
    """Writes new segments of an index; the catalog does not know them yet.

    Args:
        folder: of the index.
        settings: which features are kept, and the codec.
        codebook: that new segments are encoded by; None leaves descriptors component by component.
        vocabulary: of the words that are stored beside them; None stores none.
    """

    def __init__(
        self,
        folder: Path,
        settings: StoreSettings,
        codebook: ProductQuantizer | None,
        vocabulary: Vocabulary | None,
    ) -> None:
        self._folder, self._settings = folder, settings
        self._codebook = codebook
        self._vocabulary = vocabulary if settings.max_words else None

    def write(
        self, number: int, ids: Sequence[str], features: Sequence[ImageFeatures]
    ) -> SegmentRow:
        """Write extracted features as segment ``number``.

        Args:
            ids: of the images.
            features: one for each id.

        Raises:
            DelgError: it cannot be written (no space, no permission).
        """
        path = segment_path(self._folder, number)
        # Photos in parallel; while the last batch is written, no core has anything else to do.
        with one_blas_thread(), ThreadPoolExecutor(os.cpu_count()) as threads:
            features = list(threads.map(self._select, features))
            if self._codebook is None:
                words = list(threads.map(self._uncoded_words, features))
                self._write_uncoded(path, ids, features, words)
            else:
                images = list(threads.map(EncodedImage.encode, features, repeat(self._codebook)))
                words = list(threads.map(self._coded_words, images))
                self._write_compact(path, ids, images, words)
        return _segment_row(path, number, len(ids))

    def rewrite(
        self, number: int, ids: Sequence[str], sources: Iterable[tuple[Segment, int]]
    ) -> SegmentRow:
        """Write images that are stored already as segment ``number``.

        Args:
            ids: of the images.
            sources: for each id the segment and the position in it.

        Raises:
            DelgError: it cannot be written (no space, no permission).
        """
        path = segment_path(self._folder, number)
        words: list[BinaryWords] = []
        features: list[ImageFeatures] = []
        images: list[EncodedImage] = []
        for segment, position in sources:
            words.append(self._stored_words(segment, position))
            if self._codebook is None:
                features.append(segment.features(position))
            else:
                images.append(segment.encoded(position, self._codebook))
        if self._codebook is None:
            self._write_uncoded(path, ids, features, words)
        else:
            self._write_compact(path, ids, images, words)
        return _segment_row(path, number, len(ids))

    def _select(self, features: ImageFeatures) -> ImageFeatures:
        settings = self._settings
        regions = tuple(
            replace(part, features=_keep(part.features, settings.region_features))
            for part in features.regions[: settings.regions]
        )
        return replace(_keep(features, settings.kept_features), regions=regions)

    @property
    def _codec(self) -> str:
        """Of descriptors that are stored component by component."""
        codec = self._settings.local_codec
        return _CODEC_WITHOUT_CODES if codec == "compact" else codec

    def _write_uncoded(
        self,
        path: Path,
        ids: Sequence[str],
        features: Sequence[ImageFeatures],
        words: Sequence[BinaryWords],
    ) -> None:
        global_codec = self._settings.global_type
        write_segment(path, ids, features, self._codec, global_codec, self._postings(words))

    def _write_compact(
        self,
        path: Path,
        ids: Sequence[str],
        images: Sequence[EncodedImage],
        words: Sequence[BinaryWords],
    ) -> None:
        assert self._codebook is not None
        global_codec, postings = self._settings.global_type, self._postings(words)
        write_compact_segment(path, ids, images, self._codebook, global_codec, postings)

    def _postings(self, words: Sequence[BinaryWords]) -> Postings | None:
        return None if self._vocabulary is None else Postings.of(self._vocabulary, words)

    # Of descriptors as they are stored, so that a compaction finds the same words.

    def _uncoded_words(self, features: ImageFeatures) -> BinaryWords:
        return self._words(lambda: decode(encode(features.local.descriptors, self._codec)))

    def _coded_words(self, image: EncodedImage) -> BinaryWords:
        assert self._codebook is not None
        codes, codebook = image.records[:, :-EXTRA_BYTES], self._codebook
        return self._words(lambda: codebook.reconstruct(codes))

    def _words(self, descriptors: Callable[[], FloatArray]) -> BinaryWords:
        if self._vocabulary is None:
            return NO_WORDS
        return self._vocabulary.photo_words(descriptors(), self._settings.max_words)

    def _stored_words(self, segment: Segment, position: int) -> BinaryWords:
        if self._vocabulary is None:
            return NO_WORDS
        return segment.words(position, self._vocabulary, self._settings.max_words)


def _keep(features: ImageFeatures, count: int) -> ImageFeatures:
    """With that many local features, at most."""
    kept = top_k(features.local, count, max(features.width, features.height))
    return replace(features, local=kept)


def write_segment(
    path: Path,
    ids: Sequence[str],
    features: Sequence[ImageFeatures],
    codec: str,
    global_codec: GlobalCodec = "float32",
    postings: Postings | None = None,
) -> None:
    """Write a segment without codes.

    Args:
        path: of the new file.
        ids: of the images.
        features: one for each id.
        codec: of the local descriptors, see :mod:`index.storage.codec`.
        global_codec: of the global descriptors, see :mod:`index.storage.global_codec`.
        postings: the words of the images.

    Raises:
        DelgError: it cannot be written (no space, no permission).
    """
    regions = [(n, part) for n, image in enumerate(features) for part in image.regions]
    places = [(n, part.x, part.y) for n, part in regions]
    features = [*features, *(part.features for _, part in regions)]
    local = [image.local for image in features]
    arrays = {
        "global_descriptors": encode_global(
            np.stack([image.global_descriptor for image in features]), global_codec
        ),
        "descriptors": np.concatenate([encode(part.descriptors, codec) for part in local]),
        "keypoints": np.concatenate([part.keypoints for part in local]),
        "scales": np.concatenate([part.scales for part in local]),
        "scores": np.concatenate([part.scores for part in local]),
    }
    sizes = [(image.width, image.height) for image in features]
    _write_file(path, ids, sizes, [len(part) for part in local], arrays, postings, places)


def write_compact_segment(
    path: Path,
    ids: Sequence[str],
    images: Sequence[EncodedImage],
    quantizer: ProductQuantizer,
    global_codec: GlobalCodec = "float16",
    postings: Postings | None = None,
) -> None:
    """Write a compact segment; all images are encoded by ``quantizer``. See
    :func:`write_segment`."""
    places = [(n, x, y) for n, image in enumerate(images) for x, y, _ in image.regions]
    images = [*images, *(part for image in images for _, _, part in image.regions)]
    arrays = {
        "global_descriptors": encode_global(
            np.stack([image.global_descriptor for image in images]), global_codec
        ),
        "records": np.concatenate([image.records for image in images]),
        "rotation": quantizer.rotation,
        "centroids": quantizer.centroids,
    }
    sizes = [(image.width, image.height) for image in images]
    counts = [len(image.records) for image in images]
    _write_file(path, ids, sizes, counts, arrays, postings, places)


def _write_file(
    path: Path,
    ids: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    counts: Sequence[int],
    arrays: dict[str, np.ndarray],
    postings: Postings | None,
    regions: Sequence[tuple[int, int, int]],
) -> None:
    if regions:
        places = np.array(regions, np.int32)
        arrays = arrays | dict(zip(REGIONS, (places[:, 0], places[:, 1:]), strict=True))
    if postings is not None:
        values = postings.counts, postings.words, postings.signs
        arrays = arrays | dict(zip(WORDS, values, strict=True))
    # HDF5 writes into memory first: on a full disk it can take the whole process with it.
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        name, value = SCALES_MARK
        file.attrs[name] = value
        if postings is not None:
            file.attrs[VOCABULARY_MARK] = postings.vocabulary
        file["ids"] = np.array([image_id.encode() for image_id in ids], dtype=h5py.string_dtype())
        file["sizes"] = np.array(sizes, np.int32)
        file["offsets"] = np.cumsum([0, *counts], dtype=np.int64)
        for name, array in arrays.items():
            file[name] = array
    with atomic_write(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data.getbuffer())


def _segment_row(path: Path, number: int, images: int) -> SegmentRow:
    return SegmentRow(number, images, path.stat().st_size, file_sha256(path))
