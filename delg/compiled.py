"""Loops over single numbers, compiled by Numba, where matrix products cannot do the work.

Numba is imported when the first of them runs: commands that only look into an index do not pay
for it.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from functools import cache, update_wrapper
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar, cast

_Function = TypeVar("_Function", bound=Callable[..., Any])
# Lets sums be reordered, so that they are vectorised; infinities and NaN keep their meaning.
_FASTMATH = {"reassoc", "contract", "nsz", "arcp"}
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
    from numba.core.caching import FunctionCache

    class ForgivingCache(FunctionCache):
        """Numba's cache; it also notices changes of called functions, damage and full disks."""

        def __init__(self, function: Callable[..., Any]) -> None:
            super().__init__(function)
            stats = [path.stat() for path in _source_files(function)]
            # Numba itself looks at the function's own file only.
            self._cache_file._source_stamp = tuple((s.st_mtime, s.st_size) for s in stats)

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
