"""What a network says about one level of the pyramid, whichever runtime runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from delg.types import FloatArray

# More photos in a network at a time would cost memory and hardly be faster.
MOST_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Maps:
    """The answer for one level; cells row by row.

    Attributes:
        descriptors: float32 (cells, d), unit length.
        scores: float32 (cells,).
        centres: float32 (cells, 2), (x, y), the points the cells describe, in the level's pixels.
        grid: rows and columns of cells.
        global_descriptor: float32 (D,), unit length, or None where it was not asked for.
    """

    descriptors: FloatArray
    scores: FloatArray
    centres: FloatArray
    global_descriptor: FloatArray | None
    grid: tuple[int, int]

    @classmethod
    def on_grid(
        cls,
        descriptors: FloatArray,
        scores: FloatArray,
        global_descriptor: FloatArray | None,
        stride: int,
        offset: float,
    ) -> Maps:
        """From maps as a network gives them.

        Args:
            descriptors: (rows, columns, d).
            scores: (rows, columns).
            global_descriptor: (D,) or None.
            stride, offset: pixels between cells, and the pixel that cell (0, 0) describes.
        """
        rows, columns = scores.shape
        grid = np.mgrid[:rows, :columns].reshape(2, -1)[::-1].T
        return cls(
            descriptors=descriptors.reshape(rows * columns, -1),
            scores=scores.reshape(-1),
            centres=(grid * stride + offset).astype(np.float32),
            global_descriptor=global_descriptor,
            grid=(rows, columns),
        )

    def inside(self, border: int) -> NDArray[np.intp]:
        """Indices of the cells at least ``border`` cells away from every edge.

        Across a narrow grid the border shrinks, so that at least half of the cells stay.
        """
        rows, columns = self.grid
        y, x = min(border, (rows - 1) // 4), min(border, (columns - 1) // 4)
        cells = np.arange(rows * columns).reshape(rows, columns)
        return cells[y : rows - y, x : columns - x].ravel()


class Network(Protocol):
    """A DELG model ready for inference.

    Attributes:
        runtime: what runs it, of ``delg.inference.select.RUNTIMES``.
        photos_at_once: how many photos are best in it at a time where there are many.
    """

    @property
    def runtime(self) -> str: ...

    @property
    def photos_at_once(self) -> int: ...

    def run(self, pixels: NDArray[np.uint8], with_global: bool, alone: bool = True) -> Maps:
        """Run one level.

        Args:
            pixels: uint8 (h, w, 3), RGB, h and w multiples of 32.
            with_global: also give the global descriptor.
            alone: use all cores; otherwise leave them to other photos in the network.
        """
        ...
