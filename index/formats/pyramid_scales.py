"""Feature files whose scales are upside down, as versions before 0.2 wrote and read them.

Those versions wrote pyramid scales into ``.delg_local`` files, where the published tools have
1 / scale, and 1 / scale into all other files of a published export's features. Against the pyramid
of the model, which way up they are is plain to see.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from delg.types import Failure, FloatArray, invert_scales
from index.formats.parsed import ParsedFeatures

logger = logging.getLogger(__name__)
# How far a scale may lie from its level, in octaves; compact indexes round to a sixteenth.
_TOLERANCE = 0.05
# Photos that are looked at until one decides; few pyramids look the same upside down.
_MAX_PHOTOS = 32


def with_pyramid_scales(
    photos: Iterator[ParsedFeatures | Failure], pyramid: Sequence[float], source: str
) -> Iterator[ParsedFeatures | Failure]:
    """The photos of a file, with scales turned the right way up if only so they fit the pyramid.

    Args:
        pyramid: scales of the levels that the features come from; empty: unknown, nothing changes.
        source: names the file in the warning that it is upside down.
    """
    if not pyramid:
        yield from photos
        return
    first: list[ParsedFeatures | Failure] = []
    is_inverse = False
    for photo in photos:
        first.append(photo)
        verdict = _is_inverse(photo, pyramid)
        if verdict is not None or len(first) == _MAX_PHOTOS:
            is_inverse = bool(verdict)
            break
    if is_inverse:
        logger.warning(
            "%s: scales are upside down, as versions before 0.2 wrote them; they are read as 1 / "
            "scale",
            source,
        )
    for photo in chain(first, photos):
        if is_inverse and isinstance(photo, ParsedFeatures) and photo.local is not None:
            scales = invert_scales(photo.local.scales)
            photo = replace(photo, local=replace(photo.local, scales=scales))
        yield photo


def _is_inverse(photo: ParsedFeatures | Failure, pyramid: Sequence[float]) -> bool | None:
    """Whether the scales fit the pyramid upside down only; None if both ways or neither."""
    if isinstance(photo, Failure) or photo.local is None or not len(photo.local):
        return None
    scales = photo.local.scales
    upright, inverse = _fits(scales, pyramid), _fits(invert_scales(scales), pyramid)
    return None if upright == inverse else inverse


def _fits(scales: FloatArray, pyramid: Sequence[float]) -> bool:
    if not (scales > 0).all():
        return False
    octaves = np.abs(np.log2(scales)[:, None] - np.log2(pyramid))
    return bool((octaves.min(axis=1) < _TOLERANCE).all())
