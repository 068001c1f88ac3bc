"""The model with what training adds to it: classifiers, losses, and which variables learn."""

from __future__ import annotations

import re
from collections.abc import Iterator

import keras
import tensorflow as tf

from delg.errors import UsageError
from delg.network.delg_model import Delg
from delg.network.heads import l2_normalize
from delg.network.weights import named_variables
from delg.training import losses
from delg.training.homography_losses import partners, warp_losses
from delg.training.settings import TrainableSettings, TrainSettings


class Learner:
    """Delg, its classifiers and its losses.

    Attributes:
        model: the network.
        centres: float32 (classes, K, D), of ArcFace; None without labels or weight.
        classifier, mean_classifier: float32 (C, classes) and (classes,), of the cross-entropy of
            the attended feature and of the plain mean feature; None likewise.
    """

    def __init__(self, model: Delg, settings: TrainSettings, classes: int) -> None:
        self.model, self.settings = model, settings
        arc, asked = settings.losses.arcface, settings.losses
        start = keras.initializers.RandomNormal(stddev=0.05, seed=settings.seed)
        self.centres = self.classifier = self.mean_classifier = None
        if classes and arc.weight:
            wide = (classes, arc.centres, settings.model.global_head.dim)
            self.centres = keras.Variable(start, wide, "float32", name="centres")
        shape = (model.shallow.output_shape[-1], classes)
        if classes and asked.attention.weight:
            self.classifier = _classifier(start, shape)
        if classes and asked.descriptor.weight:
            self.mean_classifier = _classifier(start, shape)
        # Losses of the global descriptor are not even computed where none is asked for.
        self._has_global_loss = self.centres is not None or asked.instance.weight > 0
        set_trainable(model, settings.trainable)
        self._freeze_idle_heads()

    def _freeze_idle_heads(self) -> None:
        """A head that no loss reaches must not be moved by weight decay or momentum."""
        asked = self.settings.losses
        if not self._has_global_loss:
            for part in (self.model.deep, self.model.pooling, self.model.whitening):
                if part is not None:
                    part.trainable = False
            if self.mean_classifier is None:
                self.model.shallow.trainable = False
        if not (asked.warps.attention_weight or asked.attention.weight):
            self.model.attention.trainable = False
        autoencoder = self.model.autoencoder
        autoencoder.decoder.trainable = asked.reconstruction.weight > 0
        autoencoder.encoder.trainable = bool(
            asked.reconstruction.weight or asked.warps.descriptor_weight
        )

    def added(self) -> Iterator[tuple[str, keras.Variable]]:
        """Variables that training needs and the model's file does not hold."""
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
            if variable.trainable and not _in_heads(name)
        ]
        heads = [
            (name, variable)
            for name, variable in named_variables(self.model)
            if variable.trainable and _in_heads(name)
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
        model, asked = self.model, self.settings.losses
        train_norms = self.settings.trainable.batch_norm == "trained"
        views = self.settings.augment.views
        labels = tf.tile(batch["labels"], [views])
        mid = model.mid_level(batch["images"], training=train_norms)
        descriptors = tf.zeros((tf.shape(mid)[0], self.settings.model.global_head.dim))
        if self._has_global_loss:
            descriptors = tf.cast(model.global_head(mid, training=train_norms), tf.float32)
        parts: dict[str, tf.Tensor] = {}
        total = tf.zeros(())
        if self.centres is not None:
            arc = asked.arcface
            logits = losses.arcface_logits(
                descriptors, tf.convert_to_tensor(self.centres), labels, arc.margin, arc.scale
            )
            parts["arcface"] = losses.cross_entropy(logits, labels)
            parts["arcface_accuracy"] = losses.accuracy(logits, labels)
            total += arc.weight * parts["arcface"]
        if asked.instance.weight:
            first, second = tf.split(descriptors, 2)
            parts["instance"], parts["instance_accuracy"] = losses.instance(
                first, second, batch["photos"], batch["labels"], memory, asked.instance.temperature
            )
            total += asked.instance.weight * parts["instance"]
        if self.mean_classifier:
            maps = tf.cast(mid, tf.float32)
            even = tf.ones(tf.shape(maps)[:-1])
            self._classify("descriptor", self.mean_classifier, maps, even, labels, parts)
            total += asked.descriptor.weight * parts["descriptor"]
        # The local head learns from the map but must not shape it.
        total += self._local_loss(tf.stop_gradient(mid), batch, labels, parts)
        parts["loss"] = total
        return total, parts, descriptors

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

    def _local_loss(
        self,
        mid: tf.Tensor,
        batch: dict[str, tf.Tensor],
        labels: tf.Tensor,
        parts: dict[str, tf.Tensor],
    ) -> tf.Tensor:
        model, asked, total = self.model, self.settings.losses, tf.zeros(())
        maps = tf.cast(mid, tf.float32)
        codes, rebuilt = model.autoencoder(mid)
        if asked.reconstruction.weight:
            parts["reconstruction"] = losses.reconstruction(maps, rebuilt)
            total += asked.reconstruction.weight * parts["reconstruction"]
        warps = asked.warps
        if not (self.classifier or warps.descriptor_weight or warps.attention_weight):
            return total
        # The attention is trained, and validated, on the same map that extraction reads.
        learned = self.settings.model.local_head.attention == "learned"
        scores = model.attention(mid, training=True) if learned else model.attention(mid)
        scores = tf.cast(scores, tf.float32)[..., 0]
        if self.classifier:
            self._classify("attention", self.classifier, maps, scores, labels, parts)
            total += asked.attention.weight * parts["attention"]
        if warps.descriptor_weight or warps.attention_weight:
            grid = maps.shape[1]
            count = tf.shape(batch["photos"])[0]
            place, valid = partners(
                tf.reshape(batch["homographies"], (2, count, 3, 3)),
                batch["sizes"],
                grid,
                model.stride,
                model.offset,
            )
            unit = tf.cast(l2_normalize(codes), tf.float32)
            found = warp_losses(
                tf.reshape(unit, (2, count, grid, grid, unit.shape[-1])),
                tf.reshape(scores, (2, count, grid, grid)),
                place,
                valid,
                warps.temperature,
                warps.tolerance,
            )
            parts["warp_descriptor"] = found["descriptor"]
            parts["warp_matched"] = found["matched"]
            total += warps.descriptor_weight * found["descriptor"]
            if warps.attention_weight:
                parts["warp_attention"] = found["attention"]
                total += warps.attention_weight * found["attention"]
        return total


def _classifier(
    start: keras.Initializer, shape: tuple[int, int]
) -> tuple[keras.Variable, keras.Variable]:
    kernel = keras.Variable(start, shape, "float32", name="kernel")
    return kernel, keras.Variable("zeros", shape[1:], "float32", name="bias")


def _in_heads(name: str) -> bool:
    return name.split("/")[0] in ("gem", "whitening", "autoencoder", "attention")


def set_trainable(model: Delg, settings: TrainableSettings) -> None:
    """Freeze the backbone below a block, and the batch norms unless they are to be trained.

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
