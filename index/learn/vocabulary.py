"""Learn the visual vocabulary of a model from photos; see :mod:`index.storage.vocabulary`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from delg.errors import UsageError
from delg.extraction.extractor import Extractor
from delg.types import FloatArray, ImageFeatures, Progress
from index.learn.codebook import sample_features
from index.learn.training_photos import evenly_spaced, spread_photos
from index.settings import COMPACT_FEATURES
from index.storage.feature_selection import top_k
from index.storage.product_quantizer import ProductQuantizer
from index.storage.vocabulary import MAX_PER_WORD, MIN_PER_WORD, WORDS, Vocabulary

# Of each source.
PHOTOS_PER_SOURCE = 200


def learn_vocabulary(
    extractor: Extractor,
    sources: Sequence[str | Path],
    codebook: ProductQuantizer | None = None,
    words: int = WORDS,
    progress: Progress | None = None,
) -> Vocabulary:
    """Learn the words of a model's local descriptors; the same photos give the same words.

    Args:
        extractor: the model.
        sources: photos, or folders of them: like those that the model was trained on. At most
            :data:`PHOTOS_PER_SOURCE` of each are used, spread evenly.
        codebook: of the model; words are learnt from descriptors as indexes store them.
        words: of the vocabulary.
        progress: called as ``progress(done, total, failed)`` after every photo.

    Raises:
        UsageError: a source does not exist, or the photos give too few features.
    """
    photos = spread_photos(sources, PHOTOS_PER_SOURCE)
    # As many of each photo as k-means uses in all, so that no photo of much texture outweighs
    # others.
    per_photo = max(1, MAX_PER_WORD * words // max(len(photos), 1))
    sample = partial(_sample, codebook=codebook, per_photo=per_photo)
    samples = sample_features(extractor, photos, sample, progress)
    count = sum(map(len, samples))
    if count < MIN_PER_WORD * words:
        raise UsageError(
            f"these photos give {count:,} local features; a vocabulary of {words:,} words needs "
            f"{MIN_PER_WORD * words:,} or more: name more photos, or ask for fewer --words"
        )
    return Vocabulary.train(np.concatenate(samples), words)


def _sample(
    features: ImageFeatures, codebook: ProductQuantizer | None, per_photo: int
) -> FloatArray:
    """Descriptors float32 (at most ``per_photo``, d) of features as an index keeps them."""
    kept = top_k(features.local, COMPACT_FEATURES, max(features.width, features.height))
    descriptors = kept.descriptors[evenly_spaced(len(kept), per_photo)]
    return descriptors if codebook is None else codebook.reconstruct(codebook.encode(descriptors))
