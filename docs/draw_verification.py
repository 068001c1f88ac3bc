"""Draw the pictures of docs/verification.md, from scikit-image's photos.

python docs/draw_verification.py    write docs/images/verification-*.jpg
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

from delg import load_model
from delg.extraction.extractor import Extractor
from index.calibrate.surroundings import surround
from index.settings import IndexSettings
from index.verification.pair import verify_features
from index.visualize.draw_matches import draw_matches, encode_image

IMAGES = Path(__file__).parent / "images"
SIZE = (420, 420)
# Longest side of either photo in a drawing, and its JPEG quality: small files.
SIDE, QUALITY = 320, 65
# Draw the surroundings of each pair.
FRAME, OTHER_FRAME, SCREEN = 1, 2, 3

Pixels = NDArray[np.uint8]


def main() -> None:
    """Draw each pair with its inliers."""
    model = load_model("delg-lite")
    textures = [skimage.data.coffee(), skimage.data.rocket(), skimage.data.chelsea()]
    astronaut, coffee, cat, rocket = (
        np.asarray(cv2.resize(photo, SIZE, interpolation=cv2.INTER_AREA), np.uint8)
        for photo in (
            skimage.data.astronaut(),
            skimage.data.coffee(),
            skimage.data.chelsea(),
            skimage.data.rocket(),
        )
    )
    for name, pictures, kind, seeds in (
        ("frame", (astronaut, coffee), "frame", (FRAME, FRAME)),
        ("screen", (cat, rocket), "screen", (SCREEN, SCREEN)),
        ("same", (astronaut, astronaut), "frame", (FRAME, OTHER_FRAME)),
    ):
        query, other = (
            surround(picture, kind, seed, textures)
            for picture, seed in zip(pictures, seeds, strict=True)
        )
        draw(model, f"verification-{name}.jpg", query, other)


def draw(model: Extractor, name: str, query: Pixels, other: Pixels) -> None:
    """Match two photos and draw their inliers."""
    features = model.extract(query), model.extract(other)
    verification = verify_features(*features, IndexSettings())
    query_rows, other_rows = verification.matches.T
    drawing = draw_matches(
        query,
        other,
        features[0].local.keypoints[query_rows],
        features[1].local.keypoints[other_rows],
        longest_side=SIDE,
    )
    (IMAGES / name).write_bytes(encode_image(drawing, "JPEG", QUALITY))


if __name__ == "__main__":
    main()
