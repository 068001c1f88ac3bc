"""Measure methods on benchmarks, each gallery alone and among distractors.

    OUT/indexes/BENCHMARK/                    the gallery's index, shared by all methods
    OUT/runs/BENCHMARK/CONDITION/METHOD/      a run as of any ``delg eval`` command

A measurement that was stopped goes on where it was: complete runs of the same engine are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delg.errors import UsageError
from eval.answers import forget_answers
from eval.benchmark import Benchmark
from eval.evaluate import ProgressFactory, evaluate_engine, open_distractors
from eval.methods.catalogue import Overrides
from eval.methods.plan import Plan
from eval.run import Run, is_run, load_run, save_run
from eval.run_queries import Engine, index_gallery
from index.image_index import ImageIndex
from index.search.orientation import Orientations

ALONE, AMONG_DISTRACTORS = "alone", "distractors"


@dataclass(frozen=True)
class MethodsConfig:
    """How to measure.

    Attributes:
        out: folder for indexes and runs.
        model: its name or folder; None is the default.
        overrides: settings by section and key that all methods share.
        distractors: an index, or a folder of photos; None measures the galleries alone.
        conditions: that are measured, of "alone" and "distractors".
        orientations: see :class:`eval.run_queries.Engine`.
        overwrite: measure again what is complete.
    """

    out: Path
    model: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    distractors: Path | None = None
    conditions: Sequence[str] = (ALONE, AMONG_DISTRACTORS)
    orientations: Orientations = "auto"
    overwrite: bool = False


@dataclass(frozen=True)
class Measurement:
    """A method on a benchmark.

    Attributes:
        benchmark, method: their names in the plan.
        condition: "alone" or "distractors".
        run: scores, time and conditions.
        folder: of the run.
    """

    benchmark: str
    condition: str
    method: str
    run: Run
    folder: Path


def measure(plan: Plan, config: MethodsConfig, progress: ProgressFactory) -> Iterator[Measurement]:
    """Measure every method of a plan on every benchmark.

    Args:
        plan: benchmarks and methods.
        config: see there.
        progress: makes a progress display for each step.

    Yields:
        Measurements, as soon as each is complete.

    Raises:
        UsageError: settings do not fit each other, or a distractor has the id of a gallery photo.
        DelgError: no photo of a gallery can be read.
    """
    for name, benchmark in plan.benchmarks.items():
        with progress(f"{name}: gallery") as report:
            folder = config.out / "indexes" / name
            images, failed = index_gallery(
                benchmark, folder, config.model, config.overrides, report
            )
        with images:
            for condition, distractors in _conditions(benchmark, config, images, progress):
                for method, overrides in plan.methods.items():
                    run_folder = config.out / "runs" / name / condition / method
                    with _configured(images, config.overrides, overrides) as configured:
                        engine = Engine(configured, distractors, None, config.orientations)
                        run = None if config.overwrite else _known(run_folder, benchmark, engine)
                        if run is None:
                            title = f"{name}, {condition}, {method}"
                            run = _measure(benchmark, engine, failed, title, run_folder, progress)
                    yield Measurement(name, condition, method, run, run_folder)


def _measure(
    benchmark: Benchmark,
    engine: Engine,
    failed: Mapping[str, str],
    title: str,
    folder: Path,
    progress: ProgressFactory,
) -> Run:
    run = evaluate_engine(benchmark, engine, failed, progress, folder, title).run
    save_run(folder, run)
    forget_answers(folder)
    return run


def _conditions(
    benchmark: Benchmark, config: MethodsConfig, images: ImageIndex, progress: ProgressFactory
) -> Iterator[tuple[str, tuple[ImageIndex, ...]]]:
    """Names of the conditions, and the indexes of distractors of each."""
    if ALONE in config.conditions:
        yield ALONE, ()
    if config.distractors is None or AMONG_DISTRACTORS not in config.conditions:
        return
    with progress("distractors") as report:
        folder = config.out / "indexes"
        distractors = open_distractors(benchmark, config.distractors, images, folder, "", report)
    yield AMONG_DISTRACTORS, distractors
    for index in distractors:
        index.close()


def _configured(images: ImageIndex, shared: Overrides, own: Overrides) -> ImageIndex:
    """The index opened anew with settings of its own, and with the model that is loaded."""
    configured = ImageIndex.open(images.path)
    configured.use(images.extractor)
    configured.configure(dict(shared))
    configured.configure(dict(own))
    return configured


def _known(folder: Path, benchmark: Benchmark, engine: Engine) -> Run | None:
    """The run in that folder if it is complete and of this engine and these queries."""
    if not is_run(folder):
        return None
    try:
        run = load_run(folder)
    except UsageError:
        return None
    if _identity(run.metadata.get("engine", {})) != _identity(engine.metadata()):
        return None
    return run if run.benchmark.queries == benchmark.queries else None


def _identity(metadata: Mapping[str, Any]) -> Any:
    """An engine as files tell of it. Bytes are a result: SQLite's files come and go."""
    kept = {key: value for key, value in metadata.items() if key != "bytes_per_image"}
    return json.loads(json.dumps(kept))
