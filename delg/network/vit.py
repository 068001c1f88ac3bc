"""The vision transformer (Dosovitskiy et al., arXiv 2010.11929) as a tower for global descriptors.

One definition serves CLIP, OpenCLIP, SigLIP and DINOv2, which differ in
:class:`delg.settings.TowerSettings`: class token, registers, layer norms, activation, scaled
branches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import keras
import numpy as np
from keras import layers, ops

from delg.errors import ModelError
from delg.network.heads import l2_normalize
from delg.network.weights import some
from delg.settings import TowerSettings
from delg.types import FloatArray

_ACTIVATIONS = {
    "gelu": lambda x: ops.gelu(x, approximate=False),
    "gelu_tanh": lambda x: ops.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * ops.sigmoid(1.702 * x),
}


class Block(layers.Layer):
    """Self-attention and a perceptron, each behind a layer norm and beside an identity.

    Shapes:
        tokens (B, N, width) -> (B, N, width).
    """

    def __init__(self, spec: TowerSettings, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec, width = spec, spec.width
        self.norm1 = layers.LayerNormalization(epsilon=spec.epsilon, name="norm1")
        self.norm2 = layers.LayerNormalization(epsilon=spec.epsilon, name="norm2")
        for name in ("query", "key", "value", "output"):
            setattr(self, f"to_{name}", layers.Dense(width, name=name))
        self.mlp1 = layers.Dense(spec.hidden, name="mlp1")
        self.mlp2 = layers.Dense(width, name="mlp2")

    def build(self, input_shape: Any) -> None:
        width = self.spec.width
        for layer in (self.norm1, self.norm2, self.to_query, self.to_key, self.to_value):
            layer.build(input_shape)
        self.to_output.build(input_shape)
        self.mlp1.build(input_shape)
        self.mlp2.build((*input_shape[:-1], self.spec.hidden))
        if self.spec.layer_scale:
            self.scale1 = self.add_weight(shape=(width,), initializer="ones", name="scale1")
            self.scale2 = self.add_weight(shape=(width,), initializer="ones", name="scale2")

    def _split(self, x: Any) -> Any:
        """(B, N, width) -> (B, heads, N, width / heads)."""
        heads = self.spec.heads
        x = ops.reshape(x, (-1, x.shape[1], heads, self.spec.width // heads))
        return ops.transpose(x, (0, 2, 1, 3))

    def attend(self, x: Any) -> Any:
        """Scaled dot-product attention over all tokens (Vaswani et al., arXiv 1706.03762)."""
        query, key, value = (
            self._split(dense(x)) for dense in (self.to_query, self.to_key, self.to_value)
        )
        scale = (self.spec.width // self.spec.heads) ** -0.5
        weights = ops.softmax(ops.matmul(query * scale, ops.transpose(key, (0, 1, 3, 2))))
        joined = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
        return self.to_output(ops.reshape(joined, (-1, x.shape[1], self.spec.width)))

    def call(self, x: Any) -> Any:
        attended = self.attend(self.norm1(x))
        x = x + (attended * self.scale1 if self.spec.layer_scale else attended)
        hidden = _ACTIVATIONS[self.spec.activation](self.mlp1(self.norm2(x)))
        hidden = self.mlp2(hidden)
        return x + (hidden * self.scale2 if self.spec.layer_scale else hidden)


class ViT(keras.Model):
    """A vision transformer for squares of one size.

    Args:
        spec: the architecture.

    Attributes:
        prefix: tokens before those of the patches: the class token and registers.
    """

    def __init__(self, spec: TowerSettings, **kwargs: Any) -> None:
        super().__init__(name="tower", **kwargs)
        self.spec, width = spec, spec.width
        grid, token = spec.side // spec.patch, (None, None, width)
        self.prefix = int(spec.class_token) + spec.registers
        self.patches = layers.Conv2D(
            width, spec.patch, spec.patch, use_bias=spec.patch_bias, name="patches"
        )
        self.patches.build((None, spec.side, spec.side, 3))
        shape = (grid * grid + int(spec.class_token), width)
        self.positions = self.add_weight(shape=shape, name="positions")
        if spec.class_token:
            self.class_token = self.add_weight(shape=(width,), name="class_token")
        if spec.registers:
            self.registers = self.add_weight(shape=(spec.registers, width), name="registers")
        self.pre_norm = self._norm("pre_norm") if spec.pre_norm else None
        self.blocks = [Block(spec, name=f"block{number}") for number in range(spec.depth)]
        for block in self.blocks:
            block.build(token)
        self.final_norm = self._norm("final_norm") if spec.final_norm else None
        self.built = True

    def _norm(self, name: str) -> layers.LayerNormalization:
        norm = layers.LayerNormalization(epsilon=self.spec.epsilon, name=name)
        norm.build((None, None, self.spec.width))
        return norm

    def named_variables(self) -> Iterator[tuple[str, keras.Variable]]:
        """Every variable with the name that weight files are brought to."""
        for variable in self.weights:
            yield variable.path.removeprefix(f"{self.name}/"), variable

    def load(self, values: dict[str, np.ndarray], origin: str) -> None:
        """Copy weights into the model, strictly; positions are interpolated to its grid.

        Args:
            values: by the names of :meth:`named_variables`.
            origin: names their source in errors.

        Raises:
            ModelError: a variable is missing, left over or of another shape.
        """
        variables = dict(self.named_variables())
        missing, extra = variables.keys() - values.keys(), values.keys() - variables.keys()
        if missing or extra:
            raise ModelError(
                f"{origin}: does not fit the settings: missing {some(missing)}; unknown "
                f"{some(extra)}"
            )
        spec = self.spec
        trained = (spec.grid**2 + int(spec.class_token), spec.width)
        for name, variable in variables.items():
            expected = trained if name == "positions" else tuple(variable.shape)
            if values[name].shape != expected:
                raise ModelError(
                    f"{origin}: {name} is {values[name].shape}, the settings need {expected}"
                )
        for name, variable in variables.items():
            value = values[name].astype(np.float32)
            if name == "positions":
                value = interpolate_positions(value, spec.grid, spec.side // spec.patch)
            variable.assign(value)

    def tokens(self, images: Any) -> Any:
        """RGB (B, side, side, 3), values 0 to 255, -> tokens after the last block
        (B, prefix + patches, width)."""
        spec = self.spec
        x = ops.cast(images, "float32")
        x = (x - ops.array(spec.input.mean, "float32")) / ops.array(spec.input.std, "float32")
        x = self.patches(x)
        x = ops.reshape(x, (-1, x.shape[1] * x.shape[2], spec.width))
        x = x + self.positions[int(spec.class_token) :]
        prefix = []
        if spec.class_token:
            prefix.append((self.class_token + self.positions[0])[None])
        if spec.registers:
            prefix.append(self.registers)
        if prefix:
            first = ops.concatenate(prefix, axis=0)[None]
            first = ops.broadcast_to(first, (ops.shape(x)[0], self.prefix, spec.width))
            x = ops.concatenate([first, x], axis=1)
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        for block in self.blocks:
            x = block(x)
        return x if self.final_norm is None else self.final_norm(x)

    def call(self, images: Any) -> Any:
        """RGB (B, side, side, 3), values 0 to 255, -> (B, pooled_dim): the class token and the mean
        patch token, each of unit length."""
        tokens = self.tokens(images)
        mean = l2_normalize(ops.mean(tokens[:, self.prefix :], axis=1))
        if not self.spec.class_token:
            return mean
        return ops.concatenate([l2_normalize(tokens[:, 0]), mean], axis=-1)


def interpolate_positions(positions: FloatArray, trained: int, grid: int) -> FloatArray:
    """Positions for another grid, bicubically; those of a class token stay.

    Args:
        positions: float32 (class token + trained², width).
        trained, grid: patches along a side, before and after.

    Returns:
        float32 (class token + grid², width).
    """
    first, patches = positions[: len(positions) - trained**2], positions[-(trained**2) :]
    planes = patches.reshape(trained, trained, -1)
    resized = [
        cv2.resize(
            np.ascontiguousarray(planes[..., i]), (grid, grid), interpolation=cv2.INTER_CUBIC
        )
        for i in range(planes.shape[-1])
    ]
    return np.concatenate([first, np.stack(resized, axis=-1).reshape(grid**2, -1)])
