"""Features of many photos in one HDF5 file, this engine's own layout.

One group per photo, named by its id, with ``global_descriptor`` float32 (D,), ``keypoints`` float32
(N, 2) in (x, y), ``descriptors`` float32 (N, d), ``scales`` and ``scores`` float32 (N,), and the
attributes ``width`` and ``height``. The file's attributes name the model and its fingerprint.

Parts of photos that are stored as photos of their own, R of one photo, lie in its group too:
``region_boxes`` int32 (R, 4) in (x, y, width, height), ``region_offsets`` int64 (R + 1), and the
arrays above under their names with ``region_`` in front, (R, D) and those of all its parts one
after the other, with keypoints in pixels of the part.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from delg.files import atomic_write
from delg.types import Failure, ImageFeatures, RegionFeatures
from index.formats.writing import new_group, write_each

# Of the names of arrays of a photo's parts.
REGION_PREFIX = "region_"


class _ErrorKeepingFile(io.FileIO):
    """A new file that keeps its first write error until :meth:`check`.

    HDF5 must not see it: it cannot close a file that it cannot write, and takes the process along.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        written = 0
        while self._error is None and written < len(view):
            try:
                written += super().write(view[written:])
            except OSError as error:
                self._error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self._error is not None:
            raise self._error


@contextmanager
def new_file(path: Path) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """An HDF5 file to fill; it appears under its name when it is complete.

    Yields:
        The file, and a function that raises the first error of writing so far.

    Raises:
        DelgError: it cannot be written.
    """
    with atomic_write(path) as temporary:
        with _ErrorKeepingFile(temporary) as buffer, h5py.File(buffer, "w") as file:
            yield file, buffer.check
        buffer.check()


def write_features(
    path: str | Path,
    features: Iterable[tuple[str, ImageFeatures]],
    model: str,
    fingerprint: str,
    failed: list[Failure] | None = None,
) -> int:
    """Write features as they come; the file appears under its name when it is complete.

    Args:
        failed: see :func:`index.formats.writing.write_each`.

    Returns:
        Number of photos written.

    Raises:
        DelgError: the file cannot be written.
    """
    with new_file(Path(path)) as (file, check):
        file.attrs.update(model=model, fingerprint=fingerprint)

        def write_one(image_id: str, image: ImageFeatures) -> None:
            check()
            group = new_group(file, image_id)
            group.attrs.update(width=image.width, height=image.height)
            group["global_descriptor"] = image.global_descriptor
            group["keypoints"] = image.local.keypoints
            group["descriptors"] = image.local.descriptors
            group["scales"] = image.local.scales
            group["scores"] = image.local.scores
            for name, array in _region_arrays(image.regions).items():
                group[REGION_PREFIX + name] = array

        return write_each(features, write_one, failed)


def _region_arrays(regions: Sequence[RegionFeatures]) -> dict[str, np.ndarray]:
    """The arrays of a photo's parts, by name without prefix; empty if it has none."""
    if not regions:
        return {}
    local = [region.features.local for region in regions]
    return {
        "boxes": np.array([region.box for region in regions], np.int32),
        "offsets": np.cumsum([0, *map(len, local)], dtype=np.int64),
        "global_descriptor": np.stack([region.features.global_descriptor for region in regions]),
        "keypoints": np.concatenate([part.keypoints for part in local]),
        "descriptors": np.concatenate([part.descriptors for part in local]),
        "scales": np.concatenate([part.scales for part in local]),
        "scores": np.concatenate([part.scores for part in local]),
    }
