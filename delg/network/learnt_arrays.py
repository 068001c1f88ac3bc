"""Arrays that were learnt for the weights of one network, in an HDF5 file that says for which."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from delg.errors import ModelError
from delg.files import atomic_write
from delg.network.weights import read_weights
from delg.types import FloatArray

# Attribute of the file: the digest of the network's weights.
_BASE = "base"


def write_learnt(path: Path, arrays: Mapping[str, FloatArray], base: str) -> None:
    """Write them; matrices as float16.

    Args:
        path: of the file.
        arrays: float32, by name.
        base: digest of the network's weights.

    Raises:
        DelgError: it cannot be written.
    """
    with atomic_write(path) as temporary, h5py.File(temporary, "w", track_order=True) as file:
        for name, values in arrays.items():
            file.create_dataset(
                name, data=values if values.ndim == 1 else values.astype(np.float16)
            )
        file.attrs[_BASE] = base


def read_learnt(
    path: Path, shapes: Mapping[str, tuple[int, ...]], base: str, command: str
) -> dict[str, FloatArray]:
    """Read them, as float32 by name.

    Args:
        path: of the file.
        shapes: that they must have, by name.
        base: digest of the network's weights, which they must have been learnt for.
        command: that learns them anew.

    Raises:
        ModelError: the file is missing or damaged, they have other shapes, or are of other weights.
    """
    arrays = read_weights(path)
    if {name: values.shape for name, values in arrays.items()} != dict(shapes):
        raise ModelError(f"{path}: does not fit the settings; learn it again ({command})")
    learnt = {name: values.astype(np.float32) for name, values in arrays.items()}
    if not all(np.isfinite(values).all() for values in learnt.values()):
        raise ModelError(f"{path}: damaged; learn it again ({command})")
    try:
        with h5py.File(path, "r") as file:
            recorded = str(file.attrs[_BASE])
    except (OSError, RuntimeError, KeyError) as error:
        raise ModelError(f"{path}: does not say for which weights it is ({error})") from None
    if recorded != base:
        raise ModelError(
            f"{path}: was learnt for weights {recorded[:16]} of the network; here they are "
            f"{base[:16]}: learn it again ({command})"
        )
    return learnt
