"""Checkpoints: one HDF5 file that holds everything that changes in training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from delg.errors import DelgError, UsageError
from delg.files import atomic_write

_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A training run at one moment.

    Attributes:
        step: steps done.
        arrays: by name, everything that changes: weights, optimisers, averages, memory.
        metadata: small values that JSON can hold, among them the settings.
    """

    step: int
    arrays: Mapping[str, np.ndarray]
    metadata: dict[str, Any]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint.

    Raises:
        DelgError: it cannot be written; the one before is unchanged.
    """
    with atomic_write(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(temporary, "w") as file:
            file.attrs["format"] = _FORMAT
            file.attrs["step"] = checkpoint.step
            file.attrs["facts"] = json.dumps(checkpoint.metadata)
            for name, array in checkpoint.arrays.items():
                file.create_dataset(name, data=array)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        UsageError: there is none.
        DelgError: it is damaged or of another format.
    """
    arrays: dict[str, np.ndarray] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != _FORMAT:
                raise DelgError(f"{path}: not a checkpoint of this version")
            file.visititems(visit)
            return Checkpoint(int(file.attrs["step"]), arrays, json.loads(str(file.attrs["facts"])))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such checkpoint") from None
    except (OSError, KeyError, ValueError) as error:
        raise DelgError(f"{path}: a damaged checkpoint ({error})") from None


def restore(variables: Mapping[str, Any], arrays: Mapping[str, np.ndarray], origin: str) -> None:
    """Assign the arrays to the variables of the same names, strictly.

    Args:
        variables: Keras or TensorFlow variables by name.
        arrays: their values.
        origin: the checkpoint, for messages.

    Raises:
        DelgError: a variable is missing, left over or of another shape; nothing is changed.
    """
    differing = set(arrays) ^ set(variables)
    differing |= {
        name
        for name in set(arrays) & set(variables)
        if arrays[name].shape != tuple(variables[name].shape)
    }
    if differing:
        raise DelgError(
            f"{origin}: does not fit the settings: {len(differing)} variables differ, "
            f"first {min(differing)}; resume with the settings it was made with"
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])
