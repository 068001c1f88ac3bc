"""What a forked process must make anew: the threads of its parent did not come along, so pools of
threads that it inherits never answer."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar
from weakref import WeakSet

from delg.errors import DelgError

T = TypeVar("T")


def after_fork(action: Callable[[], object]) -> Callable[[], object]:
    """Call ``action`` in every process that is forked from this one, before it does anything."""
    if hasattr(os, "register_at_fork"):  # Windows cannot fork.
        os.register_at_fork(after_in_child=action)
    return action


def shared_lock() -> Lock:
    """A lock of a module; a fork waits until it is free, so that no child finds it taken."""
    lock = Lock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
        )
    return lock


def keep_forever(value: object) -> None:
    """Never destroy an object that belongs to the parent, as that would wait for threads that are
    not here, or release what the parent holds."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


class PerProcess(Generic[T]):
    """A value that each process makes for itself when it first needs it.

    Args:
        make: makes it.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._value: T | None = None
        _PER_PROCESS.add(self)

    def __call__(self) -> T:
        """The value of this process."""
        if self._value is None:
            self._value = self._make()
        return self._value

    def forget(self) -> None:
        """Leave the value to the parent, which made it."""
        keep_forever(self._value)
        self._value = None


_PER_PROCESS: WeakSet[PerProcess] = WeakSet()


@after_fork
def _forget_all() -> None:
    for holder in _PER_PROCESS:
        holder.forget()


class OneProcess:
    """Refuses to run in a fork of the process that made it.

    Args:
        name: of what cannot be forked.
    """

    def __init__(self, name: str) -> None:
        self._name, self._process = name, os.getpid()

    def check(self) -> None:
        """Refuse, if this is a fork.

        Raises:
            DelgError: it is.
        """
        if os.getpid() != self._process:
            raise DelgError(
                f"{self._name} cannot go on in a forked process: load the model in the new one, "
                "or start it by multiprocessing's method 'spawn'"
            )
