"""Train what weighs the local descriptors of a photo where they are aggregated; see
:mod:`delg.extraction.descriptor_attention`.

The adapted aggregates of a photo and of a photograph of it shall be more similar than those of
different things (InfoNCE): what both share must count, and what any photo may hold must not. What
was adapted beforehand is adapted further meanwhile, so that weights are not fitted to it alone, and
forgotten then: :class:`delg.extraction.local_aggregate.LocalAggregate` fits its own in closed form.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from delg.extraction.descriptor_attention import DescriptorAttention
from delg.extraction.local_aggregate import nearest_words
from delg.training.losses import infonce
from delg.types import FloatArray, Progress
from index.learn.descriptor_views import DescriptorViews

_STEPS, _BATCH, _WARMUP = 1000, 48, 50
# Descriptors of each view in a step, drawn anew.
_DESCRIPTORS = 400
_TEMPERATURE = 0.07
_LEARNING_RATE, _ADAPTATION_RATE, _WEIGHT_DECAY = 1e-3, 1e-4, 1e-3
_TINY = 1e-4


class _WeighedAggregate(keras.layers.Layer):
    """Adapted aggregates (B, D), unit length, of descriptors (B, m, d)."""

    def __init__(self, words: FloatArray, mean: FloatArray, kernel: FloatArray, hidden: int):
        super().__init__(name="weighed_aggregate")
        self._words = tf.constant(words)
        self.hidden = keras.layers.Dense(hidden, activation="relu")
        # Zero, so that all descriptors count alike at first.
        self.weight = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        self.adaptation = keras.layers.Dense(kernel.shape[1])
        self.hidden.build((None, words.shape[1]))
        self.weight.build((None, hidden))
        self.adaptation.build((None, len(kernel)))
        self.adaptation.set_weights([kernel, -mean @ kernel])

    def call(self, descriptors: tf.Tensor, used: tf.Tensor, words: tf.Tensor) -> tf.Tensor:
        weights = used * tf.exp(self.weight(self.hidden(descriptors))[..., 0])
        of_words = tf.one_hot(words, len(self._words)) * weights[..., None]
        sums = tf.einsum("bnk,bnd->bkd", of_words, descriptors)
        sums -= tf.reduce_sum(of_words, axis=1)[..., None] * self._words
        sums /= tf.norm(sums + 1e-12, axis=2, keepdims=True) + _TINY
        aggregates = tf.reshape(sums, (-1, self._words.shape[0] * self._words.shape[1]))
        return tf.math.l2_normalize(self.adaptation(tf.math.l2_normalize(aggregates, 1)), 1)


def train_descriptor_attention(
    views: DescriptorViews,
    words: FloatArray,
    adaptation: tuple[FloatArray, FloatArray],
    hidden: int,
    report: Progress,
    seed: int = 0,
) -> DescriptorAttention:
    """Train it; the same input gives the same.

    Args:
        views: to learn from; those without descriptors teach nothing.
        words: float32 (K, d), centroids.
        adaptation: mean (K · d,) and kernel (K · d, D) of aggregates in which all descriptors count
            alike; see :func:`delg.extraction.local_aggregate.fit_adaptation`.
        hidden: channels.
        report: is told of each step.
        seed: of starting weights and batches.
    """
    keras.utils.set_random_seed(seed)
    layer = _WeighedAggregate(words, *adaptation, hidden)
    attention = [*layer.hidden.trainable_variables, *layer.weight.trainable_variables]
    parts = [
        (variables, _optimizer(variables, rate))
        for variables, rate in (
            (attention, _LEARNING_RATE),
            (layer.adaptation.trainable_variables, _ADAPTATION_RATE),
        )
    ]
    no_memory = tf.zeros((0, adaptation[1].shape[1])), tf.zeros(0, tf.int32), tf.zeros(0, tf.int32)

    @tf.function(jit_compile=False, autograph=False)
    def step(
        descriptors: tf.Tensor,
        used: tf.Tensor,
        nearest: tf.Tensor,
        photos: tf.Tensor,
        labels: tf.Tensor,
    ) -> None:
        with tf.GradientTape(persistent=True) as tape:
            vectors = layer(descriptors, used, nearest)
            loss, _ = infonce(vectors[::2], vectors[1::2], photos, labels, no_memory, _TEMPERATURE)
        for variables, optimizer in parts:
            gradients = tape.gradient(loss, variables)
            optimizer.apply_gradients(zip(gradients, variables, strict=True))

    usable = np.flatnonzero(views.counts.reshape(-1, 2).min(axis=1))
    rng = np.random.default_rng(seed)
    for done in range(1, _STEPS + 1):
        photos = rng.choice(usable, min(_BATCH, len(usable)), replace=False)
        descriptors, used = views.draw(rng, photos, _DESCRIPTORS)
        nearest = nearest_words(descriptors.reshape(-1, descriptors.shape[2]), words)
        step(
            tf.constant(descriptors),
            tf.constant(used),
            tf.constant(nearest.reshape(used.shape), tf.int32),
            tf.constant(photos, tf.int32),
            tf.constant(views.labels[photos], tf.int32),
        )
        report(done, _STEPS, 0)
    hidden_kernel, hidden_bias, kernel = (np.asarray(each.value) for each in attention)
    return DescriptorAttention(hidden_kernel, hidden_bias, kernel[:, 0])


def _optimizer(variables: list[keras.Variable], rate: float) -> keras.optimizers.Optimizer:
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, _STEPS - _WARMUP, warmup_target=rate, warmup_steps=_WARMUP
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=_WEIGHT_DECAY)
    optimizer.build(variables)
    return optimizer
