"""The heads in layers: what is the same whatever runs them.

They mirror ``delg.network.heads``, which has them in Keras for training.
"""

from __future__ import annotations

from dataclasses import dataclass

from delg.inference.layered_backbones import Halves
from delg.inference.layers import Convolution, Layers, Tensor, Weights
from delg.settings import ModelSettings
from delg.types import FloatArray

# GeM takes smaller numbers for this.
EPSILON = 1e-6
# Shorter vectors count as zero, and stay what they are where others get unit length.
TINY = 1e-6


def local_maps(
    layers: Layers[Tensor], mid: Tensor, backbone: Halves, settings: ModelSettings
) -> tuple[Tensor, Tensor]:
    """The convolutions of the local head: the codes, and what is left to be a score: the mid-level
    map, whose norm it is, or one channel, whose softplus it is."""
    inputs, head = backbone.mid_channels, settings.local_head
    codes = layers.conv(mid, Convolution("autoencoder/encoder", (inputs, head.dim), bias=True))
    if head.attention == "norm":
        return codes, mid
    channels = (inputs, head.attention_hidden)
    hidden = Convolution("attention/hidden", channels, norm="attention/norm", bias=True)
    score = Convolution("attention/score", (head.attention_hidden, 1), bias=True)
    return codes, layers.conv(layers.relu(layers.conv(mid, hidden)), score)


def take_decoder(backbone: Halves, settings: ModelSettings, weights: Weights) -> None:
    """Take what training reconstructs with; extraction has no use for it."""
    name, channels = "autoencoder/decoder", backbone.mid_channels
    weights.take(f"{name}/kernel", (1, 1, settings.local_head.dim, channels))
    weights.take(f"{name}/bias", (channels,))


@dataclass(frozen=True, eq=False)
class GlobalHead:
    """What becomes of the deep map.

    Attributes:
        power: of GeM.
        normalize_pooled: whether what is pooled gets unit length.
        kernel, bias: of the whitening, float32 (C, D) and (D,).
    """

    power: float
    normalize_pooled: bool
    kernel: FloatArray
    bias: FloatArray

    @classmethod
    def take(cls, backbone: Halves, settings: ModelSettings, weights: Weights) -> GlobalHead:
        """With its weights.

        Raises:
            ModelError: they are of another shape.
        """
        spec, name = settings.global_head, "whitening/projection"
        return cls(
            float(weights.take("gem/p", ())),
            spec.normalize_pooled,
            weights.take(f"{name}/kernel", (backbone.deep_channels, spec.dim)),
            weights.take(f"{name}/bias", (spec.dim,)),
        )
