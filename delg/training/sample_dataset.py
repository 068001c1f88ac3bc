"""A small set of labelled photos to try training on, made from those in scikit-image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import skimage.data

from delg.training.augment import view
from delg.training.image_cache import resize_to_fit
from delg.training.settings import AugmentSettings

# Each of them comes inside the package; the rest of ``skimage.data`` would be downloaded.
NAMES = ("astronaut", "brick", "camera", "cat", "coffee", "coins", "grass", "gravel", "moon",
         "page", "rocket", "text")  # fmt: skip
_HARD = AugmentSettings(
    side=160, area=(0.15, 0.6), rotation=40, perspective=0.15, colour=0.5, lighting=0.5, blur=0.3
)


def write_samples(folder: Path, views: int, seed: int = 0) -> int:
    """Write ``views`` photos of each thing to ``<folder>/<name>/<number>.jpg``.

    Returns:
        How many photos were written.
    """
    for thing, name in enumerate(NAMES):
        photo = getattr(skimage.data, name)()
        if photo.ndim == 2:
            photo = np.repeat(photo[..., None], 3, axis=2)
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(views):
            rng = np.random.default_rng([seed, thing, number])
            pixels = view(resize_to_fit(photo, 384), _HARD, rng, None).pixels
            cv2.imwrite(str(folder / name / f"{number:02d}.jpg"), pixels[..., ::-1])
    return views * len(NAMES)
