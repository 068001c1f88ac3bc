"""Features of many photos in one HDF5 file, to take elsewhere.

One group a photo, named by its id, with ``global_descriptor`` float32 (D,), ``keypoints`` float32
(N, 2) in (x, y), ``descriptors`` float32 (N, d), ``scales`` and ``scores`` float32 (N,), and the
attributes ``width`` and ``height``. The file's attributes name the model and its fingerprint.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from delg.files import atomic_write
from delg.types import ImageFeatures


class _Patient(io.FileIO):
    """A new file that keeps its first write error to itself until asked.

    HDF5 must not see it: it cannot close a file that it cannot write, and takes the process along.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self._failed: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while self._failed is None and done < len(view):
            try:
                done += super().write(view[done:])
            except OSError as error:
                self._failed = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self._failed = self._failed or error
            return size or 0

    def check(self) -> None:
        """Raise what went wrong, if anything did."""
        if self._failed is not None:
            raise self._failed


@contextmanager
def new_file(path: Path) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """An HDF5 file to fill; it appears under its name when all went well.

    Yields:
        The file, and a function that raises what went wrong in writing so far.

    Raises:
        DelgError: it cannot be written.
    """
    with atomic_write(path) as temporary:
        with _Patient(temporary) as patient, h5py.File(patient, "w") as file:
            yield file, patient.check
        patient.check()


def write_features(
    path: str | Path, features: Iterable[tuple[str, ImageFeatures]], model: str, fingerprint: str
) -> int:
    """Write features as they come; the file appears under its name when it is complete.

    Returns:
        How many photos were written.

    Raises:
        DelgError: the file cannot be written.
    """
    count = 0
    with new_file(Path(path)) as (file, check):
        file.attrs.update(model=model, fingerprint=fingerprint)
        for image_id, one in features:
            check()
            group = file.create_group(image_id)
            group.attrs.update(width=one.width, height=one.height)
            group["global_descriptor"] = one.global_descriptor
            group["keypoints"] = one.local.keypoints
            group["descriptors"] = one.local.descriptors
            group["scales"] = one.local.scales
            group["scores"] = one.local.scores
            count += 1
    return count
