"""Which local features of a photo are kept when there are too many.

The best by score, but first those that repeat no better one: neighbouring levels of the pyramid
see much the same at the same place, and a second feature of it proves little.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from delg.compiled import compiled
from delg.types import LocalFeatures

# Distance below which two features lie at the same place, at scale 1, as a share of the photo's
# longest side.
_SAME_PLACE = 0.012
# Octaves below which two scales are neighbours.
_NEIGHBOURING_OCTAVES = 0.6


def top_k(features: LocalFeatures, k: int, longest_side: int) -> LocalFeatures:
    """At most ``k`` of the features, in their order.

    Args:
        features: of one photo, N of them.
        k: number of features to keep.
        longest_side: of the photo, pixels.
    """
    if len(features) <= k:
        return features
    by_score = np.argsort(-features.scores, kind="stable")
    # Repeats come after all others; among either, the higher score comes first.
    is_repeat = _mark_repeats(features, by_score, longest_side)
    kept = np.sort(by_score[np.argsort(is_repeat, kind="stable")[:k]])
    return LocalFeatures(
        features.keypoints[kept],
        features.descriptors[kept],
        features.scales[kept],
        features.scores[kept],
    )


def _mark_repeats(
    features: LocalFeatures, order: NDArray[np.intp], longest_side: int
) -> NDArray[np.bool_]:
    """Whether each feature, taken in ``order``, repeats one before it: bool (N,)."""
    places = features.keypoints[order] / longest_side
    scales = np.maximum(features.scales[order], np.finfo(np.float32).tiny)
    x, y = np.ascontiguousarray(places.T)
    repeats = np.zeros(len(order), bool)
    _find_repeats(
        x,
        y,
        (_SAME_PLACE / scales) ** 2,
        np.log2(scales),
        np.float32(_NEIGHBOURING_OCTAVES),
        repeats,
    )
    return repeats


@compiled
def _find_repeats(
    x: Any, y: Any, squared_reach: Any, octaves: Any, max_octaves: Any, repeats: Any
) -> None:
    """Set ``repeats`` (N,) where a feature lies within the reach of one before it, and its scale
    fewer than ``max_octaves`` octaves away."""
    for later in range(len(x)):
        for earlier in range(later):
            dx, dy = x[earlier] - x[later], y[earlier] - y[later]
            is_near = dx * dx + dy * dy < squared_reach[earlier]
            if is_near and abs(octaves[earlier] - octaves[later]) < max_octaves:
                repeats[later] = True
                break
