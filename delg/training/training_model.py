"""The model with what training adds to it: classifiers, losses, and which variables learn."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from delg.errors import UsageError
from delg.network.delg_model import Delg
from delg.network.heads import l2_normalize
from delg.network.weights import in_heads, named_variables
from delg.training import distillation, losses
from delg.training.distillation import TargetBank
from delg.training.homography_losses import correspondence_losses, corresponding_cells
from delg.training.settings import TrainableSettings, TrainSettings


def value_of(variable: Any) -> np.ndarray:
    """A variable's value, also where every replica has a copy of it."""
    inner = variable.value if isinstance(variable, keras.Variable) else variable
    return np.array(tf.convert_to_tensor(inner))


class TrainingModel:
    """Delg, its classifiers and its losses.

    Attributes:
        model: the network.
        centres: float32 (classes, K, D), of ArcFace; None without labels or weight.
        classifier, mean_classifier: float32 (C, classes) and (classes,), of the cross-entropy of
            the attended feature and of the plain mean feature; None likewise.
        bank: a teacher's targets; None without distillation.
    """

    def __init__(
        self, model: Delg, settings: TrainSettings, classes: int, bank: TargetBank | None = None
    ) -> None:
        self.model, self.settings, self.bank = model, settings, bank
        weights, arcface = settings.losses, settings.losses.arcface
        initializer = keras.initializers.RandomNormal(stddev=0.05, seed=settings.seed)
        self.centres = self.classifier = self.mean_classifier = None
        if classes and arcface.weight:
            shape = (classes, arcface.centres, settings.model.global_head.dim)
            self.centres = keras.Variable(initializer, shape, "float32", name="centres")
        features = model.shallow.output_shape[-1]
        if classes and weights.attention.weight:
            self.classifier = _make_classifier(initializer, features, classes)
        if classes and weights.descriptor.weight:
            self.mean_classifier = _make_classifier(initializer, features, classes)
        # Without a loss of the global descriptor it is not even computed.
        self._has_global_loss = (
            self.centres is not None or weights.infonce.weight > 0 or bank is not None
        )
        set_trainable(model, settings.trainable)
        self._freeze_idle_heads()

    def _freeze_idle_heads(self) -> None:
        """A head that no loss reaches must not be moved by weight decay or momentum."""
        weights = self.settings.losses
        if not self._has_global_loss:
            for part in (self.model.deep, self.model.pooling, self.model.whitening):
                if part is not None:
                    part.trainable = False
            if self.mean_classifier is None:
                self.model.shallow.trainable = False
        if not (weights.correspondence.attention_weight or weights.attention.weight):
            self.model.attention.trainable = False
        autoencoder = self.model.autoencoder
        autoencoder.decoder.trainable = weights.reconstruction.weight > 0
        autoencoder.encoder.trainable = bool(
            weights.reconstruction.weight or weights.correspondence.descriptor_weight
        )

    def added(self) -> Iterator[tuple[str, keras.Variable]]:
        """Variables that training needs and that are not part of the model's file."""
        if self.centres is not None:
            yield "arcface/centres", self.centres
        if self.mean_classifier is not None:
            yield "mean_classifier/kernel", self.mean_classifier[0]
            yield "mean_classifier/bias", self.mean_classifier[1]
        if self.classifier is not None:
            yield "attention_classifier/kernel", self.classifier[0]
            yield "attention_classifier/bias", self.classifier[1]

    def variables(self) -> list[tuple[str, keras.Variable]]:
        """Every variable by name, trainable or not."""
        return [*named_variables(self.model), *self.added()]

    def trainable(
        self,
    ) -> tuple[list[tuple[str, keras.Variable]], list[tuple[str, keras.Variable]]]:
        """The variables that learn: of the backbone, and of the heads and classifiers."""
        backbone = [
            (name, variable)
            for name, variable in named_variables(self.model)
            if variable.trainable and not in_heads(name)
        ]
        heads = [
            (name, variable)
            for name, variable in named_variables(self.model)
            if variable.trainable and in_heads(name)
        ]
        return backbone, heads + list(self.added())

    def loss(
        self, batch: dict[str, tf.Tensor], memory: tuple[tf.Tensor, tf.Tensor, tf.Tensor]
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor], tf.Tensor]:
        """The weighted sum, its parts by name, and the global descriptors (V · P, D).

        Args:
            batch: the arrays of a :class:`delg.training.batches.Batch` by name.
            memory: descriptors, photos and labels of earlier steps.
        """
        model = self.model
        train_norms = self.settings.trainable.batch_norm == "trained"
        labels = tf.tile(batch["labels"], [self.settings.augment.views])
        mid = model.mid_level(batch["images"], training=train_norms)
        descriptors = tf.zeros((tf.shape(mid)[0], self.settings.model.global_head.dim))
        if self._has_global_loss:
            descriptors = tf.cast(model.global_head(mid, training=train_norms), tf.float32)
        parts: dict[str, tf.Tensor] = {}
        total = self._global_loss(descriptors, batch, labels, memory, parts)
        if self.mean_classifier:
            maps = tf.cast(mid, tf.float32)
            uniform = tf.ones(tf.shape(maps)[:-1])
            self._classify("descriptor", self.mean_classifier, maps, uniform, labels, parts)
            total += self.settings.losses.descriptor.weight * parts["descriptor"]
        # The local head learns from the map but must not shape it.
        total += self._local_loss(tf.stop_gradient(mid), batch, labels, parts)
        parts["loss"] = total
        return total, parts, descriptors

    def _global_loss(
        self,
        descriptors: tf.Tensor,
        batch: dict[str, tf.Tensor],
        labels: tf.Tensor,
        memory: tuple[tf.Tensor, tf.Tensor, tf.Tensor],
        parts: dict[str, tf.Tensor],
    ) -> tf.Tensor:
        """The weighted losses of the global descriptors (V · P, D); each goes into ``parts``."""
        arcface, infonce = self.settings.losses.arcface, self.settings.losses.infonce
        total = tf.zeros(())
        if self.centres is not None:
            logits = losses.arcface_logits(
                descriptors,
                tf.convert_to_tensor(self.centres),
                labels,
                arcface.margin,
                arcface.scale,
            )
            parts["arcface"] = losses.cross_entropy(logits, labels)
            parts["arcface_accuracy"] = losses.accuracy(logits, labels)
            total += arcface.weight * parts["arcface"]
        if infonce.weight:
            first, second = tf.split(descriptors, 2)
            parts["instance"], parts["instance_accuracy"] = losses.infonce(
                first, second, batch["photos"], batch["labels"], memory, infonce.temperature
            )
            total += infonce.weight * parts["instance"]
        if self.bank is not None:
            total += self._distillation_loss(self.bank, descriptors, batch["photos"], parts)
        return total

    def _distillation_loss(
        self,
        bank: TargetBank,
        descriptors: tf.Tensor,
        photos: tf.Tensor,
        parts: dict[str, tf.Tensor],
    ) -> tf.Tensor:
        """The weighted losses against the targets of the photos (P,); each goes into ``parts``."""
        spec = self.settings.losses.distillation
        targets, known = bank.targets_of(tf.tile(photos, [self.settings.augment.views]))
        parts["distillation"] = distillation.regression(descriptors, targets, known)
        total = spec.weight * parts["distillation"]
        if spec.relational_weight:
            parts["relational"] = distillation.relational(
                descriptors, targets, known, bank.descriptors, spec.temperature
            )
            total += spec.relational_weight * parts["relational"]
        return total

    def _local_loss(
        self,
        mid: tf.Tensor,
        batch: dict[str, tf.Tensor],
        labels: tf.Tensor,
        parts: dict[str, tf.Tensor],
    ) -> tf.Tensor:
        """The weighted losses of the local head; each goes into ``parts``."""
        model, weights, total = self.model, self.settings.losses, tf.zeros(())
        maps = tf.cast(mid, tf.float32)
        codes, rebuilt = model.autoencoder(mid)
        if weights.reconstruction.weight:
            parts["reconstruction"] = losses.reconstruction(maps, rebuilt)
            total += weights.reconstruction.weight * parts["reconstruction"]
        pairs = weights.correspondence
        if not (self.classifier or pairs.descriptor_weight or pairs.attention_weight):
            return total
        # The attention is trained, and validated, on the same map that extraction reads.
        learned = self.settings.model.local_head.attention == "learned"
        scores = model.attention(mid, training=True) if learned else model.attention(mid)
        scores = tf.cast(scores, tf.float32)[..., 0]
        if self.classifier:
            self._classify("attention", self.classifier, maps, scores, labels, parts)
            total += weights.attention.weight * parts["attention"]
        if pairs.descriptor_weight or pairs.attention_weight:
            total += self._correspondence_loss(codes, scores, batch, parts)
        return total

    def _correspondence_loss(
        self,
        codes: tf.Tensor,
        scores: tf.Tensor,
        batch: dict[str, tf.Tensor],
        parts: dict[str, tf.Tensor],
    ) -> tf.Tensor:
        """The weighted losses of codes (2 · P, h, w, d) and attention (2 · P, h, w)."""
        pairs = self.settings.losses.correspondence
        grid, count = scores.shape[1], tf.shape(batch["photos"])[0]
        positions, valid = corresponding_cells(
            tf.reshape(batch["homographies"], (2, count, 3, 3)),
            batch["sizes"],
            grid,
            self.model.stride,
            self.model.offset,
        )
        descriptors = tf.cast(l2_normalize(codes), tf.float32)
        values = correspondence_losses(
            tf.reshape(descriptors, (2, count, grid, grid, descriptors.shape[-1])),
            tf.reshape(scores, (2, count, grid, grid)),
            positions,
            valid,
            pairs.temperature,
            pairs.tolerance,
        )
        parts["warp_descriptor"] = values["descriptor"]
        parts["warp_matched"] = values["matched"]
        total = pairs.descriptor_weight * values["descriptor"]
        if pairs.attention_weight:
            parts["warp_attention"] = values["attention"]
            total += pairs.attention_weight * values["attention"]
        return total

    @staticmethod
    def _classify(
        name: str,
        classifier: tuple[keras.Variable, keras.Variable],
        maps: tf.Tensor,
        weights: tf.Tensor,
        labels: tf.Tensor,
        parts: dict[str, tf.Tensor],
    ) -> None:
        """Cross-entropy and accuracy of the weighted mean feature, into ``parts``."""
        kernel, bias = (tf.convert_to_tensor(part) for part in classifier)
        logits = losses.attended_feature(maps, weights) @ kernel + bias
        parts[name] = losses.cross_entropy(logits, labels)
        parts[f"{name}_accuracy"] = losses.accuracy(logits, labels)


def _make_classifier(
    initializer: keras.Initializer, features: int, classes: int
) -> tuple[keras.Variable, keras.Variable]:
    kernel = keras.Variable(initializer, (features, classes), "float32", name="kernel")
    return kernel, keras.Variable("zeros", (classes,), "float32", name="bias")


def set_trainable(model: Delg, settings: TrainableSettings) -> None:
    """Freeze the backbone below a block, and the batch norms unless they shall be trained.

    Raises:
        UsageError: no block of the backbone has that name.
    """
    layers = [layer for part in (model.shallow, model.deep) if part for layer in part.layers]
    first = 0
    if settings.backbone_from == "none":
        first = len(layers)
    elif settings.backbone_from != "all":
        pattern = re.compile(rf"{re.escape(settings.backbone_from)}(_|$)")
        places = [place for place, layer in enumerate(layers) if pattern.match(layer.name)]
        if not places:
            raise UsageError(
                f"trainable.backbone_from: the backbone has no block {settings.backbone_from!r}"
            )
        first = places[0]
    for place, layer in enumerate(layers):
        norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = place >= first and not (norm and settings.batch_norm == "frozen")
