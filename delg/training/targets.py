"""What a student shall learn: a teacher's global descriptor of each photo, computed once.

The teacher is any model that ``load_model`` takes, or several: their descriptors are concatenated
with equal weight, so that the cosine of two targets is the mean of the teachers' cosines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from delg.errors import DelgError, UsageError
from delg.extraction.extractor import Extractor
from delg.files import atomic_write
from delg.training.image_cache import PhotoStore, Report, readable
from delg.training.items import Item
from delg.types import FloatArray

_FORMAT = 1
# Numbers that decide nothing are stored in half the bytes.
_STORED = np.float16


@dataclass(frozen=True, eq=False)
class Targets:
    """A teacher's descriptors of some photos.

    Attributes:
        ids: of the photos (N), as :class:`delg.training.items.Item` has them.
        descriptors: float32 (N, D), unit length.
        teachers: the models they come from, each as "name fingerprint".
    """

    ids: list[str]
    descriptors: FloatArray
    teachers: list[str]

    def rows_of(self, items: Sequence[Item]) -> np.ndarray:
        """int32 (len(items),): the row of each photo, -1 where it has none."""
        rows = {name: row for row, name in enumerate(self.ids)}
        return np.array([rows.get(item.id, -1) for item in items], np.int32)


def compute_targets(
    teachers: Sequence[Extractor], store: PhotoStore, report: Report | None = None
) -> Targets:
    """Show every photo to every teacher.

    Args:
        teachers: at least one, each with a global descriptor.
        store: the photos; those that cannot be read get no target.
        report: is told how far it is.

    Raises:
        UsageError: no photo can be read.
    """
    ids: list[str] = []
    rows: list[FloatArray] = []
    count = len(store.items)
    for number, pixels in readable(store, range(count)):
        parts = [teacher.extract(pixels).global_descriptor for teacher in teachers]
        rows.append(np.concatenate(parts) / np.sqrt(len(parts), dtype=np.float32))
        ids.append(store.items[number].id)
        if report:
            report(number + 1, count, number + 1 - len(ids))
    if not rows:
        raise UsageError("data: none of the photos can be read")
    names = [f"{teacher.name} {teacher.fingerprint}" for teacher in teachers]
    return Targets(ids, np.stack(rows), names)


def write_targets(path: Path, targets: Targets) -> None:
    """Write them as one HDF5 file.

    Raises:
        DelgError: it cannot be written; one that was there before is unchanged.
    """
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"] = _FORMAT
        file.attrs["teachers"] = targets.teachers
        file.create_dataset("ids", data=targets.ids, dtype=h5py.string_dtype())
        file.create_dataset("descriptors", data=targets.descriptors.astype(_STORED))


def read_targets(path: Path) -> Targets:
    """Read a file of :func:`write_targets`.

    Raises:
        UsageError: there is none.
        DelgError: it is damaged, or no file of targets.
    """
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != _FORMAT:
                raise ValueError("not a file of targets")
            ids = [str(name) for name in file["ids"].asstr()[:]]
            descriptors = file["descriptors"][:].astype(np.float32)
            teachers = [str(name) for name in file.attrs["teachers"]]
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; delg data targets makes it") from None
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise DelgError(f"{path}: not a readable file of targets ({error})") from None
    if descriptors.ndim != 2 or len(descriptors) != len(ids) or not np.isfinite(descriptors).all():
        raise DelgError(f"{path}: not a readable file of targets (ids and numbers do not fit)")
    lengths = np.linalg.norm(descriptors, axis=1, keepdims=True)
    return Targets(ids, descriptors / np.maximum(lengths, 1e-12), teachers)
