"""Weights on disk: an HDF5 file with one dataset per variable, read strictly."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from delg.errors import ModelError
from delg.files import atomic_write
from delg.limits import MAX_WEIGHTS_BYTES

if TYPE_CHECKING:
    import keras

    from delg.network.delg_model import Delg

_HEADS = ("gem", "whitening", "autoencoder", "attention")


def named_variables(model: Delg) -> Iterator[tuple[str, keras.Variable]]:
    """Every variable with a name that depends on the architecture alone: ``layer/…/variable``."""
    for part in (model.shallow, model.deep):
        if part is None:
            continue
        for layer in part.layers:
            for variable in layer.weights:
                yield f"{layer.name}/{variable.name}", variable
    for head in (model.pooling, model.whitening, model.autoencoder, model.attention):
        if head is None:
            continue
        for variable in head.weights:
            inner = variable.path.removeprefix(f"{head.name}/")
            yield f"{head.name}/{inner}", variable


def in_heads(name: str) -> bool:
    """Whether a variable of that name belongs to a head, not to the backbone."""
    return name.split("/")[0] in _HEADS


def save_weights(model: Delg, path: str | Path, dtype: str = "float16") -> None:
    """Write the weights; variables too large or too fine for ``dtype`` stay float32.

    Raises:
        DelgError: the file cannot be written; one that was there before is unchanged.
    """
    with atomic_write(path) as temporary, h5py.File(temporary, "w", track_order=True) as file:
        for name, variable in named_variables(model):
            exact = np.asarray(variable.value, np.float32)
            rounded = exact.astype(dtype).astype(np.float32)
            faithful = np.allclose(rounded, exact, rtol=2e-3, atol=1e-6)
            file.create_dataset(name, data=exact.astype(dtype) if faithful else exact)


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """Variable name -> array, as stored.

    Raises:
        ModelError: the file is missing or not a weight file.
    """
    values: dict[str, np.ndarray] = {}
    total = 0

    def visit(name: str, item: object) -> None:
        nonlocal total
        if isinstance(item, h5py.Dataset):
            if item.dtype.kind not in "fiu" or item.shape is None:
                raise ModelError(f"{path}: {name} does not contain numbers")
            if item.external or item.is_virtual:
                raise ModelError(f"{path}: {name} lies in another file")
            # By the header, before anything of it is read.
            total += math.prod(item.shape) * item.dtype.itemsize
            if total > MAX_WEIGHTS_BYTES:
                raise ModelError(f"{path}: has more than {MAX_WEIGHTS_BYTES:,} bytes of numbers")
            values[name] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such weight file") from None
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        # Which error HDF5 raises depends on which of its bytes are damaged.
        raise ModelError(f"{path}: not a readable weight file ({error})") from None
    return values


def load_weights(model: Delg, values: dict[str, np.ndarray], origin: str) -> None:
    """Copy the values into the model, strictly.

    Raises:
        ModelError: a variable is missing, left over or of another shape; nothing is changed.
    """
    variables = dict(named_variables(model))
    missing, extra = variables.keys() - values.keys(), values.keys() - variables.keys()
    if missing or extra:
        raise ModelError(
            f"{origin}: does not fit the settings: missing {some(missing)}; unknown {some(extra)}"
        )
    for name, variable in variables.items():
        if tuple(variable.shape) != values[name].shape:
            raise ModelError(
                f"{origin}: {name} is {values[name].shape}, the settings need "
                f"{tuple(variable.shape)}"
            )
    for name, variable in variables.items():
        variable.assign(values[name].astype(np.float32))


def some(names: set[str]) -> str:
    """A few of the names, for a message."""
    if not names:
        return "none"
    shown = sorted(names)[:3]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def weights_digest(values: dict[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and bytes, independent of the file's layout."""
    digest = hashlib.sha256()
    for name in sorted(values):
        array = np.ascontiguousarray(values[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
