"""Loops over single numbers, compiled by Numba, where matrix products cannot do the work.

Numba is imported when the first of them runs: commands that only look into an index do not pay
for it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import cache, update_wrapper
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

from delg.forks import shared_lock

_Function = TypeVar("_Function", bound=Callable[..., Any])
# Lets sums be reordered, so that they are vectorised; infinities and NaN keep their meaning.
_FASTMATH = {"reassoc", "contract", "nsz", "arcp"}
_LOCK = shared_lock()
_LOG = logging.getLogger(__name__)


def compiled(function: _Function) -> _Function:
    """Compile a function when it is first called, for the types it is called with.

    It runs without Python's global lock, so threads run it in parallel. It may call other compiled
    functions of its own file only: Numba keeps the machine code in ``__pycache__`` or in the user's
    cache folder (``NUMBA_CACHE_DIR``) until that file changes, and looks at no other. A cache that
    is damaged or cannot be written costs a compilation, nothing else.
    """
    return cast(_Function, _LazyFunction(function))


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

    options: dict[str, Any] = {"nogil": True, "fastmath": _FASTMATH, "error_model": "numpy"}
    try:
        dispatcher: Any = njit(cache=True, **options)(function)
    except RuntimeError:  # There is no file of source code, or no folder that can be written to.
        _announce()
        return njit(**options)(function)
    _tolerate_faults(dispatcher._cache)
    return dispatcher


def _tolerate_faults(cache: Any) -> None:
    """Make a function's cache say nothing of full disks and forget what is damaged."""
    load, save = cache.load_overload, cache.save_overload

    def load_overload(signature: Any, target_context: Any) -> Any:
        overload = None
        try:
            overload = load(signature, target_context)
        except Exception as error:  # Whatever unpickling damaged bytes raises.
            _LOG.info("%s: damaged, compiled anew (%r)", cache.cache_path, error)
            try:
                cache.flush()
            except OSError:
                cache.disable()
        if overload is None:
            _announce()
        return overload

    def save_overload(signature: Any, overload: Any) -> None:
        with contextlib.suppress(OSError):
            save(signature, overload)

    cache.load_overload, cache.save_overload = load_overload, save_overload


def damaged_caches(module: ModuleType) -> list[Path]:
    """The caches of a module's compiled functions that Numba cannot read: their index files."""
    damaged = []
    for function in vars(module).copy().values():
        dispatcher = function._resolve() if isinstance(function, _LazyFunction) else function
        file = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
        if file is None:
            continue
        try:
            for name in file._load_index().values():
                file._load_data(name)
        except Exception:  # Whatever reading damaged bytes raises.
            damaged.append(Path(file._index_path))
    return damaged


@cache
def _announce() -> None:
    _LOG.info("compiling the loops that match photos, once; this takes a few seconds")
