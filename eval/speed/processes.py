"""Measurements in processes of their own, and the memory that a process takes."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_STATUS = Path("/proc/self/status")
_KIB = 1 << 10


def run_in_new_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function of a module returns when a new process calls it."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(function, *args, **kwargs).result()


def peak_memory() -> int:
    """The most memory that this process has had, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else _KIB)


def private_memory() -> float:
    """Bytes of this process without what is mapped from files; 0 where nobody knows."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return 0.0
    return sum(float(line.split()[1]) * _KIB for line in lines if line.startswith("RssAnon"))
