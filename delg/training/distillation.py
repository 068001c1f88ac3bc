"""The student's global descriptor learns from a teacher's targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from delg.errors import UsageError
from delg.network.within_class import main_axes
from delg.training.items import Item
from delg.training.targets import Targets
from delg.types import FloatArray


class TargetBank:
    """The targets as the losses read them.

    Args:
        targets: of these photos and perhaps others.
        items: the photos to train on.

    Attributes:
        descriptors: float32 (N, D), unit length, of every photo that has a target; D is the
            student's width once they are aligned.
        photos: int (N,), the numbers of those photos in the store.
        rows: int32 (photos,), by the number of a photo in the store; -1 without a target.
        teachers: the models that the targets come from, each as "name fingerprint".

    Raises:
        UsageError: no photo to train on has a target.
    """

    def __init__(self, targets: Targets, items: Sequence[Item]) -> None:
        rows = targets.rows_of(items)
        used = np.flatnonzero(rows >= 0)
        if not len(used):
            raise UsageError("data.targets: no photo to train on has a target; compute them again")
        numbers = np.full(len(rows), -1, np.int32)
        numbers[used] = np.arange(len(used))
        self.rows, self.photos = tf.constant(numbers), used
        self.teachers = targets.teachers
        self.descriptors = tf.constant(targets.descriptors[rows[used]])

    def align(self, photos: NDArray[np.intp], descriptors: FloatArray) -> None:
        """Rotate the targets to where the student's descriptors lie.

        The losses ask how targets lie to each other; which way they all point is free, and the
        nearer to the student, the less it has to forget.

        Args:
            photos: numbers of photos that have targets (N,).
            descriptors: float32 (N, D), unit length, of the student as it starts.
        """
        rows = self.rows.numpy()[photos]
        rotation = fit_rotation(self.descriptors.numpy()[rows], descriptors)
        rotated = self.descriptors.numpy() @ rotation
        self.descriptors = tf.math.l2_normalize(tf.constant(rotated, tf.float32), axis=1)

    def targets_of(self, photos: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The targets (B, D) of photos (B,), and bool (B,): which of them have one."""
        rows = tf.gather(self.rows, photos)
        return tf.gather(self.descriptors, tf.maximum(rows, 0)), rows >= 0


def regression(descriptors: tf.Tensor, targets: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
    """Mean of 1 - cosine between descriptors and targets (B, D), over the ``known`` rows (B,)."""
    return _masked_mean(1.0 - tf.reduce_sum(descriptors * targets, axis=1), known)


def relational(
    descriptors: tf.Tensor,
    targets: tf.Tensor,
    known: tf.Tensor,
    bank: tf.Tensor,
    temperature: float,
) -> tf.Tensor:
    """How differently student and teacher see a photo's likeness to all others (SEED, arXiv
    2101.04731): the divergence of the softmax of their cosines to the whole bank.

    The photo's own target is in the bank, so it is told apart from all others as well.

    Args:
        descriptors, targets: float32 (B, D), unit length.
        known: bool (B,), rows that have a target; the others do not count.
        bank: float32 (N, D), unit length.
        temperature: cosines are divided by it.
    """
    wanted = tf.nn.softmax(tf.matmul(targets, bank, transpose_b=True) / temperature)
    logits = tf.matmul(descriptors, bank, transpose_b=True) / temperature
    entropy = -tf.reduce_sum(tf.math.xlogy(wanted, wanted), axis=1)
    cross = tf.nn.softmax_cross_entropy_with_logits(wanted, logits)
    return _masked_mean(cross - entropy, known)


def _masked_mean(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    weights = tf.cast(mask, values.dtype)
    return tf.reduce_sum(values * weights) / tf.maximum(tf.reduce_sum(weights), 1.0)


def fit_rotation(targets: FloatArray, descriptors: FloatArray) -> FloatArray:
    """The rotation of targets (N, T) that brings them closest to descriptors (N, D): orthogonal
    Procrustes (Schönemann, 1966).

    Targets that are wider than descriptors are reduced to their main directions first: of all
    projections the one nearest to descriptors would keep what the student knows already, and lose
    what it is to learn.

    Returns:
        float32 (T, D), orthonormal along its shorter side: between widths it projects or embeds.
    """
    wide = targets.astype(np.float64)
    axes = main_axes(wide.T @ wide, min(wide.shape[1], descriptors.shape[1]))
    left, _, right = np.linalg.svd((wide @ axes).T @ descriptors, full_matrices=False)
    return (axes @ left @ right).astype(np.float32)
