"""Features are written photo by photo; one that a format cannot name stops no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import h5py
import numpy as np

from delg.errors import UsageError
from delg.types import Failure, ImageFeatures

WriteOne = Callable[[str, ImageFeatures], None]


def write_each(
    features: Iterable[tuple[str, ImageFeatures]],
    write_one: WriteOne,
    failed: list[Failure] | None,
) -> int:
    """Write photos as they come.

    Args:
        features: of each photo, after its id.
        write_one: raises a ``ValueError`` or ``UsageError`` for an id that the format cannot hold.
        failed: takes photos that cannot be written, with the reason; None ends with the first.

    Returns:
        Number of photos written.

    Raises:
        UsageError: a photo cannot be written, and ``failed`` is None.
        DelgError: nothing more can be written.
    """
    count = 0
    for image_id, image in features:
        try:
            write_one(image_id, image)
            count += 1
        except (ValueError, UsageError) as error:
            reason = f"its id cannot be written in this format: {error}"
            if failed is None:
                raise UsageError(f"{image_id!r}: {reason}") from None
            failed.append(Failure(image_id, reason))
    return count


def new_group(file: h5py.File, image_id: str) -> h5py.Group:
    """A group of that name.

    Raises:
        ValueError: the name is that of something else in the file, or cannot be one.
    """
    _check(image_id)
    try:
        return file.create_group(image_id)
    except (TypeError, KeyError, RuntimeError) as error:
        raise ValueError(str(error)) from None


def new_dataset(file: h5py.File, image_id: str, values: np.ndarray) -> None:
    """A dataset of that name.

    Raises:
        ValueError: the name is that of something else in the file, or cannot be one.
    """
    _check(image_id)
    try:
        file.create_dataset(image_id, data=values)
    except (TypeError, KeyError, RuntimeError) as error:
        raise ValueError(str(error)) from None


def _check(image_id: str) -> None:
    parts = image_id.split("/")
    # HDF5 ends a name at a null character.
    if "" in parts or "." in parts or "\0" in image_id:
        raise ValueError("a part of the name is empty or a dot, or it holds a null character")
