"""What a network gives for one level of the pyramid, whatever runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from delg.types import FloatArray


@dataclass(frozen=True, eq=False)
class LevelOutput:
    """The network's output for one level; cells in row-major order.

    Attributes:
        descriptors: float32 (cells, d), unit length.
        scores: float32 (cells,).
        centres: float32 (cells, 2), (x, y), the points that the cells describe, in the level's
            pixels.
        grid: rows and columns of cells; (0, 0) if no local features were wanted.
        global_descriptor: float32 (D,), unit length, or None if it was not wanted.
    """

    descriptors: FloatArray
    scores: FloatArray
    centres: FloatArray
    global_descriptor: FloatArray | None
    grid: tuple[int, int]

    @classmethod
    def from_maps(
        cls,
        descriptors: FloatArray,
        scores: FloatArray,
        global_descriptor: FloatArray | None,
        stride: int,
        offset: float,
    ) -> LevelOutput:
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
            descriptors=descriptors.reshape(rows * columns, descriptors.shape[-1]),
            scores=scores.reshape(-1),
            centres=(grid * stride + offset).astype(np.float32),
            global_descriptor=global_descriptor,
            grid=(rows, columns),
        )

    def inner_cells(self, border: int) -> NDArray[np.intp]:
        """Indices of the cells at least ``border`` cells away from every edge.

        Across a narrow grid the border shrinks, so that at least half of the cells stay.
        """
        rows, columns = self.grid
        y, x = min(border, (rows - 1) // 4), min(border, (columns - 1) // 4)
        cells = np.arange(rows * columns).reshape(rows, columns)
        return cells[y : rows - y, x : columns - x].ravel()


class Backend(Protocol):
    """A DELG network ready for inference.

    Attributes:
        description: what runs it, and the file it came from.
        parallel_images: how many photos are best in it at a time where there are many.
    """

    @property
    def description(self) -> str: ...

    @property
    def parallel_images(self) -> int: ...

    def run(
        self,
        pixels: NDArray[np.uint8],
        *,
        with_local: bool = True,
        with_global: bool = True,
        all_cores: bool = True,
    ) -> LevelOutput:
        """Run one level; outputs that are not wanted are not computed.

        Args:
            pixels: uint8 (h, w, 3), RGB, h and w multiples of 32.
            with_local: give descriptors and scores of the cells.
            with_global: give the global descriptor, if the model has one.
            all_cores: use all of them; otherwise leave some to other photos in the network.
        """
        ...
