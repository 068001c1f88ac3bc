"""Loops over single numbers, compiled (Numba), where products of matrices cannot do the work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit
from numba.core.caching import FunctionCache

_Function = TypeVar("_Function", bound=Callable[..., Any])
# What reorders sums, so that they are added up side by side; infinities and NaN stay what they are.
_SUMS = {"reassoc", "contract", "nsz", "arcp"}


def compiled(function: _Function) -> _Function:
    """Compile a function when it is first called, for the types it is called with.

    It runs without Python's lock, so threads run it side by side. What has been compiled is kept
    beside the source or in the user's cache folder; where neither can be written, each process
    compiles anew.
    """
    made: Any = njit(nogil=True, fastmath=_SUMS, error_model="numpy")(function)
    # No place to write raises a RuntimeError.
    with contextlib.suppress(RuntimeError):
        made._cache = _Kept(function)
    result: _Function = made
    return result


class _Kept(FunctionCache):
    """What has been compiled, on disk; a full disk is no reason not to run it."""

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)
