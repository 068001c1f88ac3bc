"""HDF5 files of strangers: nothing is followed out of the file, nothing large is read unseen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from delg.delf_files import FeatureFileError
from index.formats.parsed import MAX_ARRAY_BYTES, BadFeaturesError


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
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
    """Every group and dataset, with its name; groups before what they hold.

    Links to elsewhere, in the file or outside, are passed over, and what has two names has one.
    """
    seen = {_address(file)}
    left = [("", file)]
    while left:
        prefix, group = left.pop()
        for name in group:
            item = find(group, name)
            if item is None or _address(item) in seen:
                continue
            seen.add(_address(item))
            yield prefix + name, item
            if isinstance(item, h5py.Group):
                left.append((f"{prefix}{name}/", item))


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


def child(group: h5py.Group, name: str) -> np.ndarray | None:
    """The array of a dataset directly in a group; None if there is none of that name."""
    found = find(group, name)
    return None if found is None else array(name, found)


def array(name: str, dataset: Any) -> np.ndarray:
    """The numbers of a dataset.

    Raises:
        BadFeaturesError: it holds something else, too much, or lies outside the file.
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


def text(attributes: Any, name: str) -> str:
    """An attribute that holds text; empty if there is none."""
    try:
        value = attributes.get(name, "")
    except (OSError, RuntimeError, ValueError, TypeError):
        return ""
    value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return value if isinstance(value, str) else ""
