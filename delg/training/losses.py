"""The losses of the global descriptor, the attention and the codes.

All take and return float32; a batch in which nothing counts gives 0, not NaN.
"""

from __future__ import annotations

import math

import tensorflow as tf


def arcface_logits(
    descriptors: tf.Tensor, centres: tf.Tensor, labels: tf.Tensor, margin: float, scale: float
) -> tf.Tensor:
    """Scaled cosines, that of the true class with an additive angular margin (arXiv 1801.07698).

    Where the angle plus the margin would pass π and the cosine rise again, the cosine minus a
    constant takes its place, so that the logit always falls as the angle grows.

    Args:
        descriptors: float32 (B, D), unit length.
        centres: float32 (classes, K, D), any length; the nearest of the K counts.
        labels: int32 (B,), -1 where there is none: such a row gets no margin.
        margin: radians added to the angle of the true class.
        scale: factor of all cosines.

    Returns:
        float32 (B, classes).
    """
    centres = tf.math.l2_normalize(centres, axis=-1)
    cosines = tf.reduce_max(tf.einsum("bd,ckd->bck", descriptors, centres), axis=-1)
    cosines = tf.clip_by_value(cosines, -1.0 + 1e-6, 1.0 - 1e-6)
    sines = tf.sqrt(1.0 - tf.square(cosines))
    shifted = cosines * math.cos(margin) - sines * math.sin(margin)
    beyond = cosines - margin * math.sin(margin)
    shifted = tf.where(cosines > -math.cos(margin), shifted, beyond)
    is_true = tf.one_hot(
        labels, tf.shape(centres)[0], on_value=True, off_value=False, dtype=tf.bool
    )
    return scale * tf.where(is_true, shifted, cosines)


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Mean softmax cross-entropy over the rows that have a label (>= 0).

    A label that is no class is an error of the caller; nothing is clipped into range.
    """
    # Rows without a label are computed with class 0 and then left out.
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(labels, 0), logits)
    return _masked_mean(losses, labels >= 0)


def accuracy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Share of the rows with a label whose largest logit is that of the label."""
    correct = tf.cast(tf.argmax(logits, axis=-1, output_type=labels.dtype) == labels, tf.float32)
    return _masked_mean(correct, labels >= 0)


def _masked_mean(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    weights = tf.cast(mask, values.dtype)
    return tf.reduce_sum(values * weights) / tf.maximum(tf.reduce_sum(weights), 1.0)


def attended_feature(maps: tf.Tensor, attention: tf.Tensor) -> tf.Tensor:
    """The attention-weighted mean of L2-normalised features (arXiv 2001.05027).

    Args:
        maps: float32 (B, h, w, C).
        attention: float32 (B, h, w), positive.

    Returns:
        float32 (B, C).
    """
    features = tf.math.l2_normalize(maps, axis=-1)
    total = tf.maximum(tf.reduce_sum(attention, axis=(1, 2)), 1e-12)
    return tf.einsum("bhwc,bhw->bc", features, attention) / total[:, None]


def reconstruction(maps: tf.Tensor, rebuilt: tf.Tensor) -> tf.Tensor:
    """Mean squared error of the rebuilt map against the mid-level map itself."""
    return tf.reduce_mean(tf.square(tf.cast(rebuilt, tf.float32) - tf.cast(maps, tf.float32)))


def infonce(
    first: tf.Tensor,
    second: tf.Tensor,
    photos: tf.Tensor,
    labels: tf.Tensor,
    memory: tuple[tf.Tensor, tf.Tensor, tf.Tensor],
    temperature: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Two views of a photo against all other photos (InfoNCE, arXiv 1807.03748), in both roles.

    Photos that carry the same label are no negatives: they may show the same thing.

    Args:
        first, second: float32 (P, D), unit length, the views of the same P photos.
        photos, labels: int32 (P,).
        memory: descriptors (M, D), photos (M,) and labels (M,) of earlier steps; rows whose photo
            is negative are not filled yet.
        temperature: cosines are divided by it.

    Returns:
        The loss, and the share of views whose nearest neighbour is the other view.
    """
    memory_descriptors, memory_photos, memory_labels = memory
    losses, correct = [], []
    for query, positive in ((first, second), (second, first)):
        gallery = tf.concat([positive, first, second, memory_descriptors], axis=0)
        gallery_photos = tf.concat([photos, photos, photos, memory_photos], axis=0)
        gallery_labels = tf.concat([labels, labels, labels, memory_labels], axis=0)
        logits = tf.matmul(query, gallery, transpose_b=True) / temperature
        count = tf.shape(query)[0]
        same_photo = photos[:, None] == gallery_photos[None]
        same_label = (labels[:, None] == gallery_labels[None]) & (labels[:, None] >= 0)
        unused = gallery_photos[None] < 0
        is_positive = tf.eye(count, tf.shape(gallery)[0], dtype=tf.float32) > 0
        logits = tf.where((same_photo | same_label | unused) & ~is_positive, -1e9, logits)
        rows = tf.range(count)
        losses.append(tf.nn.sparse_softmax_cross_entropy_with_logits(rows, logits))
        correct.append(tf.argmax(logits, axis=1, output_type=tf.int32) == rows)
    return tf.reduce_mean(losses), tf.reduce_mean(tf.cast(correct, tf.float32))
