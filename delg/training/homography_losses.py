"""Losses of known correspondences: two views of a photo tell which cells show the same point.

Descriptors learn to find the corresponding cell among the cells of the other view and of another
photo (InfoNCE); attention learns, cell by cell, whether the nearest descriptor is the correct one,
so that it is the probability of a correct match, as the reliability of R2D2 (arXiv 1906.06195).
"""

from __future__ import annotations

import tensorflow as tf

# A pair of cells is used where the views' scales at the point differ by at most this ratio.
_MAX_SCALE_RATIO = 2.0


def corresponding_cells(
    homographies: tf.Tensor, sizes: tf.Tensor, grid: int, stride: int, offset: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Where the cells of the first views lie in the second.

    Args:
        homographies: float32 (2, P, 3, 3), photo pixels to view pixels.
        sizes: float32 (P, 2), width and height of the photos in pixels.
        grid: cells along a side.
        stride: pixels from one cell to the next.
        offset: pixel that cell 0 describes.

    Returns:
        float32 (P, grid², 2): (x, y) in cells of the second view, row by row of the first; and
        bool (P, grid²): the point lies on the photo and inside both views, at a similar scale.
    """
    cells = tf.range(grid, dtype=tf.float32) * stride + offset
    x, y = tf.meshgrid(cells, cells)
    ones = tf.ones_like(x)
    points = tf.reshape(tf.stack([x, y, ones], axis=-1), (-1, 3))
    to_photo = tf.linalg.inv(homographies[0])
    on_photo = tf.einsum("pij,nj->pni", to_photo, points)
    xy = on_photo[..., :2] / _away_from_zero(on_photo[..., 2:])
    inside_photo = tf.reduce_all((xy >= -0.5) & (xy <= sizes[:, None] - 0.5), axis=-1)
    in_second = tf.einsum("pij,nj->pni", homographies[1] @ to_photo, points)
    depth = _away_from_zero(in_second[..., 2])
    positions = (in_second[..., :2] / depth[..., None] - offset) / stride
    inside_view = tf.reduce_all((positions >= -0.5) & (positions <= grid - 0.5), axis=-1)
    # The Jacobian determinant of a homography at a point is det(H) / w³.
    warp = tf.linalg.det(homographies[1]) / tf.linalg.det(homographies[0])
    ratio = tf.sqrt(tf.abs(warp[:, None] / depth**3))
    similar = (ratio > 1 / _MAX_SCALE_RATIO) & (ratio < _MAX_SCALE_RATIO)
    return positions, inside_photo & inside_view & similar & (depth > 0)


def _away_from_zero(values: tf.Tensor) -> tf.Tensor:
    return tf.where(tf.abs(values) < 1e-6, 1e-6, values)


def correspondence_losses(
    descriptors: tf.Tensor,
    attention: tf.Tensor,
    positions: tf.Tensor,
    valid: tf.Tensor,
    temperature: float,
    tolerance: float,
) -> dict[str, tf.Tensor]:
    """The two losses and how many cells match correctly.

    Args:
        descriptors: float32 (2, P, h, w, d), unit length.
        attention: float32 (2, P, h, w), at least 0.
        positions, valid: from :func:`corresponding_cells`.
        temperature: cosines are divided by it.
        tolerance: cells; a match this near is correct, a cell this near is no negative.

    Returns:
        ``descriptor`` and ``attention``, the losses, and ``matched``, the share of valid cells
        whose nearest descriptor, over the other view and another photo, is the correct one.
    """
    count, grid = tf.shape(descriptors)[1], descriptors.shape[2]
    flat = tf.reshape(descriptors, (2, count, grid * grid, descriptors.shape[-1]))
    cells = tf.range(grid, dtype=tf.float32)
    x, y = tf.meshgrid(cells, cells)
    centres = tf.reshape(tf.stack([x, y], axis=-1), (-1, 2))
    distance = tf.norm(positions[:, :, None] - centres, axis=-1)
    nearest = tf.argmin(distance, axis=-1, output_type=tf.int32)
    same_photo = tf.einsum("pid,pjd->pij", flat[0], flat[1]) / temperature
    other_photo = tf.einsum("pid,pjd->pij", flat[0], tf.roll(flat[1], 1, axis=0)) / temperature
    # With a single photo the other photo would be the photo itself.
    other_photo = tf.where(count > 1, other_photo, -1e9)
    correct = tf.one_hot(nearest, grid * grid, on_value=True, off_value=False, dtype=tf.bool)
    ambiguous = (distance < tolerance) & ~correct
    logits = tf.concat([tf.where(ambiguous, -1e9, same_photo), other_photo], axis=-1)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(nearest, logits)
    weights = tf.cast(valid, tf.float32)
    total = tf.maximum(tf.reduce_sum(weights), 1.0)
    similarity = tf.concat([same_photo, other_photo], axis=-1)
    match = tf.argmax(similarity, axis=-1, output_type=tf.int32)
    in_view = match < grid * grid
    near = tf.gather(distance, tf.minimum(match, grid * grid - 1), batch_dims=2) < tolerance
    matched = tf.stop_gradient(tf.cast(in_view & near, tf.float32))
    # softplus(z) is the score, so 1 - exp(-score) is sigmoid(z), and the score -log(1 - p).
    score = tf.reshape(attention[0], (count, grid * grid))
    probability = 1.0 - tf.exp(-score)
    log_loss = matched * -tf.math.log(tf.maximum(probability, 1e-6)) + (1.0 - matched) * score
    return {
        "descriptor": tf.reduce_sum(losses * weights) / total,
        "attention": tf.reduce_sum(log_loss * weights) / total,
        "matched": tf.reduce_sum(matched * weights) / total,
    }
