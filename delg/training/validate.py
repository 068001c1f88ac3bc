"""Retrieval among photos that are never trained on: the number that says whether it generalises."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from delg.model import Delg
from delg.pyramid import level
from delg.training.augment import view
from delg.training.settings import AugmentSettings
from delg.values import FloatArray

Pixels = NDArray[np.uint8]


class Embedder:
    """Global descriptors at one scale, with the model's weights as they are when asked."""

    def __init__(self, model: Delg, side: int) -> None:
        self._side = side

        @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)])
        def forward(images: tf.Tensor) -> tf.Tensor:
            return tf.cast(model.global_head(model.mid_level(images)), tf.float32)[0]

        self._forward = forward

    def __call__(self, photos: Iterable[Pixels]) -> FloatArray:
        """float32 (N, D), unit length; photos are resized so that their longest side fits."""
        found = [
            self._forward(tf.constant(level(photo, 1.0, self._side).pixels[None])).numpy()
            for photo in photos
        ]
        return np.stack(found)


def average_precision(relevant: NDArray[np.bool_]) -> float:
    """Mean of the precisions at the relevant ranks; ``relevant`` is in the order of the ranks."""
    ranks = np.flatnonzero(relevant) + 1
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks)) if len(ranks) else 0.0


def leave_one_out_map(descriptors: FloatArray, labels: NDArray[Any]) -> float:
    """mAP with every photo in turn as query to all others; a lone photo asks nothing."""
    similarity = descriptors @ descriptors.T
    np.fill_diagonal(similarity, -np.inf)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :-1]
    scores = [
        average_precision(labels[ranking] == label)
        for ranking, label in zip(order, labels, strict=True)
        if (labels == label).sum() > 1
    ]
    return float(np.mean(scores)) if scores else 0.0


def twin_map(queries: FloatArray, gallery: FloatArray) -> float:
    """mAP where query i's only relevant photo is photo i of the gallery."""
    similarity = queries @ gallery.T
    own = similarity[np.arange(len(queries)), np.arange(len(queries))]
    ranks = (similarity > own[:, None]).sum(axis=1) + 1
    return float(np.mean(1.0 / ranks))


def warped_twins(photos: list[Pixels], settings: AugmentSettings, seed: int) -> list[Pixels]:
    """One view of each photo, the same at every call; the next photo lies behind it."""
    return [
        view(
            photo,
            settings,
            np.random.default_rng([seed, number]),
            photos[(number + 1) % len(photos)],
        ).pixels
        for number, photo in enumerate(photos)
    ]
