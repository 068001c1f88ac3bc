"""Train the attention of a model on cells, and put it into a copy of the model."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from delg.errors import DelgError, ModelError, UsageError
from delg.files import write_bytes
from delg.inference.attention_graph import AttentionWeights, replace_attention
from delg.inference.export_onnx import export_network
from delg.inference.select import network_digest
from delg.network.delg_model import Delg
from delg.network.heads import Attention
from delg.network.weights import (
    load_weights,
    read_weights,
    save_weights,
    weights_digest,
)
from delg.paths import exists
from delg.settings import ModelSettings, parse
from delg.zoo.network_file import write_settings
from delg.zoo.registry import NETWORK_FILE, WEIGHTS_FILE, ModelFiles
from index.attention.learn import CellSample

# Channels between the two convolutions, and the norm's part in the score: alone, what is learnt
# passes over features whose norm repeats from photo to photo.
_HIDDEN, _NORM_POWER = 128, 2.0
_STEPS, _BATCH, _WARMUP = 3000, 2048, 100
_LEARNING_RATE = 3e-3


def train_attention(sample: CellSample, seed: int = 0) -> dict[str, np.ndarray]:
    """The variables of :class:`delg.network.heads.Attention` after training, by name.

    Minimised is the cross-entropy of whether cells match. The score is softplus(z), and the
    probability of a match sigmoid(z) = 1 - exp(-score), as in
    :mod:`delg.training.homography_losses`.

    Args:
        sample: N cells of C channels.
        seed: of starting weights and batches.
    """
    keras.utils.set_random_seed(seed)
    attention = Attention(_HIDDEN, name="attention")
    attention.build((None, 1, 1, sample.maps.shape[1]))
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, _STEPS, warmup_target=_LEARNING_RATE, warmup_steps=_WARMUP
    )
    optimizer = keras.optimizers.Adam(schedule)
    optimizer.build(attention.trainable_variables)

    @tf.function(jit_compile=False, autograph=False)
    def step(maps: tf.Tensor, matches: tf.Tensor, weights: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            scores = attention(maps[:, None, None], training=True)[:, 0, 0, 0]
            probability = tf.maximum(1 - tf.exp(-scores), 1e-6)
            losses = matches * -tf.math.log(probability) + (1 - matches) * scores
            loss = tf.reduce_sum(weights * losses) / tf.reduce_sum(weights)
        gradients = tape.gradient(loss, attention.trainable_variables)
        optimizer.apply_gradients(zip(gradients, attention.trainable_variables, strict=True))

    rng = np.random.default_rng(seed)
    for _ in range(_STEPS):
        rows = rng.integers(0, len(sample.maps), _BATCH)
        step(
            tf.constant(sample.maps[rows]),
            tf.constant(sample.matches[rows], tf.float32),
            tf.constant(sample.weights[rows]),
        )
    return {
        variable.path.removeprefix("attention/"): np.asarray(variable.value)
        for variable in attention.weights
    }


def write_model_with_attention(
    files: ModelFiles,
    settings: ModelSettings,
    network: bytes,
    variables: dict[str, np.ndarray],
    out: Path,
) -> None:
    """A copy of a model with a learnt attention: a folder that ``load_model`` takes.

    The network's descriptors are the model's own, bit for bit, and so codebook and vocabulary stay
    valid; its calibration and its aggregate of local descriptors do not and are left out.

    Args:
        files: of the model.
        settings: of the copy; see :func:`with_attention`.
        network: the model's own ONNX file.
        variables: see :func:`train_attention`.
        out: folder to make; it must not exist.

    Raises:
        UsageError: the place is taken.
        DelgError: it cannot be written.
    """
    if exists(out):
        raise UsageError(f"{out}: exists; choose another place")
    kept = {
        name: value
        for name, value in read_weights(files.weights).items()
        if not name.startswith("attention/")
    }
    model = Delg(settings)
    learnt = {f"attention/{name}": value for name, value in variables.items()}
    load_weights(model, kept | learnt, str(files.weights))
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.absolute().parent) as temporary:
            folder = Path(temporary) / out.name
            folder.mkdir()
            save_weights(model, folder / WEIGHTS_FILE)
            write_settings(folder, settings)
            _write_network(network, folder, model)
            for name, path in files.learnt_for_indexes.items():
                if path != files.calibration:
                    shutil.copyfile(path, folder / name)
            folder.rename(out)
    except OSError as error:
        raise DelgError(f"{out}: cannot be written: {error.strerror or error}") from None


def with_attention(
    settings: ModelSettings, scale_weights: tuple[float, ...] | None
) -> ModelSettings:
    """Settings of the copy of a model.

    Raises:
        UsageError: the weights do not fit its scales.
    """
    values = settings.model_dump(mode="json")
    values["local_head"] |= {
        "attention": "learned",
        "attention_hidden": _HIDDEN,
        "attention_norm_power": _NORM_POWER,
    }
    # It was learnt for the local features that the model selects.
    values["aggregate"] = None
    if scale_weights is not None:
        values["extraction"]["scale_weights"] = scale_weights
    return parse(ModelSettings, values, settings.name)


def _write_network(network: bytes, folder: Path, model: Delg) -> None:
    """``network.onnx`` beside the weights: the given one with the model's attention."""
    stored = read_weights(folder / WEIGHTS_FILE)
    variables = {
        name.removeprefix("attention/"): value.astype(np.float32)
        for name, value in stored.items()
        if name.startswith("attention/")
    }
    attention = AttentionWeights.folded(
        variables, model.attention.norm.epsilon, model.attention.norm_power
    )
    digest = network_digest(model.settings, weights_digest(stored))
    write_bytes(folder / NETWORK_FILE, replace_attention(network, attention, digest))


def read_network(files: ModelFiles) -> bytes:
    """The ONNX file of a model; made from its weights where there is none.

    Raises:
        ModelError: it has none, as a SavedModel, or two networks.
    """
    settings = files.settings
    if settings.export is not None or settings.tower is not None:
        raise ModelError(f"{settings.name} is not a single network of this package's making")
    if settings.local_head.kind != "delg":
        raise ModelError(f"{settings.name} has no attention: its local features are SIFT")
    if exists(files.network):
        return files.network.read_bytes()
    values = read_weights(files.weights)
    model = Delg(settings)
    load_weights(model, values, str(files.weights))
    return export_network(model, network_digest(settings, weights_digest(values)))
