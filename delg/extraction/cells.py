"""Every cell of a photo that could become a local feature, with the map that attention judges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from delg.images.pyramid import base_side, level
from delg.inference.attention_graph import MID_LEVEL, expose_mid_level
from delg.inference.backend import LevelOutput
from delg.inference.onnx_runtime import (
    DESCRIPTORS,
    GLOBAL,
    IMAGE,
    OFFSET,
    SCORES,
    STRIDE,
    WITH_GLOBAL,
    WITH_LOCAL,
    load_session,
)
from delg.settings import ExtractionSettings
from delg.types import FloatArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of all levels of a photo, but for those along the borders.

    Attributes:
        keypoints: float32 (N, 2), (x, y), pixels of the photo.
        descriptors: float32 (N, d), unit length.
        maps: float32 (N, C), what the attention reads.
        scales: float32 (N,), see :class:`delg.types.LocalFeatures`.
        scores: float32 (N,), as extraction would choose by.
        size: width and height of the photo, pixels.
    """

    keypoints: FloatArray
    descriptors: FloatArray
    maps: FloatArray
    scales: FloatArray
    scores: FloatArray
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.keypoints)


class CellExtractor:
    """Gives all cells of a photo; :class:`delg.extraction.extractor.Extractor` keeps the best.

    Args:
        network: of the model, as :mod:`delg.inference.export_onnx` writes them.
        spec: of the model.
        threads: that work on a photo.
    """

    def __init__(self, network: bytes, spec: ExtractionSettings, threads: int) -> None:
        self._session = load_session(expose_mid_level(network), threads)
        self._spec = spec
        metadata = self._session.get_modelmeta().custom_metadata_map
        self._stride, self._offset = int(metadata[STRIDE]), float(metadata[OFFSET])
        self._has_global = GLOBAL in {output.name for output in self._session.get_outputs()}

    def extract(self, pixels: Pixels, enlarged: bool = True) -> Cells:
        """The cells of a photo.

        Args:
            pixels: uint8 (H, W, 3), RGB.
            enlarged: as far as the model does; else no level is larger than the photo, so that
                small photos are as sharp as large ones.
        """
        side = base_side(pixels, self._spec)
        if not enlarged:
            side = min(side, max(pixels.shape[:2]) / max(self._spec.scales))
        parts = [self._level(pixels, scale, side) for scale in self._spec.scales]
        keypoints, descriptors, maps, scales, scores = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        size = pixels.shape[1], pixels.shape[0]
        return Cells(keypoints, descriptors, maps, scales, scores, size)

    def _level(self, pixels: Pixels, scale: float, side: float) -> tuple[FloatArray, ...]:
        """Keypoints, descriptors, maps, scales and scores of one level."""
        at = level(pixels, scale, side)
        inputs = {IMAGE: at.pixels[None], WITH_LOCAL: np.array(True)}
        if self._has_global:
            inputs[WITH_GLOBAL] = np.array(False)
        descriptors, scores, maps = self._session.run([DESCRIPTORS, SCORES, MID_LEVEL], inputs)
        output = LevelOutput.from_maps(descriptors[0], scores[0], None, self._stride, self._offset)
        inner = output.inner_cells(self._spec.border_cells)
        points = at.to_photo(output.centres[inner]).clip(0, [at.width - 1, at.height - 1])
        flat = maps[0].reshape(maps.shape[1], -1).T
        scores = output.scores[inner] * self._spec.weight_by_scale[scale]
        scales = np.full(len(inner), scale, np.float32)
        return points.astype(np.float32), output.descriptors[inner], flat[inner], scales, scores
