"""Composites: photos of pictures amid surroundings, with the truth about which show the same one.

Photos of one label show a thing from other sides; they say nothing about different things in equal
frames, which is where counting matches fails. So pictures are put into surroundings that several
of them share, and photographed: tilted, cropped, lit unevenly, blurred.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np

from delg.training.augment import view
from delg.training.settings import AugmentSettings
from index.calibrate.surroundings import KINDS, Pixels, surround

# Pictures in each set of equal surroundings; the last is photographed, but not in the gallery.
SET = 5
# Of those in the gallery, so many are photographed.
_PHOTOGRAPHED = 3
# Width and height of the pictures of a set.
_SIZES = ((420, 520), (520, 400), (460, 460))
_LONGEST_SIDE = 500
# As hand-held phones take them: from the side, from afar, turned, in poor light.
PHOTOGRAPH = AugmentSettings(
    side=640,
    area=(0.35, 1.0),
    rotation=20,
    perspective=0.2,
    on_background=0.6,
    occlusion=0.15,
    colour=0.35,
    lighting=0.6,
    blur=0.5,
    noise=0.4,
    jpeg=0.7,
)
# Photos that lend textures and backgrounds.
TEXTURES = 40


@dataclass(frozen=True, eq=False)
class Composite:
    """One photo that was made.

    Attributes:
        pixels: uint8 (H, W, 3), RGB.
        picture: number of the picture that it shows.
        in_gallery: whether queries are to be compared with it; else it is a query.
    """

    pixels: Pixels
    picture: int
    in_gallery: bool


def make_composites(
    photos: Sequence[Pixels], sets: int, seed: int = 0, textures: Sequence[Pixels] = ()
) -> Iterator[Composite]:
    """Sets of pictures in equal surroundings, photographs of them, and pictures without any.

    Args:
        photos: uint8 (H, W, 3) each, of different things.
        sets: for each kind of surroundings.
        seed: of all that is drawn by chance.
        textures: photos that lend textures and backgrounds; where there are none, some of
            ``photos`` do that alone.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(photos))
    if not textures:
        textures = [photos[number] for number in order[:TEXTURES]]
        order = order[TEXTURES:]
    pictures = iter(order.tolist())

    def photograph(scene: Pixels) -> Pixels:
        background = textures[int(rng.integers(len(textures)))]
        return view(scene, PHOTOGRAPH, rng, background).pixels

    for kind in KINDS:
        for _ in range(sets):
            own = list(islice(pictures, SET))
            if len(own) < SET:
                return
            size = _SIZES[int(rng.integers(len(_SIZES)))]
            resized = [
                np.asarray(cv2.resize(photos[n], size, interpolation=cv2.INTER_AREA), np.uint8)
                for n in own
            ]
            design = int(rng.integers(1 << 31))
            scenes = [surround(picture, kind, design, textures) for picture in resized]
            for number, scene in zip(own[:-1], scenes, strict=False):
                yield Composite(scene, number, in_gallery=True)
            for place in (*range(_PHOTOGRAPHED), SET - 1):
                yield Composite(photograph(scenes[place]), own[place], in_gallery=False)
            other_kind = list(KINDS)[int(rng.integers(len(KINDS)))]
            elsewhere = surround(resized[-2], other_kind, int(rng.integers(1 << 31)), textures)
            yield Composite(photograph(elsewhere), own[-2], in_gallery=False)
    for number in pictures:
        scale = _LONGEST_SIDE / max(photos[number].shape[:2])
        bare = np.asarray(cv2.resize(photos[number], None, fx=scale, fy=scale), np.uint8)
        yield Composite(bare, number, in_gallery=True)
        yield Composite(photograph(bare), number, in_gallery=False)
