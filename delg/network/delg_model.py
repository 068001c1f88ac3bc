"""The DELG network: a backbone, a global head on its deep map, a local head on its middle one."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from delg.network.backbones import build_backbone
from delg.network.heads import Attention, Autoencoder, GeM, NormAttention, Whitening, l2_normalize
from delg.settings import ModelSettings


class Delg(keras.Model):
    """DEep Local and Global features (Cao, Araujo, Sim; arXiv 2001.05027).

    The local head reads the mid-level map behind a stop-gradient, so that its losses do not reach
    the backbone.

    Args:
        settings: architecture; extraction settings are not used here.

    Attributes:
        shallow, deep: the halves of the backbone.
        pooling, whitening, autoencoder, attention: the heads. Without a global head there are
            neither ``deep``, ``pooling`` nor ``whitening``.
        stride, offset: pixels between cells of the mid-level map, and the pixel coordinate of the
            centre of cell (0, 0), for inputs whose sides are multiples of 32.
    """

    def __init__(self, settings: ModelSettings, **kwargs: Any) -> None:
        super().__init__(name="delg", **kwargs)
        self.settings = settings
        backbone = build_backbone(settings.backbone, settings.block3_strides)
        self.shallow = backbone.shallow
        self.stride, self.offset = backbone.stride, backbone.offset
        head, local = settings.global_head, settings.local_head
        self.deep: Any = None
        self.pooling: Any = None
        self.whitening: Any = None
        if settings.has_global:
            self.deep = backbone.deep
            self.pooling = GeM(head.gem_p, head.gem_p_trainable, name="gem")
            self.whitening = Whitening(head.dim, head.normalize_pooled, name="whitening")
            self.pooling.build(self.deep.output_shape)
            self.whitening.build((None, self.deep.output_shape[-1]))
        self.autoencoder = Autoencoder(local.dim, local.decoder_activation, name="autoencoder")
        self.attention = (
            Attention(local.attention_hidden, local.attention_norm_power, name="attention")
            if local.attention == "learned"
            else NormAttention(name="attention")
        )
        self.autoencoder.build(self.shallow.output_shape)
        self.attention.build(self.shallow.output_shape)
        self.built = True

    def scale_pixels(self, images: Any) -> Any:
        """uint8-valued RGB (B, H, W, 3), any numeric dtype -> the backbone's input, float32."""
        spec = self.settings.input
        x = ops.cast(images, "float32")
        if spec.channel_order == "bgr":
            x = ops.flip(x, axis=-1)
        return (x - ops.array(spec.mean, "float32")) / ops.array(spec.std, "float32")

    def mid_level(self, images: Any, training: bool = False) -> Any:
        """RGB images -> the mid-level map (B, h, w, C)."""
        return self.shallow(self.scale_pixels(images), training=training)

    def global_head(self, mid: Any, training: bool = False) -> Any:
        """Mid-level map -> global descriptors (B, D), unit length."""
        return self.whitening(self.pooling(self.deep(mid, training=training)))

    def local_head(self, mid: Any, training: bool = False) -> tuple[Any, Any]:
        """Mid-level map -> local descriptors (B, h, w, d), unit length, and attention (B, h, w)."""
        descriptors = l2_normalize(self.autoencoder.encode(mid))
        if self.settings.local_head.attention == "learned":
            scores = self.attention(mid, training=training)
        else:
            scores = self.attention(mid)
        return descriptors, scores[..., 0]

    def call(self, images: Any, training: bool = False) -> dict[str, Any]:
        """One forward pass.

        Args:
            images: RGB (B, H, W, 3), values 0 to 255, H and W multiples of 32.

        Returns:
            ``global_descriptor`` (B, D), ``local_descriptors`` (B, H/16, W/16, d), both of unit
            length along the last axis, ``attention`` (B, H/16, W/16) and ``mid_level``
            (B, H/16, W/16, C); stride 32 in place of 16 with ``block3_strides``. Without a global
            head, no ``global_descriptor``.
        """
        mid = self.mid_level(images, training)
        descriptors, scores = self.local_head(ops.stop_gradient(mid), training)
        outputs = {"local_descriptors": descriptors, "attention": scores, "mid_level": mid}
        if self.deep is None:
            return outputs
        return {"global_descriptor": self.global_head(mid, training), **outputs}
