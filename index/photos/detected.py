"""The boxes of the detector that settings name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delg.types import Box
from index.settings import RegionsSettings


def detect_regions(settings: RegionsSettings, pixels: NDArray[np.uint8]) -> list[Box] | None:
    """Boxes (x, y, width, height) in pixels of a photo, the surest first; None: there is no
    detector.

    Args:
        settings: name the detector.
        pixels: uint8 (H, W, 3), RGB, upright.

    Raises:
        ModelError: the detector cannot be used.
    """
    if settings.detector is None:
        return None
    from delg.network.tensorflow_import import load_tensorflow

    load_tensorflow()
    from delg.inference.detector import load_detector

    folder = Path(settings.detector).expanduser().absolute()
    return load_detector(folder).detect(pixels, settings.detector_score)
