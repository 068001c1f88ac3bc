"""Read the tensors of a PyTorch file without PyTorch, and without running anything in it.

A ``.pt`` file is a ZIP archive: a pickle that says what the tensors are called and how they lie in
``data/0``, ``data/1`` …, stored as they are. Published CLIP weights are TorchScript archives, of
the same layout with a module in place of a dict of tensors. A pickle may name any function to be
called; here a name gets a stand-in made for this one file, or an error, and never what it says.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from delg.errors import ModelError
from delg.limits import MIB

# The pickle describes; the numbers lie outside. A tensor, and all of them.
_MAX_PICKLE, _MAX_STORAGE, _MAX_TOTAL = 16 * MIB, 1024 * MIB, 8192 * MIB
_MAX_MEMBERS = 10_000
_MAX_DEPTH = 64
_STORAGES = {
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "DoubleStorage": "<f8",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
}
_BAD = (pickle.UnpicklingError, ValueError, TypeError, LookupError, AttributeError, OverflowError,
        EOFError, AssertionError, RecursionError)  # fmt: skip


class _RefusedError(Exception):
    """The file holds what is not read; the message says what."""


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file, by name; those of a module by the names of its attributes.

    Raises:
        ModelError: it is damaged, too large, or names anything but tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive)
            [description] = [name for name in archive.namelist() if _is_description(name)]
            folder = description.removesuffix("data.pkl")
            data = archive.read(description)
            _check_pickle(data)
            content = _read_description(data, lambda key: archive.read(f"{folder}data/{key}"))
        return dict(_named_tensors(content, ""))
    except _RefusedError as error:
        raise ModelError(f"{path}: {error}; nothing in it was run") from None
    except (zipfile.BadZipFile, OSError, NotImplementedError, *_BAD) as error:
        raise ModelError(
            f"{path}: not a readable file of PyTorch weights ({str(error)[:200]})"
        ) from None


def _is_description(name: str) -> bool:
    return name.count("/") == 1 and name.endswith("/data.pkl")


def _check_members(archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    if len(members) > _MAX_MEMBERS:
        raise _RefusedError(f"has more than {_MAX_MEMBERS:,} members")
    for member in members:
        limit = _MAX_PICKLE if _is_description(member.filename) else _MAX_STORAGE
        if member.file_size > limit:
            raise _RefusedError(f"{member.filename} takes more than {limit // MIB} MiB")
        is_data = "/data/" in member.filename or _is_description(member.filename)
        # PyTorch compresses no tensors; what is compressed can unfold to any size.
        if is_data and member.compress_type != zipfile.ZIP_STORED:
            raise _RefusedError(f"{member.filename} is compressed")
    if sum(member.file_size for member in members) > _MAX_TOTAL:
        raise _RefusedError(f"takes more than {_MAX_TOTAL // MIB} MiB")


def _check_pickle(data: bytes) -> None:
    """Refuse what a small pickle can do large damage with."""
    for opcode, argument, _ in pickletools.genops(data):
        # The unpickler allocates every memo slot below the one it is asked for.
        if opcode.name.endswith("PUT") and int(argument or 0) > len(data):
            raise _RefusedError(f"asks for memory for {argument:,} objects")
        if opcode.name in ("INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX"):
            raise _RefusedError(f"uses the instruction {opcode.name}")


def _read_description(data: bytes, read: Callable[[str], bytes]) -> Any:
    """What the pickle describes: modules and mappings with arrays at the ends.

    Args:
        data: the pickle.
        read: the bytes of a storage, by its key.
    """

    # Made anew for each file, so that a pickle can change nothing that outlives it.
    class Module:
        def __setstate__(self, state: Any) -> None:
            if not isinstance(state, dict):
                raise _RefusedError("a module's state is no dict")
            self.__dict__.update(state)

    class Tensors(OrderedDict):
        pass

    def rebuild(storage: Any, offset: int, shape: tuple, strides: tuple, *_: Any) -> np.ndarray:
        return _view(storage, offset, shape, strides)

    def parameter(tensor: Any, *_: Any) -> Any:
        return tensor

    names = {
        ("collections", "OrderedDict"): Tensors,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild,
        ("torch._utils", "_rebuild_parameter"): parameter,
        **{("torch.jit._pickle", f"build_{kind}list"): parameter
           for kind in ("int", "double", "bool", "tensor")},
    }  # fmt: skip
    storages: dict[str, np.ndarray] = {}

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if module == "torch" and name in _STORAGES:
                return _STORAGES[name]
            if module.split(".")[0] == "__torch__":
                return Module
            if (module, name) not in names:
                raise _RefusedError(f"asks for {module}.{name}"[:200])
            return names[module, name]

        def persistent_load(self, reference: Any) -> np.ndarray:
            kind, dtype, key, _, count = reference
            if kind != "storage" or dtype not in _STORAGES.values() or not isinstance(key, str):
                raise _RefusedError("holds tensors of a kind that is not read")
            if key not in storages:
                storages[key] = np.frombuffer(read(key), dtype)
            if len(storages[key]) != count:
                raise _RefusedError(f"tensor data {key} is not as long as it says")
            return storages[key]

    return Reader(io.BytesIO(data)).load()


def _view(storage: Any, offset: int, shape: tuple, strides: tuple) -> np.ndarray:
    """The part of a storage that is a tensor."""
    numbers = (offset, *shape, *strides)
    whole = all(isinstance(number, int) and number >= 0 for number in numbers)
    if not isinstance(storage, np.ndarray) or not whole or len(shape) != len(strides):
        raise _RefusedError("a tensor is not described as PyTorch does")
    last = offset + sum((side - 1) * step for side, step in zip(shape, strides, strict=True))
    if 0 in shape or last >= len(storage):
        raise _RefusedError("a tensor reaches beyond its data")
    size = storage.itemsize
    return np.lib.stride_tricks.as_strided(
        storage[offset:], shape, [step * size for step in strides], writeable=False
    )


def _named_tensors(content: Any, prefix: str, depth: int = 0) -> list[tuple[str, np.ndarray]]:
    if depth > _MAX_DEPTH:
        raise _RefusedError("its modules are nested without end")
    if isinstance(content, np.ndarray):
        return [(prefix, content)]
    # Plain numbers and texts of a module have attributes too, but none of their own.
    parts = content if isinstance(content, Mapping) else getattr(content, "__dict__", {})
    return [
        tensor
        for name, part in parts.items()
        for tensor in _named_tensors(part, f"{prefix}.{name}" if prefix else str(name), depth + 1)
    ]
