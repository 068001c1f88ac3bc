"""Learn what joins a model's local descriptors with its global one; see
:mod:`delg.extraction.local_aggregate`.

Each photo is seen as it is and as a photograph of it, hand-held and before other things, so that
what differs between the two comes to count less.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from delg.errors import ModelError, UsageError
from delg.extraction.extractor import Extractor
from delg.extraction.local_aggregate import LocalAggregate, fit_adaptation
from delg.images.decode import decode
from delg.images.scan import Photo
from delg.network.weights import read_weights, weights_digest
from delg.training.augment import view
from delg.types import Failure, FloatArray, ImageFeatures
from delg.zoo.registry import SETTINGS_FILE, ModelFiles, load_network
from index.calibrate.composites import PHOTOGRAPH
from index.calibrate.surroundings import Pixels
from index.learn.codebook import sample_features
from index.learn.descriptor_views import DescriptorFile
from index.learn.training_photos import (
    ProgressFactory,
    evenly_spaced,
    labelled_photos,
    spread_photos,
)
from index.storage.vocabulary import kmeans

# Photos of each source, at most: for the words, and for the rest.
_PHOTOS_FOR_WORDS, _PHOTOS = 200, 1500
# Local descriptors of each photo for the words, and of all for each word at least.
_DESCRIPTORS, _MIN_PER_WORD = 200, 40
# Longest side that a smaller photo is enlarged to before it is photographed, pixels.
_LONGEST_SIDE = 500
_KMEANS_ITERATIONS = 15
MIN_PHOTOS = 200


@dataclass(frozen=True, eq=False)
class LearntAggregate:
    """What was learnt, and from how many photos, of which so many have labels."""

    aggregate: LocalAggregate
    photos: int
    labelled: int


def learn_aggregate(
    files: ModelFiles,
    sources: Sequence[str | Path],
    instances: Sequence[str | Path],
    progress: ProgressFactory,
) -> LearntAggregate:
    """Learn it for a model; the same photos give the same.

    Args:
        files: of a model whose settings have a section ``aggregate``.
        sources: photos of all kinds of things, or folders of them.
        instances: folders with a folder per label, each with photos of one thing.
        progress: makes a progress display for each step.

    Raises:
        ModelError: the model has no such section, or no weights.
        UsageError: a source does not exist, or there are too few photos.
        DelgError: there is no room for their descriptors, 230 KB of temporary files for each view.
    """
    spec = files.settings.aggregate
    if spec is None:
        raise ModelError(
            f"{files.settings.name}: its settings have no section aggregate; add it to "
            f"{SETTINGS_FILE} of a model's folder (aggregate: {{}} takes the defaults)"
        )
    values = read_weights(files.weights)
    extractor = load_network(files.network_alone(), values)
    words = _learn_words(extractor, [*sources, *instances], spec.words, progress)
    without_label = [(photo, None) for photo in spread_photos(sources, _PHOTOS)]
    photos = [*without_label, *labelled_photos(instances, _PHOTOS)]
    with tempfile.TemporaryDirectory() as folder:
        shape = spec.max_features, words.shape[1]
        file = DescriptorFile(Path(folder) / "descriptors", shape)
        descriptors, labels = _extract_views(extractor, photos, file, progress)
        if len(labels) < MIN_PHOTOS:
            raise UsageError(
                f"there are {len(labels)} photos that can be read; it takes {MIN_PHOTOS} or more, "
                "and thousands are better"
            )
        views = file.views(_number_labels(labels))
        classes, attention = views.classes(), None
        aggregates = views.aggregate(words, attention)
        if spec.attention_hidden:
            # It imports TensorFlow.
            from index.learn.descriptor_attention import train_descriptor_attention

            adaptation = fit_adaptation(aggregates, classes, spec.adapted_dim)
            with progress("attention") as report:
                attention = train_descriptor_attention(
                    views, words, adaptation, spec.attention_hidden, report
                )
            aggregates = views.aggregate(words, attention)
    learnt = LocalAggregate.fit(
        words,
        attention,
        descriptors,
        aggregates,
        classes,
        spec.adapted_dim,
        weights_digest(values),
    )
    return LearntAggregate(learnt, len(labels), sum(label is not None for label in labels))


def _learn_words(
    extractor: Extractor,
    sources: Sequence[str | Path],
    words: int,
    progress: ProgressFactory,
) -> FloatArray:
    """Centroids (K, d) of local descriptors, rounded as they are stored."""
    with progress("words") as report:
        photos = spread_photos(sources, _PHOTOS_FOR_WORDS)
        samples = sample_features(extractor, photos, _sample_descriptors, report)
    if sum(map(len, samples)) < _MIN_PER_WORD * words:
        raise UsageError("these photos have too few local features: name more")
    descriptors = np.concatenate(samples)
    centroids = kmeans(descriptors, words, _KMEANS_ITERATIONS, len(descriptors), seed=1)
    return centroids.astype(np.float16).astype(np.float32)


def _sample_descriptors(features: ImageFeatures) -> FloatArray:
    descriptors = features.local.descriptors
    return descriptors[evenly_spaced(len(descriptors), _DESCRIPTORS)]


def _extract_views(
    extractor: Extractor,
    photos: Sequence[tuple[Photo, str | None]],
    file: DescriptorFile,
    progress: ProgressFactory,
) -> tuple[FloatArray, list[str | None]]:
    """Of those photos of which both views can be read: global descriptors float32 (2 · N, D), and
    labels. Their local descriptors go to the file."""
    items = ((photo, is_photograph) for photo, _ in photos for is_photograph in (False, True))
    read = partial(_decode_view, others=[photo for photo, _ in photos])
    features = extractor.extract_many(items, read)
    descriptors: list[FloatArray] = []
    labels: list[str | None] = []
    with progress("photos") as report:
        for done, (_, label) in enumerate(photos, 1):
            both = [next(features), next(features)]
            usable = [each for each in both if not isinstance(each, Failure)]
            if len(usable) == len(both):
                labels.append(label)
                for each in usable:
                    descriptors.append(each.global_descriptor)
                    file.append(each.local.descriptors)
            report(done, len(photos), done - len(labels))
    return np.array(descriptors), labels


def _decode_view(item: tuple[Photo, bool], others: Sequence[Photo]) -> Pixels:
    """A photo, or a photograph of it before one of the others; the same at each call."""
    photo, is_photograph = item
    pixels = decode(photo.path)
    if not is_photograph:
        return pixels
    rng = np.random.default_rng(list(hashlib.sha256(photo.id.encode()).digest()))
    background = decode(others[int(rng.integers(len(others)))].path)
    scale = max(1.0, _LONGEST_SIDE / max(pixels.shape[:2]))
    enlarged = np.asarray(cv2.resize(pixels, None, fx=scale, fy=scale), np.uint8)
    return view(enlarged, PHOTOGRAPH, rng, background).pixels


def _number_labels(labels: Sequence[str | None]) -> NDArray[np.int64]:
    """The same number for the same label; −1 for none."""
    different = sorted({label for label in labels if label is not None})
    numbers = {label: number for number, label in enumerate(different)}
    return np.array([-1 if label is None else numbers[label] for label in labels], np.int64)
