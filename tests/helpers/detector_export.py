"""A detector as Detect-to-Retrieve published its own: a graph of TensorFlow 1 without signature,
whose tensors have the names by which DELF's ``detector.py`` calls it. It finds what is white."""

from pathlib import Path

import tensorflow as tf

SCORES = (0.3, 0.9, 0.05)


def write_detector(folder: Path, boxes_name: str = "detection_boxes") -> Path:
    """Three boxes: the top left fifth of the sides, what is white, and the whole photo."""
    v1 = tf.compat.v1
    with v1.Graph().as_default() as graph:
        images = v1.placeholder(tf.uint8, (None, None, None, 3), name="input_images")
        sides = tf.cast(tf.shape(images)[1:3], tf.float32)
        places = tf.cast(tf.where(tf.reduce_all(images[0] > 250, axis=2)), tf.float32)
        white = tf.concat(
            [tf.reduce_min(places, 0) / sides, (tf.reduce_max(places, 0) + 1) / sides], 0
        )
        corner, everything = tf.constant([0, 0, 0.2, 0.2]), tf.constant([0.0, 0, 1, 1])
        tf.stack([tf.stack([corner, white, everything])], name=boxes_name)
        tf.constant([SCORES], name="detection_scores")
        tf.constant([[1.0, 1.0, 1.0]], name="detection_classes")
        with v1.Session(graph=graph) as session:
            builder = v1.saved_model.Builder(str(folder))
            builder.add_meta_graph_and_variables(session, [tf.saved_model.SERVING])
            builder.save()
    return folder
