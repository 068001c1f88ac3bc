"""Boxes of an object detector: an export as that of Detect-to-Retrieve (Teichmann et al., CVPR
2019), a Faster R-CNN for buildings.

The SavedModel is called by the published names: ``input_images`` uint8 (1, H, W, 3), RGB, gives
``detection_boxes`` (1, N, 4), corners (y0, x0, y1, x1) in parts of the photo's sides, and
``detection_scores`` (1, N). Any other detector of the same names will do.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delg.errors import ModelError
from delg.forks import OneProcess
from delg.inference.saved_model import load_by_names
from delg.types import Box
from delg.zoo.cache import is_saved_model

_INPUT = "input_images"
_BOXES, _SCORES = "detection_boxes", "detection_scores"


class Detector:
    """A detector that is ready to run.

    Args:
        folder: that holds ``saved_model.pb``.

    Raises:
        ModelError: it is no SavedModel, or has other inputs and outputs.
    """

    def __init__(self, folder: Path) -> None:
        if not is_saved_model(folder):
            raise ModelError(
                f"regions.detector: {folder}: no SavedModel there; it must name the folder that "
                "holds saved_model.pb"
            )
        self._folder, self._process = folder, OneProcess("TensorFlow")
        self._call = load_by_names(folder, [_INPUT], [_BOXES, _SCORES])

    def detect(self, pixels: NDArray[np.uint8], min_score: float) -> list[Box]:
        """Boxes (x, y, width, height) in pixels, the highest score first.

        Args:
            pixels: uint8 (H, W, 3), RGB.
            min_score: of boxes; the published setting is .1.

        Raises:
            ModelError: what the detector gives are not boxes with scores.
        """
        self._process.check()
        outputs = self._call({_INPUT: pixels[None]})
        corners, scores = np.asarray(outputs[_BOXES]), np.asarray(outputs[_SCORES])
        if corners.ndim != 3 or corners.shape[::2] != (1, 4) or scores.shape != corners.shape[:2]:
            raise ModelError(
                f"regions.detector: {self._folder}: gives {_BOXES} {corners.shape} and {_SCORES} "
                f"{scores.shape}, not (1, N, 4) and (1, N)"
            )
        height, width = pixels.shape[:2]
        sides = np.array([height, width, height, width])
        chosen = np.flatnonzero(scores[0] >= min_score)
        chosen = chosen[np.argsort(-scores[0][chosen], kind="stable")]
        y0, x0, y1, x1 = (corners[0][chosen].clip(0, 1) * sides).T
        # Corners are float32, which tell no finer places.
        boxes = np.stack([x0, y0, x1 - x0, y1 - y0], axis=1).astype(np.float64).round(3)
        return [(x, y, w, h) for x, y, w, h in boxes.tolist() if w >= 1 and h >= 1]


@lru_cache(maxsize=2)
def load_detector(folder: Path) -> Detector:
    """The detector in a folder, which is loaded once per process.

    Raises:
        ModelError: see :class:`Detector`.
    """
    return Detector(folder)
