"""Noisy labels: which of them the untrained descriptor believes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from delg.training.dataset import NO_LABEL
from delg.types import FloatArray


def believed(
    descriptors: FloatArray, labels: NDArray[np.int32], neighbours: int, agreement: float
) -> NDArray[np.bool_]:
    """Which labels are shared by enough of the photo's nearest neighbours.

    A class smaller than the neighbourhood cannot fill it, so it is asked for its share of what it
    could give; a lone photo is believed.

    Args:
        descriptors: float32 (N, D), unit length.
        labels: int32 (N,); NO_LABEL rows are no neighbours and come out as not believed.
        neighbours: how many nearest photos are asked.
        agreement: share of them that must carry the label.

    Returns:
        bool (N,).
    """
    known = np.flatnonzero(labels != NO_LABEL)
    result = np.zeros(len(labels), bool)
    sizes = {int(label): int((labels == label).sum()) for label in np.unique(labels[known])}
    # Blocks of rows keep the similarities of a large collection out of memory.
    for start in range(0, len(known), 1024):
        rows = known[start : start + 1024]
        similarity = descriptors[rows] @ descriptors[known].T
        similarity[np.arange(len(rows)), np.arange(start, start + len(rows))] = -np.inf
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :neighbours]
        same = (labels[known][nearest] == labels[rows, None]).sum(axis=1)
        possible = np.array([min(neighbours, sizes[int(label)] - 1) for label in labels[rows]])
        result[rows] = same >= agreement * possible
    return result
