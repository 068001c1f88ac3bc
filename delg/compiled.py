"""Loops over single numbers, compiled (Numba), where products of matrices cannot do the work.

Numba is imported when the first of them runs: what only looks into an index does not pay for it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from functools import update_wrapper
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar, cast

_Function = TypeVar("_Function", bound=Callable[..., Any])
# What reorders sums, so that they are added up side by side; infinities and NaN stay what they are.
_SUMS = {"reassoc", "contract", "nsz", "arcp"}
_LOCK = Lock()


def compiled(function: _Function) -> _Function:
    """Compile a function when it is first called, for the types it is called with.

    It runs without Python's lock, so threads run it side by side. It may call others that are
    compiled, as names of its module. What has been compiled is kept beside the source or in the
    user's cache folder, until one of the files it is made of changes; where neither can be written,
    each process compiles anew.
    """
    return cast(_Function, _Loop(function))


def may_compile() -> bool:
    """Whether Numba may; with ``NUMBA_DISABLE_JIT=1`` loops run in Python."""
    from numba import config

    return not vars(config)["DISABLE_JIT"]


class _Loop:
    """Stands for a function until it is called; then it and those beside it are Numba's."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function, self._made = function, None
        update_wrapper(self, function)

    def __call__(self, *values: Any) -> Any:
        with _LOCK:
            made = self._numba()
        return made(*values)

    def _numba(self) -> Any:
        if self._made is None:
            self._made = _made(self._function)
            module = self._function.__globals__
            named = {name: one for name, one in list(module.items()) if isinstance(one, _Loop)}
            made = {name: one._numba() for name, one in named.items()}
            # At once: another thread must not compile one that calls what is not Numba's yet.
            module.update(made)
        return self._made


def _files(function: Callable[..., Any]) -> list[str]:
    """Where a function is, and what is compiled into it because its module names it."""
    from numba.core.dispatcher import Dispatcher
    from numba.extending import intrinsic

    kinds = (_Loop, Dispatcher, type(intrinsic(lambda context: (None, None))))
    named = [one for one in function.__globals__.values() if isinstance(one, kinds)]
    modules = {one.__module__ for one in (function, *named)}
    return sorted(str(sys.modules[one].__file__) for one in modules)


def _made(function: Callable[..., Any]) -> Any:
    from numba import njit
    from numba.core.caching import FunctionCache, IndexDataCacheFile

    class Kept(FunctionCache):
        """What has been compiled, on disk; a full disk is no reason not to run it."""

        def __init__(self, function: Callable[..., Any]) -> None:
            super().__init__(function)
            stats = [Path(one).stat() for one in _files(function)]
            self._cache_file = IndexDataCacheFile(
                cache_path=self._cache_path,
                filename_base=self._impl.filename_base,
                source_stamp=tuple((one.st_mtime, one.st_size) for one in stats),
            )

        def save_overload(self, sig: Any, data: Any) -> None:
            with contextlib.suppress(OSError):
                super().save_overload(sig, data)

    made: Any = njit(nogil=True, fastmath=_SUMS, error_model="numpy")(function)
    # No place to write raises a RuntimeError.
    with contextlib.suppress(RuntimeError):
        made._cache = Kept(function)
    return made
