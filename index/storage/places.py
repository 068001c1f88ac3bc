"""Where the features of photos lie: int64 (N, 3), row number, segment and position of each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def by_segment(
    places: NDArray[np.int64],
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """The number of each segment, and the row numbers and positions of its photos, ordered by
    position.

    Args:
        places: int64 (N, 3), row, segment and position of photos.
    """
    if not len(places):
        return
    places = places[np.lexsort((places[:, 2], places[:, 1]))]
    for part in np.split(places, np.flatnonzero(np.diff(places[:, 1])) + 1):
        yield int(part[0, 1]), part[:, 0], part[:, 2]
