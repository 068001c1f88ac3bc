"""HDF5 files of unknown origin: no link is followed, and nothing large is read unchecked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from delg.delf_files import FeatureFileError
from delg.limits import MAX_ARRAY_BYTES
from index.formats.parsed import BadFeaturesError


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to read.

    Raises:
        FeatureFileError: it is no HDF5 file, or its structure is damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        # What HDF5 raises, and when, depends on which of its bytes are damaged.
        raise FeatureFileError(f"{path}: not a readable HDF5 file ({error})") from None


def walk(file: h5py.File) -> Iterator[tuple[str, Any]]:
    """Every group and dataset, with its name; groups before their members.

    Links, in the file or out of it, are skipped; of an item with two names one is given.
    """
    visited = {_address(file)}
    pending = [("", file)]
    while pending:
        prefix, group = pending.pop()
        for name in group:
            item = find(group, name)
            if item is None or _address(item) in visited:
                continue
            visited.add(_address(item))
            yield prefix + name, item
            if isinstance(item, h5py.Group):
                pending.append((f"{prefix}{name}/", item))


def _address(item: Any) -> int:
    return h5py.h5o.get_info(item.id).addr


def find(group: h5py.Group, name: str) -> Any:
    """The group or dataset of that name below a group, reached without links; None if there is
    none, or it is damaged."""
    for part in name.split("/"):
        try:
            if not isinstance(group, h5py.Group) or not isinstance(
                group.get(part, getlink=True), h5py.HardLink
            ):
                return None
            group = group[part]
        except (OSError, KeyError, RuntimeError, ValueError):
            return None
    return group


def read_child(group: h5py.Group, name: str) -> np.ndarray | None:
    """The array of a dataset directly in a group; None if there is none of that name.

    Raises:
        BadFeaturesError: see :func:`read_array`.
    """
    dataset = find(group, name)
    return None if dataset is None else read_array(name, dataset)


def read_array(name: str, dataset: Any) -> np.ndarray:
    """The numbers of a dataset.

    Raises:
        BadFeaturesError: it is no array of numbers, too large, or stored in another file.
    """
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise BadFeaturesError(f"{name} is not an array")
    if dataset.dtype.kind not in "fiu":
        raise BadFeaturesError(f"{name} holds {dataset.dtype}, not numbers")
    if dataset.external or dataset.is_virtual:
        raise BadFeaturesError(f"{name} lies in another file")
    size = math.prod(dataset.shape) * dataset.dtype.itemsize
    if size > MAX_ARRAY_BYTES:
        raise BadFeaturesError(
            f"{name} would take {size:,} bytes, the limit is {MAX_ARRAY_BYTES:,}"
        )
    try:
        return np.asarray(dataset[()])
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise BadFeaturesError(f"{name} cannot be read ({error})") from None


def read_text(attributes: Any, name: str) -> str:
    """The text of an attribute; empty if there is none."""
    try:
        value = attributes.get(name, "")
    except (OSError, RuntimeError, ValueError, TypeError):
        return ""
    value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return value if isinstance(value, str) else ""
