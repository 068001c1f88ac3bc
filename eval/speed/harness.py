"""The harness: stages, rows, timing in turns, and a description of the machine."""

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
        unit: "ms", or another ("bytes", "images/s" …).
        baseline: median of the reference implementation, in the same unit; None if it did not run.
        note: conditions, for the reader.
        more_is_better: as for rates.
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
        """The row that summarises measured values."""
        median = float(np.median(values))
        return cls(
            name, median, min(values), max(values), len(values), unit, baseline, note,
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
        """Plain values; only rows in milliseconds fill the keys that end in ``_ms``."""
        numbers = {
            "median": self.median,
            "fastest": self.fastest,
            "slowest": self.slowest,
            "baseline": self.baseline,
        }
        is_time = self.unit == "ms"
        values: dict[str, Any] = {
            f"{key}_ms": _rounded(value) if is_time else None for key, value in numbers.items()
        }
        if not is_time:
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
    """A chart of how a number grows with a size; its points are :class:`Point`.

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
    """What a stage gets: how to measure, and a temporary folder.

    Attributes:
        folder: for files; deleted after the stage.
        baseline: whether to run reference implementations too.
        quick: fewer runs, smaller sizes, no charts of growth.
        runs: per stage.
        index: to measure in place of a synthetic one, where a stage can.
    """

    folder: Path
    baseline: bool = False
    quick: bool = False
    runs: int = 9
    index: Path | None = None

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
        """Time our work and, with ``self.baseline``, the reference, in turns after a warm-up.

        Args:
            name: of the row.
            ours, baseline: the work to time.
            runs, baseline_runs: in place of ``self.runs``.
            note: of the row.
            in_a_row: calls per run of ours, whose mean counts; for short work that is never done
                just once, where a single call would mostly measure cold caches.
        """
        runs = runs or self.runs
        reference = baseline if self.baseline else None
        reference_runs = min(runs, baseline_runs or runs) if reference else 0
        ours_ms, reference_ms = _warm_up(ours), _warm_up(reference)

        def repeat_ours() -> None:
            for _ in range(in_a_row):
                ours()

        for turn in range(max(runs, reference_runs)):
            if len(ours_ms) < runs:
                ours_ms.append(milliseconds(repeat_ours) / in_a_row)
            # The few runs of the reference are spread over all of ours.
            is_due = turn * reference_runs >= len(reference_ms) * runs
            if reference and len(reference_ms) < reference_runs and is_due:
                reference_ms.append(milliseconds(reference))
        median = float(np.median(reference_ms)) if reference_ms else None
        return Row.of(name, ours_ms, baseline=median, note=note)


def milliseconds(work: Work) -> float:
    """Run once; the duration in milliseconds."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def median_ms(work: Work, runs: int) -> float:
    """Median duration of several runs after a warm-up, in milliseconds."""
    work()
    return float(np.median([milliseconds(work) for _ in range(runs)]))


def _warm_up(work: Work | None) -> list[float]:
    if work is None:
        return []
    first = milliseconds(work)
    return [first] if first > _LONG_MS else []


@dataclass(frozen=True)
class Stage:
    """A function that measures.

    Attributes:
        names: of the rows that it yields.
        run: yields the rows and points.
        extra: run only with this extra; empty for a stage that always runs.
    """

    names: tuple[str, ...]
    run: Callable[[Bench], Iterator[Result]]
    extra: str = ""


_STAGES: list[Stage] = []


def stage(
    *names: str, extra: str = ""
) -> Callable[[Callable[[Bench], Iterator[Result]]], Callable[[Bench], Iterator[Result]]]:
    """Mark a function as a stage that yields rows of these names (and points of charts)."""

    def mark(run: Callable[[Bench], Iterator[Result]]) -> Callable[[Bench], Iterator[Result]]:
        _STAGES.append(Stage(names, run, extra))
        return run

    return mark


def stages(only: Sequence[str] = (), extras: Collection[str] = ()) -> list[Stage]:
    """The stages of the package's modules, or those that yield one of the named rows.

    Args:
        only: names of rows; empty for all but extras.
        extras: additional stages, e.g. "serve" for those of a running server.

    Raises:
        UsageError: no stage yields a row of that name.
    """
    _import_stages()
    row_names = [name for stage_ in _STAGES for name in stage_.names]
    for name in only:
        if name not in row_names:
            raise UsageError(f"--only {name}: no such row; there are {', '.join(row_names)}")
    if only:
        return [stage_ for stage_ in _STAGES if set(only) & set(stage_.names)]
    return [stage_ for stage_ in _STAGES if not stage_.extra or stage_.extra in extras]


def stage_names(extra: str) -> list[str]:
    """Names of the rows that an extra adds."""
    _import_stages()
    return [name for stage_ in _STAGES if stage_.extra == extra for name in stage_.names]


def _import_stages() -> None:
    modules = pkgutil.iter_modules([str(Path(__file__).parent)])
    for name in sorted(module.name for module in modules):
        importlib.import_module(f"{__package__}.{name}")


@dataclass(frozen=True)
class Measurements:
    """All rows and points, and the machine they were measured on."""

    rows: list[Row] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values: ``rows``, ``machine`` and, if there are points, ``growth``."""
        values: dict[str, Any] = {"rows": [row.as_json() for row in self.rows]}
        if self.points:
            values["growth"] = [
                {"chart": p.growth.title, "series": p.series, "x": p.x, "y": _rounded(p.y)}
                for p in self.points
            ]
        return values | {"machine": self.machine}

    @cached_property
    def charts(self) -> dict[Growth, dict[str, list[Point]]]:
        """Chart -> line -> its points, by x."""
        charts: dict[Growth, dict[str, list[Point]]] = {}
        for point in sorted(self.points, key=lambda point: point.x):
            charts.setdefault(point.growth, {}).setdefault(point.series, []).append(point)
        return charts


def measure(
    baseline: bool = False,
    quick: bool = False,
    only: Sequence[str] = (),
    runs: int = 9,
    extras: Collection[str] = (),
    on_row: Callable[[Row], None] = lambda row: None,
    index: Path | None = None,
) -> Measurements:
    """Run the stages.

    Args:
        baseline: run reference implementations too, in turns with ours.
        quick: everything in less than two minutes.
        only: names of rows; empty for all.
        runs: per stage.
        extras: see :func:`stages`.
        on_row: called with each row when it is complete.
        index: see :class:`Bench`.

    Raises:
        UsageError: an unknown name in ``only``.
    """
    measurements = Measurements(machine=machine_info())
    for stage_ in stages(only, extras):
        with TemporaryDirectory() as folder:
            bench = Bench(Path(folder), baseline, quick, min(runs, 5) if quick else runs, index)
            for result in stage_.run(bench):
                if isinstance(result, Point):
                    measurements.points.append(result)
                elif not only or result.name in only:
                    measurements.rows.append(result)
                    on_row(result)
    return measurements


def machine_info() -> dict[str, Any]:
    """What times depend on: processor, cores, memory, BLAS, load."""
    memory_kib = int((_proc_entry(_MEMORY_INFO, "MemTotal") or "0").split()[0])
    return {
        "platform": platform.platform(),
        "cpu": _proc_entry(_CPU_INFO, "model name") or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_kib / _KIB**2, 1),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "blas": [
            f"{pool['internal_api']} {pool.get('version') or ''}, {pool['num_threads']} threads"
            for pool in threadpool_info()
        ],
    }


def _proc_entry(path: Path, key: str) -> str:
    """The value after ``key`` in one of the files below /proc; empty without one."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")
