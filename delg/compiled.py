"""Loops over single numbers, compiled by Numba, where matrix products cannot do the work.

Numba is imported when the first of them runs: commands that only look into an index do not pay
for it.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import pickle
import sys
import zlib
from collections.abc import Callable
from functools import cache, update_wrapper
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any, TypeVar, cast

_Function = TypeVar("_Function", bound=Callable[..., Any])
# Lets sums be reordered, so that they are vectorised; infinities and NaN keep their meaning.
_FASTMATH = {"reassoc", "contract", "nsz", "arcp"}
# In the names of files that end with a checksum, as Numba's own do not.
_CHECKSUMMED = ".crc"
_LOCK = Lock()
_LOG = logging.getLogger(__name__)


def compiled(function: _Function) -> _Function:
    """Compile a function when it is first called, for the types it is called with.

    It runs without Python's global lock, so threads run it in parallel. It may call other compiled
    functions that are names of its module. Numba keeps the machine code in ``__pycache__`` or in
    the user's cache folder (``NUMBA_CACHE_DIR``) until one of the source files changes; a cache
    that is damaged or cannot be written costs a compilation, nothing else.
    """
    return cast(_Function, _LazyFunction(function))


def may_compile() -> bool:
    """Whether Numba may; with ``NUMBA_DISABLE_JIT=1`` loops run in Python."""
    from numba import config

    return not vars(config)["DISABLE_JIT"]


class _LazyFunction:
    """Stands for a function until it is called; then it and its module's others are Numba's."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function, self._dispatcher = function, None
        update_wrapper(self, function)

    def __call__(self, *values: Any) -> Any:
        with _LOCK:
            dispatcher = self._resolve()
        return dispatcher(*values)

    def _resolve(self) -> Any:
        if self._dispatcher is None:
            self._dispatcher = _jit(self._function)
            module = self._function.__globals__
            lazy = {name: f for name, f in list(module.items()) if isinstance(f, _LazyFunction)}
            dispatchers = {name: function._resolve() for name, function in lazy.items()}
            # All at once: no thread may compile a function that still calls a lazy one.
            module.update(dispatchers)
        return self._dispatcher


def _jit(function: Callable[..., Any]) -> Any:
    from numba import njit

    dispatcher: Any = njit(nogil=True, fastmath=_FASTMATH, error_model="numpy")(function)
    try:
        dispatcher._cache = _cache_class()(function)
    except RuntimeError:  # There is no file of source code, or no folder that can be written to.
        _announce()
    return dispatcher


@cache
def _cache_class() -> Any:
    from numba.core.caching import FunctionCache, IndexDataCacheFile

    class ChecksummedFiles(IndexDataCacheFile):
        """Files that are believed only if their bytes are those that were written."""

        def _dump(self, content: Any) -> bytes:
            data = super()._dump(content)
            return data + _checksum(data)

        def _load_index(self) -> Any:
            with contextlib.suppress(FileNotFoundError):
                _check_file(Path(self._index_path))
            return super()._load_index()

        def _load_data(self, name: str) -> Any:
            _check_file(Path(self._data_path(name)))
            return super()._load_data(name)

    class ForgivingCache(FunctionCache):
        """Numba's cache; it also notices changes of called functions, damage and full disks."""

        def __init__(self, function: Callable[..., Any]) -> None:
            super().__init__(function)
            stats = [path.stat() for path in _source_files(function)]
            # Numba itself looks at the function's own file only.
            stamp = tuple((s.st_mtime, s.st_size) for s in stats)
            base = self._impl.filename_base + _CHECKSUMMED
            self._cache_file = ChecksummedFiles(self._cache_path, base, stamp)

        def files(self) -> list[Path]:
            """What is kept of the function."""
            base = self._impl.filename_base + _CHECKSUMMED
            return sorted(Path(self._cache_path).glob(f"{glob.escape(base)}*.nb[ic]"))

        def load_overload(self, sig: Any, target_context: Any) -> Any:
            try:
                overload = super().load_overload(sig, target_context)
            except Exception as error:  # Whatever unpickling damaged bytes raises.
                _LOG.info("%s: damaged, compiled anew (%r)", self.cache_path, error)
                overload = None
                try:
                    self.flush()
                except OSError:
                    self.disable()
            if overload is None:
                _announce()
            return overload

        def save_overload(self, sig: Any, data: Any) -> None:
            with contextlib.suppress(OSError):
                super().save_overload(sig, data)

    return ForgivingCache


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def _check_file(path: Path) -> None:
    """Raise an error of some kind if a file of the cache is damaged."""
    with path.open("rb") as file:
        if path.suffix == ".nbi":
            pickle.load(file)  # Numba's version, which is written before the rest.
        data = file.read()
    if len(data) < 4 or _checksum(data[:-4]) != data[-4:]:
        raise ValueError("its bytes are not those that were written")


def damaged_caches(module: ModuleType) -> list[Path]:
    """The damaged files of machine code that are kept of a module's compiled functions."""
    damaged = []
    for function in vars(module).copy().values():
        dispatcher = function._resolve() if isinstance(function, _LazyFunction) else function
        for path in getattr(getattr(dispatcher, "_cache", None), "files", list)():
            try:
                _check_file(path)
            except Exception:  # Whatever reading damaged bytes raises.
                damaged.append(path)
    return list(dict.fromkeys(damaged))


@cache
def _announce() -> None:
    _LOG.warning("compiling the loops that match photos, once; this takes a few seconds")


def _source_files(function: Callable[..., Any]) -> list[Path]:
    """The file of a function, and those of compiled functions that its module names."""
    from numba.core.dispatcher import Dispatcher

    named = [
        value
        for value in function.__globals__.values()
        if isinstance(value, (_LazyFunction, Dispatcher))
    ]
    modules = {f.__module__ for f in (function, *named)}
    return sorted(Path(str(sys.modules[name].__file__)) for name in modules)
