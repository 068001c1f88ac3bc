"""The measuring itself: stages, rows, timing in turns, and the facts about the machine."""

from __future__ import annotations

import importlib
import os
import pkgutil
import platform
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from delg.errors import UsageError

Work = Callable[[], object]
# A first run that takes longer than this is not repeated as a warm-up: it counts.
_LONG_MS = 1000.0
_KIB = 1024
_CPU_INFO = Path("/proc/cpuinfo")
_MEMORY_INFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Row:
    """One stage's result.

    Attributes:
        name: of the row, unique among all.
        median, fastest, slowest: in ``unit``, over ``runs`` runs.
        unit: "ms", or what else was measured ("bytes", "images/s" …).
        baseline: the published way's median, in the same unit; None if it was not run.
        note: what a reader should know.
    """

    name: str
    median: float
    fastest: float
    slowest: float
    runs: int
    unit: str = "ms"
    baseline: float | None = None
    note: str = ""
    more_is_better: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        values: Sequence[float],
        unit: str = "ms",
        baseline: float | None = None,
        note: str = "",
        more_is_better: bool = False,
    ) -> Row:
        """The row of several measured values."""
        middle = float(np.median(values))
        return cls(
            name, middle, min(values), max(values), len(values), unit, baseline, note,
            more_is_better,
        )  # fmt: skip

    @property
    def ratio(self) -> float | None:
        """How many times better than the baseline; None without one."""
        if self.baseline is None or not self.baseline or not self.median:
            return None
        ratio = self.baseline / self.median
        return 1 / ratio if self.more_is_better else ratio

    def as_json(self) -> dict[str, Any]:
        """Plain values; what is no time has its numbers under its unit and no milliseconds."""
        numbers = {
            "median": self.median,
            "fastest": self.fastest,
            "slowest": self.slowest,
            "baseline": self.baseline,
        }
        timed = self.unit == "ms"
        values: dict[str, Any] = {
            f"{key}_ms": _rounded(value) if timed else None for key, value in numbers.items()
        }
        if not timed:
            values |= {key: _rounded(value) for key, value in numbers.items()}
        return {
            "name": self.name,
            "unit": self.unit,
            **values,
            "ratio": _rounded(self.ratio),
            "runs": self.runs,
            "note": self.note,
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


@dataclass(frozen=True)
class Growth:
    """A chart of how something grows; its points are :class:`Point`.

    Attributes:
        x_name, y_name: of the axes, with units; both axes are logarithmic.
    """

    title: str
    x_name: str
    y_name: str


@dataclass(frozen=True)
class Point:
    """A measured point of a growth chart, on the line named ``series``."""

    growth: Growth
    series: str
    x: float
    y: float


Result = Row | Point


@dataclass(frozen=True)
class Bench:
    """What a stage gets: how to measure, and a folder that is gone afterwards.

    Attributes:
        folder: for files; it may hold what other stages left.
        baseline: whether to run the published way too.
        quick: fewer runs, smaller sizes, no growth.
        runs: of each stage.
    """

    folder: Path
    baseline: bool = False
    quick: bool = False
    runs: int = 9

    def time(
        self,
        name: str,
        ours: Work,
        baseline: Work | None = None,
        runs: int | None = None,
        baseline_runs: int | None = None,
        note: str = "",
        in_a_row: int = 1,
    ) -> Row:
        """Time our way and, if asked for, the published way, taking turns after a warm-up.

        Args:
            runs, baseline_runs: in place of ``self.runs``.
            in_a_row: a run of ours is the mean of so many calls, for what is short and never done
                once: after something else it would mostly measure cold caches.
        """
        runs = runs or self.runs
        other = baseline if self.baseline else None
        other_runs = min(runs, baseline_runs or runs) if other else 0
        ours_ms, other_ms = _warm_up(ours), _warm_up(other)

        def several() -> None:
            for _ in range(in_a_row):
                ours()

        for turn in range(max(runs, other_runs)):
            if len(ours_ms) < runs:
                ours_ms.append(milliseconds(several) / in_a_row)
            # The few baseline runs are spread over all of ours.
            if other and len(other_ms) < other_runs and turn * other_runs >= len(other_ms) * runs:
                other_ms.append(milliseconds(other))
        median = float(np.median(other_ms)) if other_ms else None
        return Row.of(name, ours_ms, baseline=median, note=note)


def milliseconds(work: Work) -> float:
    """Run once, and say how long it took."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def median_ms(work: Work, runs: int) -> float:
    """Median of several runs after one that does not count."""
    work()
    return float(np.median([milliseconds(work) for _ in range(runs)]))


def _warm_up(work: Work | None) -> list[float]:
    if work is None:
        return []
    first = milliseconds(work)
    return [first] if first > _LONG_MS else []


@dataclass(frozen=True)
class Stage:
    """A function that measures, and the names of the rows it gives.

    Attributes:
        extra: run only if this is asked for; empty for a stage that always is.
    """

    names: tuple[str, ...]
    run: Callable[[Bench], Iterator[Result]]
    extra: str = ""


_STAGES: list[Stage] = []


def stage(
    *names: str, extra: str = ""
) -> Callable[[Callable[[Bench], Iterator[Result]]], Callable[[Bench], Iterator[Result]]]:
    """Mark a function as a stage that gives rows of these names (and points of charts)."""

    def mark(run: Callable[[Bench], Iterator[Result]]) -> Callable[[Bench], Iterator[Result]]:
        _STAGES.append(Stage(names, run, extra))
        return run

    return mark


def stages(only: Sequence[str] = (), extras: Collection[str] = ()) -> list[Stage]:
    """The stages of the package's modules, or those that give one of the named rows.

    Args:
        extras: what is asked for besides, e.g. "serve" for stages of a running server.

    Raises:
        UsageError: no stage gives a row of that name.
    """
    for module in sorted(one.name for one in pkgutil.iter_modules([str(Path(__file__).parent)])):
        importlib.import_module(f"{__package__}.{module}")
    known = [name for one in _STAGES for name in one.names]
    for name in only:
        if name not in known:
            raise UsageError(f"--only {name}: no such row; there are {', '.join(known)}")
    if only:
        return [one for one in _STAGES if set(only) & set(one.names)]
    return [one for one in _STAGES if not one.extra or one.extra in extras]


@dataclass(frozen=True)
class Measured:
    """All that was measured, and on what."""

    rows: list[Row] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values: ``rows``, ``machine`` and, if it was measured, ``growth``."""
        found: dict[str, Any] = {"rows": [row.as_json() for row in self.rows]}
        if self.points:
            found["growth"] = [
                {"chart": p.growth.title, "series": p.series, "x": p.x, "y": _rounded(p.y)}
                for p in self.points
            ]
        return found | {"machine": self.machine}

    @cached_property
    def charts(self) -> dict[Growth, dict[str, list[Point]]]:
        """Chart -> line -> its points, by x."""
        found: dict[Growth, dict[str, list[Point]]] = {}
        for point in sorted(self.points, key=lambda one: one.x):
            found.setdefault(point.growth, {}).setdefault(point.series, []).append(point)
        return found


def measure(
    baseline: bool = False,
    quick: bool = False,
    only: Sequence[str] = (),
    runs: int = 9,
    extras: Collection[str] = (),
    seen: Callable[[Row], None] = lambda row: None,
) -> Measured:
    """Run the stages.

    Args:
        baseline: run the published way too, in turns with ours.
        quick: everything in less than two minutes.
        only: names of rows; empty for all.
        runs: of each stage.
        extras: see :func:`stages`.
        seen: called with each row as it comes.

    Raises:
        UsageError: an unknown name in ``only``.
    """
    chosen, found = stages(only, extras), Measured(machine=machine())
    for one in chosen:
        with TemporaryDirectory() as folder:
            bench = Bench(Path(folder), baseline, quick, min(runs, 5) if quick else runs)
            for result in one.run(bench):
                if isinstance(result, Point):
                    found.points.append(result)
                elif not only or result.name in only:
                    found.rows.append(result)
                    seen(result)
    return found


def machine() -> dict[str, Any]:
    """Facts about the machine that times depend on."""
    return {
        "platform": platform.platform(),
        "cpu": _fact(_CPU_INFO, "model name") or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(int((_fact(_MEMORY_INFO, "MemTotal") or "0").split()[0]) / _KIB**2, 1),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "blas": [
            f"{one['internal_api']} {one.get('version') or ''}, {one['num_threads']} threads"
            for one in threadpool_info()
        ],
    }


def _fact(path: Path, key: str) -> str:
    """The value after ``key`` in one of Linux's lists of facts; empty where there is none."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")
