"""A global descriptor of two towers: the network's own, and a vision transformer's.

The transformer sees the photo, or the query's box, squeezed into a square of its full side; what it
pools is adapted by within-class whitening (:mod:`delg.network.within_class`). Both unit vectors are
joined, the transformer's with more weight, and rotated to their main directions, which shortens
them; then once more by chance, which spreads each over its components, so that a byte holds each.
The projection lies beside the model's settings, and was learnt by ``delg model fit-towers``
for the weights of the network: it says for which.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from delg.extraction.rotation import random_rotation
from delg.inference.tower import Tower
from delg.network.learnt_arrays import read_learnt, write_learnt
from delg.network.within_class import fit_within_class, main_axes, project
from delg.settings import TowerSettings
from delg.types import FloatArray

# Chosen on labels that were not learnt from, and on development sets: the shrinkage of the
# whitening, and what the transformer's descriptor weighs beside the network's own.
_SHRINKAGE, _WEIGHT = 0.6, 1.25
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class TowerProjection:
    """What joins two global descriptors.

    Attributes:
        mean: float32 (pooled_dim,).
        kernel: float32 (pooled_dim, adapted_dim); see :func:`delg.network.within_class.project`.
        rotation: float32 (D + adapted_dim, dim), of both, weighted.
        base: digest of the weights of the network that it was learnt for.
    """

    mean: FloatArray
    kernel: FloatArray
    rotation: FloatArray
    base: str

    @classmethod
    def fit(
        cls,
        descriptors: FloatArray,
        pooled: FloatArray,
        labels: NDArray[np.int64],
        spec: TowerSettings,
        base: str,
    ) -> TowerProjection:
        """Learn it from labelled photos; the same input gives the same projection.

        Args:
            descriptors: float32 (N, D), the network's own, unit length.
            pooled: float32 (N, pooled_dim), the transformer's.
            labels: int64 (N,).
            spec: of the tower.
            base: see above.
        """
        mean, kernel = fit_within_class(pooled, labels, spec.adapted_dim, _SHRINKAGE)
        weights = np.repeat([1.0, _WEIGHT], [descriptors.shape[1], spec.adapted_dim])
        joined = _concatenate(descriptors, project(pooled, mean, kernel)) * weights
        axes = main_axes(joined.T @ joined, spec.dim) @ random_rotation(spec.dim, spec.dim)
        rotation = weights[:, None] * axes
        return cls(mean, kernel, rotation.astype(np.float32), base)

    def join(self, descriptors: FloatArray, pooled: FloatArray) -> FloatArray:
        """Global descriptors float32 (N, dim), unit length, of both towers' (see :meth:`fit`)."""
        joined = _concatenate(descriptors, project(pooled, self.mean, self.kernel)) @ self.rotation
        lengths = np.linalg.norm(joined, axis=1, keepdims=True)
        return np.asarray(joined / np.maximum(lengths, _TINY), np.float32)

    def save(self, path: Path) -> None:
        """Write it; the matrices as float16.

        Raises:
            DelgError: it cannot be written.
        """
        arrays = {"mean": self.mean, "kernel": self.kernel, "rotation": self.rotation}
        write_learnt(path, arrays, self.base)

    @classmethod
    def load(cls, path: Path, spec: TowerSettings, dim: int, base: str) -> TowerProjection:
        """Read it.

        Args:
            path: of the file.
            spec: of the tower.
            dim: D, width of the first descriptor.
            base: digest of the network's weights, which it must have been learnt for.

        Raises:
            ModelError: it is missing, damaged, of other widths, or of other weights.
        """
        shapes = {
            "mean": (spec.pooled_dim,),
            "kernel": (spec.pooled_dim, spec.adapted_dim),
            "rotation": (dim + spec.adapted_dim, spec.dim),
        }
        return cls(**read_learnt(path, shapes, base, _FIT), base=base)


_FIT = "delg model fit-towers"


def _concatenate(first: FloatArray, second: FloatArray) -> FloatArray:
    return np.concatenate([first, second], axis=1)


def squeeze(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A photo (h, w, 3) resized to (side, side, 3), whatever its aspect ratio."""
    method = cv2.INTER_AREA if max(pixels.shape[:2]) > side else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (side, side), interpolation=method), np.uint8)


class SecondTower:
    """A transformer and what joins its descriptor with the network's own.

    Args:
        tower: in ONNX Runtime.
        projection: of both.
    """

    def __init__(self, tower: Tower, projection: TowerProjection) -> None:
        self._tower, self._projection = tower, projection

    def pool(self, crop: NDArray[np.uint8], all_cores: bool = True) -> FloatArray:
        """What the tower pools of a photo (h, w, 3): float32 (pooled_dim,)."""
        return self._tower.run(squeeze(crop, self._tower.side), all_cores)

    def join(
        self, descriptor: FloatArray, crop: NDArray[np.uint8], all_cores: bool = True
    ) -> FloatArray:
        """The joint descriptor float32 (dim,), unit length.

        Args:
            descriptor: float32 (D,), the network's own, of any length.
            crop: uint8 (h, w, 3), RGB, what both have seen.
            all_cores: see :class:`delg.inference.backend.Backend`.
        """
        unit = descriptor / max(float(np.linalg.norm(descriptor)), _TINY)
        pooled = self.pool(crop, all_cores)
        joint: FloatArray = self._projection.join(unit[None], pooled[None])[0]
        return joint
