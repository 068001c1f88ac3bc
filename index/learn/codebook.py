"""Learn the codebook of a model from photos; see :mod:`index.storage.codebook`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from delg.errors import UsageError
from delg.extraction.extractor import Extractor
from delg.images.scan import Photo
from delg.types import Failure, FloatArray, ImageFeatures, Progress
from index.learn.training_photos import evenly_spaced, spread_photos
from index.settings import COMPACT_FEATURES
from index.storage.feature_selection import top_k
from index.storage.product_quantizer import MIN_TRAINING_VECTORS, ProductQuantizer

# Of each source; more do not make better codes.
PHOTOS_PER_SOURCE = 300
# Of those that an index would keep, so that no photo of much texture outweighs others.
_FEATURES_PER_PHOTO = 50


def learn_codebook(
    extractor: Extractor, sources: Sequence[str | Path], progress: Progress | None = None
) -> ProductQuantizer:
    """Learn codes of a model's local descriptors; the same photos give the same codes.

    Args:
        extractor: the model.
        sources: photos, or folders of them: like those that the model was trained on. At most
            :data:`PHOTOS_PER_SOURCE` of each are used, spread evenly.
        progress: called as ``progress(done, total, failed)`` after every photo.

    Raises:
        UsageError: a source does not exist, or the photos give too few features.
    """
    photos = spread_photos(sources, PHOTOS_PER_SOURCE)
    samples = sample_features(extractor, photos, _sample, progress)
    count = sum(map(len, samples))
    if count < MIN_TRAINING_VECTORS:
        raise UsageError(
            f"these photos give {count:,} local features; a codebook needs "
            f"{MIN_TRAINING_VECTORS:,} or more, and ten times as many are better: name more photos"
        )
    return ProductQuantizer.train(np.concatenate(samples))


def sample_features(
    extractor: Extractor,
    photos: Sequence[Photo],
    sample: Callable[[ImageFeatures], FloatArray],
    progress: Progress | None,
) -> list[FloatArray]:
    """Samples of the local descriptors of those photos that can be read.

    Args:
        sample: the descriptors float32 (n, d) to take of one photo's features.
        progress: called as ``progress(done, total, failed)`` after every photo.
    """
    samples: list[FloatArray] = []
    failed = 0
    results = extractor.network_alone.extract_many(photo.path for photo in photos)
    for number, result in enumerate(results, 1):
        if isinstance(result, Failure):
            failed += 1
        else:
            samples.append(sample(result))
        if progress:
            progress(number, len(photos), failed)
    return samples


def _sample(features: ImageFeatures) -> FloatArray:
    """Descriptors float32 (at most ``_FEATURES_PER_PHOTO``, d) of features as an index keeps
    them."""
    kept = top_k(features.local, COMPACT_FEATURES, max(features.width, features.height))
    return kept.descriptors[evenly_spaced(len(kept), _FEATURES_PER_PHOTO)]
