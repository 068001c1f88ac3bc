"""Retrieval among photos that are never trained on: the number that says whether it generalises."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from delg.images.pyramid import level
from delg.network.delg_model import Delg
from delg.training.augment import view
from delg.training.dataset import TrainingData
from delg.training.image_cache import PhotoStore, readable
from delg.training.losses import attended_feature
from delg.training.settings import AugmentSettings, TrainSettings
from delg.training.training_model import TrainingModel, value_of
from delg.types import FloatArray

Pixels = NDArray[np.uint8]
# Longest side of the photos that are measured.
_SIDE = 320
CLASSIFIERS = ("accuracy", "descriptor_accuracy", "attention_accuracy")


class Validation:
    """Classification and retrieval of photos never trained on.

    Args:
        data: its validation and held-out photos are used.
        settings: how the augmented copies are made.
        model: what is measured, with its weights as they are when :meth:`measure` is called.
        training_model: has the classifiers.
        classifiers: which of them are measured; those that no longer fit the model are left out.
    """

    def __init__(
        self,
        data: TrainingData,
        settings: TrainSettings,
        model: Delg,
        training_model: TrainingModel,
        classifiers: Collection[str] = CLASSIFIERS,
    ) -> None:
        self._training_model, self._classifiers = training_model, classifiers
        # Without a global head, the mean feature as attention weighs it stands for the photo.
        self._embed = Embedder(model, _SIDE, "global" if model.settings.has_global else "attended")
        self._means = {kind: Embedder(model, _SIDE, kind) for kind in ("mean", "attended")}
        # There may be far too many of these to keep their pixels.
        self._validation = data.validation
        numbers = {label: number for number, label in enumerate(data.split.labels)}
        self._classes = np.array([numbers[str(item.label)] for item in self._validation.items])
        self._held_out, labels = _read(data.held_out)
        self._held_out_labels = np.array(labels)
        self._originals, _ = _read(data.held_out_unlabelled)
        self._copies = augmented_copies(self._originals, settings.augment, settings.seed)

    def measure(self) -> dict[str, float]:
        """The accuracies of the classifiers, ``held_out_map`` and ``twin_map`` (finding a photo by
        its augmented copy), as far as there are photos for them, and the mean of them all as
        ``validation``."""
        metrics = self._accuracies() if self._validation.items else {}
        gallery = self._embed(self._held_out) if self._held_out else None
        if gallery is not None:
            metrics["held_out_map"] = leave_one_out_map(gallery, self._held_out_labels)
        if self._originals:
            originals = self._embed(self._originals)
            everything = originals if gallery is None else np.concatenate([originals, gallery])
            metrics["twin_map"] = augmented_copy_map(self._embed(self._copies), everything)
        if not metrics:
            return {}
        return {**metrics, "validation": float(np.mean(list(metrics.values())))}

    def _accuracies(self) -> dict[str, float]:
        model, accuracies = self._training_model, {}
        if model.centres is not None and "accuracy" in self._classifiers:
            centres = value_of(model.centres)
            centres /= np.linalg.norm(centres, axis=-1, keepdims=True)
            per_class, dim = centres.shape[1:]
            kernel = centres.reshape(-1, dim).T
            accuracies["accuracy"] = self._accuracy(self._embed, kernel, 0.0, per_class)
        for name, kind, classifier in (
            ("descriptor_accuracy", "mean", model.mean_classifier),
            ("attention_accuracy", "attended", model.classifier),
        ):
            if classifier is not None and name in self._classifiers:
                kernel, bias = (value_of(part) for part in classifier)
                accuracies[name] = self._accuracy(self._means[kind], kernel, bias)
        return accuracies

    def _accuracy(
        self, embed: Embedder, kernel: FloatArray, bias: FloatArray | float, per_class: int = 1
    ) -> float:
        """Share of the validation photos whose largest logit is one of their class's."""
        correct = [
            (embed([pixels]) @ kernel + bias).argmax() // per_class == self._classes[number]
            for number, pixels in readable(self._validation, range(len(self._validation.items)))
        ]
        return float(np.mean(correct)) if correct else 0.0


def _read(store: PhotoStore) -> tuple[list[Pixels], list[str]]:
    """The photos that can be read, and their labels."""
    photos = list(readable(store, range(len(store.items))))
    return [pixels for _, pixels in photos], [str(store.items[n].label) for n, _ in photos]


class Embedder:
    """One vector per photo, at one scale, with the model's weights as they are when called.

    Args:
        model: the network.
        side: longest side that photos are resized to.
        kind: "global", the global descriptor, or a mean of the unit-length mid-level features:
            "mean", of all equally, or "attended", weighted by their attention.

    Attributes:
        dim: width of the vectors.
    """

    def __init__(self, model: Delg, side: int, kind: str = "global") -> None:
        self._side = side
        self.dim: int = (
            model.settings.global_head.dim if kind == "global" else model.shallow.output_shape[-1]
        )

        @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)])
        def forward(images: tf.Tensor) -> tf.Tensor:
            mid = model.mid_level(images)
            if kind == "global":
                return tf.cast(model.global_head(mid), tf.float32)[0]
            maps = tf.cast(mid, tf.float32)
            scores = tf.cast(model.local_head(mid)[1], tf.float32)
            return attended_feature(maps, scores if kind == "attended" else tf.ones_like(scores))[0]

        self._forward = forward

    def __call__(self, photos: Iterable[Pixels]) -> FloatArray:
        """float32 (N, dim); photos are resized so that their longest side fits."""
        vectors = [
            self._forward(tf.constant(level(photo, 1.0, self._side).pixels[None])).numpy()
            for photo in photos
        ]
        return np.stack(vectors)


def average_precision(relevant: NDArray[np.bool_]) -> float:
    """Mean of the precisions at the relevant ranks; ``relevant`` is in the order of the ranks."""
    ranks = np.flatnonzero(relevant) + 1
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks)) if len(ranks) else 0.0


def leave_one_out_map(descriptors: FloatArray, labels: NDArray[Any]) -> float:
    """mAP with every photo in turn as query to all others, as far as another has its label."""
    similarity = descriptors @ descriptors.T
    np.fill_diagonal(similarity, -np.inf)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :-1]
    scores = [
        average_precision(labels[ranking] == label)
        for ranking, label in zip(order, labels, strict=True)
        if (labels == label).sum() > 1
    ]
    return float(np.mean(scores)) if scores else 0.0


def augmented_copy_map(queries: FloatArray, gallery: FloatArray) -> float:
    """mAP where query i's only relevant photo is photo i of the gallery."""
    similarity = queries @ gallery.T
    relevant = similarity[np.arange(len(queries)), np.arange(len(queries))]
    ranks = (similarity > relevant[:, None]).sum(axis=1) + 1
    return float(np.mean(1.0 / ranks))


def augmented_copies(photos: list[Pixels], settings: AugmentSettings, seed: int) -> list[Pixels]:
    """One view of each photo, the same at every call; the next photo is its background."""
    return [
        view(
            photo,
            settings,
            np.random.default_rng([seed, number]),
            photos[(number + 1) % len(photos)],
        ).pixels
        for number, photo in enumerate(photos)
    ]
