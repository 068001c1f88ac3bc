"""Read the tensors of a PyTorch state dict without PyTorch and without running pickled code.

Understands the single-stream format that ``torch.save`` wrote before 2020 (version 1001) and
that the published EfficientNet-Lite weights still use: five pickles (magic number, version,
system, the dict, the storages' keys) followed by each storage's length and raw bytes.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from delg.errors import ModelError

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}


class _Tensor:
    """A view of a storage, filled in once the storages have been read."""

    def __init__(self, storage: _Storage, offset: int, shape: tuple[int, ...], stride: Any) -> None:
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride

    def array(self) -> np.ndarray:
        flat = self.storage.values
        steps = tuple(int(step) for step in self.stride)
        sizes = tuple(int(size) for size in self.shape)
        if len(steps) != len(sizes) or min((*steps, *sizes, self.offset), default=0) < 0:
            raise ModelError("a tensor has an impossible shape; the file is damaged")
        last = self.offset + sum((n - 1) * step for n, step in zip(sizes, steps, strict=True))
        if 0 not in sizes and (last >= len(flat) or math.prod(sizes) > len(flat)):
            raise ModelError("a tensor reaches outside its storage; the file is damaged")
        bytes_ = tuple(step * flat.itemsize for step in steps)
        return np.lib.stride_tricks.as_strided(flat[self.offset :], sizes, bytes_).copy()


class _Storage:
    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype
        self.values = np.zeros(0, dtype)


def _rebuild(storage: _Storage, offset: int, shape: Any, stride: Any, *_: Any) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), stride)


class _Unpickler(pickle.Unpickler):
    """Admits ordered dicts, tensors and storages; any other name in the file is refused."""

    def __init__(self, stream: BinaryIO, storages: dict[str, _Storage]) -> None:
        super().__init__(stream)
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise ModelError(f"the file asks for {module}.{name}, which a state dict has no use for")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise ModelError("the file refers to something that is not a tensor storage")
        return self._storages.setdefault(str(key), _Storage(dtype))


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Read a state dict.

    Args:
        path: a ``.pth`` file in PyTorch's single-stream format.

    Returns:
        Tensor name -> array, in the file's order.

    Raises:
        ModelError: the file is missing, damaged, of another format, or asks for code.
    """
    path = Path(path)
    storages: dict[str, _Storage] = {}
    try:
        stream = io.BytesIO(path.read_bytes())
        magic, version, _ = (_Unpickler(stream, storages).load() for _ in range(3))
        if (magic, version) != (_MAGIC, _VERSION):
            raise ModelError("not PyTorch's single-stream format")
        tensors = _Unpickler(stream, storages).load()
        for key in _Unpickler(stream, storages).load():
            storage = storages[str(key)]
            (count,) = struct.unpack("<q", stream.read(8))
            raw = stream.read(count * storage.dtype.itemsize) if count >= 0 else b""
            if len(raw) != count * storage.dtype.itemsize:
                raise ModelError("the file ends in the middle of a tensor")
            storage.values = np.frombuffer(raw, storage.dtype)
        return {name: tensor.array() for name, tensor in tensors.items()}
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    except (
        pickle.UnpicklingError, struct.error, EOFError, AttributeError, KeyError, TypeError,
        ValueError, IndexError, OverflowError, MemoryError,
    ) as error:  # fmt: skip
        raise ModelError(f"{path}: not a PyTorch state dict ({error})") from None
