"""Which local features of a photo are kept, when not all are.

The best by score, but first those that no better one stands in for: neighbouring levels of the
pyramid see much the same in the same place, and a second feature of it proves little.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from delg.compiled import compiled
from delg.types import LocalFeatures

# How near two features are the same place, at scale 1, in parts of the photo's longest side.
_NEAR = 0.012
# How near two scales are neighbours, in octaves.
_OCTAVES = 0.6


def top_k(features: LocalFeatures, most: int, longest_side: int) -> LocalFeatures:
    """At most so many of the features, in their order.

    Args:
        features: of a photo whose longest side has ``longest_side`` pixels.
    """
    if len(features) <= most:
        return features
    order = np.argsort(-features.scores, kind="stable")
    # What is repeated follows all else; either way the better first.
    late = _repeats(features, order, longest_side)
    kept = np.sort(order[np.argsort(late, kind="stable")[:most]])
    return LocalFeatures(
        features.keypoints[kept],
        features.descriptors[kept],
        features.scales[kept],
        features.scores[kept],
    )


def _repeats(features: LocalFeatures, order: np.ndarray, longest_side: int) -> np.ndarray:
    """Whether each feature, in that order, repeats one before it: bool (N,)."""
    places = features.keypoints[order] / longest_side
    scales = np.maximum(features.scales[order], np.finfo(np.float32).tiny)
    x, y = np.ascontiguousarray(places.T)
    repeats = np.zeros(len(order), bool)
    _find_repeats(x, y, (_NEAR / scales) ** 2, np.log2(scales), np.float32(_OCTAVES), repeats)
    return repeats


@compiled
def _find_repeats(x: Any, y: Any, reach: Any, octaves: Any, apart: Any, repeats: Any) -> None:
    """Mark in ``repeats`` what lies within the ``reach`` (squared) of one before it, less than
    ``apart`` octaves away."""
    for late in range(len(x)):
        for early in range(late):
            across, down = x[early] - x[late], y[early] - y[late]
            near = across * across + down * down < reach[early]
            if near and abs(octaves[early] - octaves[late]) < apart:
                repeats[late] = True
                break
