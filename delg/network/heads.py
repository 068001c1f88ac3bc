"""The heads of DELG (Cao, Araujo, Sim; arXiv 2001.05027): pooling, whitening, codes, attention."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

# Below this a vector counts as zero and stays zero when normalised.
_TINY = 1e-12


def l2_normalize(x: Any) -> Any:
    """Unit length along the last axis; a zero vector stays zero."""
    return x / ops.sqrt(ops.maximum(ops.sum(ops.square(x), axis=-1, keepdims=True), _TINY))


@keras.saving.register_keras_serializable("delg")
class GeM(layers.Layer):
    """Generalised-mean pooling: ``(mean over cells of max(x, eps)^p)^(1/p)``.

    p = 1 is average pooling; p -> infinity is max pooling (Radenovic et al., arXiv 1711.02512).

    Args:
        p: the power, at least 1.
        p_trainable: learn p along with the rest.
        epsilon: activations below it count as it.

    Shapes:
        (B, H, W, C) -> (B, C).
    """

    def __init__(
        self, p: float = 3.0, p_trainable: bool = False, epsilon: float = 1e-6, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.initial_p, self.p_trainable, self.epsilon = p, p_trainable, epsilon

    def build(self, input_shape: Any) -> None:
        self.p = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(self.initial_p),
            trainable=self.p_trainable,
            name="p",
        )

    def call(self, maps: Any) -> Any:
        clipped = ops.maximum(maps, self.epsilon)
        # Dividing by the maximum first keeps high powers inside the range of floats.
        peak = ops.max(clipped, axis=(1, 2), keepdims=True)
        powered = ops.power(clipped / peak, self.p)
        return peak[:, 0, 0] * ops.power(ops.mean(powered, axis=(1, 2)), 1.0 / self.p)

    def get_config(self) -> dict[str, Any]:
        settings = {"p": self.initial_p, "p_trainable": self.p_trainable, "epsilon": self.epsilon}
        return {**super().get_config(), **settings}


@keras.saving.register_keras_serializable("delg")
class Whitening(layers.Layer):
    """A dense layer with bias, then unit length: the global descriptor.

    Learnt by training as in DELG, or set to a PCA whitening of pooled vectors, which wants them
    of unit length first (``normalize_input``).

    Shapes:
        (B, C) -> (B, dim), unit length.
    """

    def __init__(self, dim: int, normalize_input: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim, self.normalize_input = dim, normalize_input
        self.projection = layers.Dense(dim, name="projection")

    def build(self, input_shape: Any) -> None:
        self.projection.build(input_shape)

    def call(self, pooled: Any) -> Any:
        if self.normalize_input:
            pooled = l2_normalize(pooled)
        return l2_normalize(self.projection(pooled))

    def get_config(self) -> dict[str, Any]:
        settings = {"dim": self.dim, "normalize_input": self.normalize_input}
        return {**super().get_config(), **settings}


@keras.saving.register_keras_serializable("delg")
class Autoencoder(layers.Layer):
    """Short codes for the mid-level features: 1×1 convolution down, 1×1 convolution back up.

    Args:
        dim: width of the code; the code is linear and its unit vector is the local descriptor.
        activation: "relu" as published, or "linear" for a map that takes negative values.

    Shapes:
        ``encode``: (B, H, W, C) -> (B, H, W, dim); ``call``: (B, H, W, C) -> the codes and
        their reconstruction (B, H, W, C).
    """

    def __init__(self, dim: int, activation: str = "relu", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim, self.activation = dim, activation
        self.encoder = layers.Conv2D(dim, 1, name="encoder")

    def build(self, input_shape: Any) -> None:
        channels = input_shape[-1]
        self.decoder = layers.Conv2D(channels, 1, activation=self.activation, name="decoder")
        self.encoder.build(input_shape)
        self.decoder.build((*input_shape[:-1], self.dim))

    def encode(self, maps: Any) -> Any:
        return self.encoder(maps)

    def call(self, maps: Any) -> tuple[Any, Any]:
        codes = self.encode(maps)
        return codes, self.decoder(codes)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dim": self.dim, "activation": self.activation}


@keras.saving.register_keras_serializable("delg")
class Attention(layers.Layer):
    """The weight of each cell: 1×1 convolution, batch norm, ReLU, 1×1 convolution, softplus.

    Args:
        hidden: channels between the convolutions.
        norm_power: the weight is multiplied by the L2 norm of the cell's feature to this power.

    Shapes:
        (B, H, W, C) -> (B, H, W, 1), positive.
    """

    def __init__(self, hidden: int = 512, norm_power: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden_units, self.norm_power = hidden, norm_power
        self.hidden = layers.Conv2D(hidden, 1, name="hidden")
        self.norm = layers.BatchNormalization(name="norm")
        self.score = layers.Conv2D(1, 1, name="score")

    def build(self, input_shape: Any) -> None:
        hidden_shape = (*input_shape[:-1], self.hidden_units)
        self.hidden.build(input_shape)
        self.norm.build(hidden_shape)
        self.score.build(hidden_shape)

    def call(self, maps: Any, training: bool = False) -> Any:
        hidden = ops.relu(self.norm(self.hidden(maps), training=training))
        weights = ops.softplus(self.score(hidden))
        if not self.norm_power:
            return weights
        squared = ops.sum(ops.square(maps), axis=-1, keepdims=True)
        return weights * ops.power(squared, self.norm_power / 2)

    def get_config(self) -> dict[str, Any]:
        settings = {"hidden": self.hidden_units, "norm_power": self.norm_power}
        return {**super().get_config(), **settings}


@keras.saving.register_keras_serializable("delg")
class NormAttention(layers.Layer):
    """The untrained attention: a cell's score is the L2 norm of its feature.

    Shapes:
        (B, H, W, C) -> (B, H, W, 1), not negative.
    """

    def call(self, maps: Any) -> Any:
        return ops.sqrt(ops.sum(ops.square(maps), axis=-1, keepdims=True))
