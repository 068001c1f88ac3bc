"""Retrieval among photos that are never trained on: the number that says whether it generalises."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from delg.images.pyramid import level
from delg.network.delg_model import Delg
from delg.training.augment import view
from delg.training.image_cache import PhotoStore, readable
from delg.training.losses import attended_feature
from delg.training.settings import AugmentSettings, TrainSettings
from delg.training.trainer import value_of
from delg.training.training_model import Learner
from delg.types import FloatArray

if TYPE_CHECKING:
    from delg.training.loop import Prepared

Pixels = NDArray[np.uint8]
_SIDE = 320


CLASSIFIERS = ("accuracy", "descriptor_accuracy", "attention_accuracy")


class Validation:
    """Classification and retrieval of photos never trained on.

    Args:
        model: what is measured, with its weights as they are when asked.
        learner: whose classifiers are asked.
        asked: which of them; those that no longer fit the model are left out.
    """

    def __init__(
        self,
        ready: Prepared,
        settings: TrainSettings,
        model: Delg,
        learner: Learner,
        asked: Collection[str] = CLASSIFIERS,
    ) -> None:
        self._learner, self._asked = learner, asked
        # Without a global head, the mean feature as attention weighs it stands for the photo.
        self._embed = Embedder(model, _SIDE, "global" if model.settings.has_global else "attended")
        self._means = {kind: Embedder(model, _SIDE, kind) for kind in ("mean", "attended")}
        # There may be far too many of these to keep their pixels.
        self._known = ready.validation
        numbers = {label: number for number, label in enumerate(ready.parts.labels)}
        self._classes = np.array([numbers[str(item.label)] for item in self._known.items])
        self._held_out, labels = _read(ready.held_out)
        self._labels = np.array(labels)
        self._twins, _ = _read(ready.twins)
        self._warped = warped_twins(self._twins, settings.augment, settings.seed)

    def measure(self) -> dict[str, float]:
        """The accuracies of the classifiers, ``held_out_map`` and ``twin_map``, as far as there are
        photos for them, and the mean of them all as ``validation``."""
        found = self._accuracies() if self._known.items else {}
        gallery = self._embed(self._held_out) if self._held_out else None
        if gallery is not None:
            found["held_out_map"] = leave_one_out_map(gallery, self._labels)
        if self._twins:
            own = self._embed(self._twins)
            others = own if gallery is None else np.concatenate([own, gallery])
            found["twin_map"] = twin_map(self._embed(self._warped), others)
        return {**found, "validation": float(np.mean(list(found.values())))} if found else {}

    def _accuracies(self) -> dict[str, float]:
        learner, found = self._learner, {}
        if learner.centres is not None and "accuracy" in self._asked:
            centres = value_of(learner.centres)
            centres /= np.linalg.norm(centres, axis=-1, keepdims=True)
            each, dim = centres.shape[1:]
            found["accuracy"] = self._accuracy(self._embed, centres.reshape(-1, dim).T, 0.0, each)
        for name, kind, classifier in (
            ("descriptor_accuracy", "mean", learner.mean_classifier),
            ("attention_accuracy", "attended", learner.classifier),
        ):
            if classifier is not None and name in self._asked:
                kernel, bias = (value_of(part) for part in classifier)
                found[name] = self._accuracy(self._means[kind], kernel, bias)
        return found

    def _accuracy(
        self, embed: Embedder, kernel: FloatArray, bias: FloatArray | float, each: int = 1
    ) -> float:
        """Share of the known photos whose largest logit is one of the ``each`` of its class."""
        right = [
            (embed([pixels]) @ kernel + bias).argmax() // each == self._classes[number]
            for number, pixels in readable(self._known, range(len(self._known.items)))
        ]
        return float(np.mean(right)) if right else 0.0


def _read(store: PhotoStore) -> tuple[list[Pixels], list[str]]:
    """The photos that can be read, and their labels."""
    found = list(readable(store, range(len(store.items))))
    return [pixels for _, pixels in found], [str(store.items[n].label) for n, _ in found]


class Embedder:
    """One vector a photo, at one scale, with the model's weights as they are when asked.

    Args:
        side: longest side that photos are shrunk to.
        kind: "global", the global descriptor, or a mean of the unit-length mid-level features:
            "mean", of all alike, or "attended", weighted by their attention.

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
