"""Building from different places, or with different models: photos per second, processors, memory
and bytes, each in a new process.

``delg eval speed sources photos/ s3://bucket/photos`` compares the same photos on a disk and in a
bucket, ``delg eval speed sources photos/ --model delg-lite --model delg-lite-clip`` two models.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from delg.errors import DelgError
from eval.speed.harness import Row
from eval.speed.processes import peak_memory, run_in_new_process
from index.image_index import ImageIndex

_KIB, _MIB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class _Build:
    """A build of a new index.

    Attributes:
        photos: that were added.
        seconds, cpu_seconds: that it took, without the model's loading.
        bytes: of the index's files, for each photo.
        memory: the most that the process had, bytes.
    """

    photos: int
    seconds: float
    cpu_seconds: float
    bytes: float
    memory: int


def compare_sources(
    sources: Sequence[str], models: Sequence[str], folder: Path, runs: int
) -> Iterator[Row]:
    """Build an index of each source with each model, in turns.

    Args:
        sources: folders or URLs.
        models: names or folders.
        folder: for the indexes.
        runs: of each.

    Raises:
        DelgError: a photo could not be added.
    """
    cases = list(product(sources, models))
    builds: list[list[_Build]] = [[] for _ in cases]
    for run in range(runs):
        for number, (source, model) in enumerate(cases):
            place = folder / f"{number}-{run}.index"
            builds[number].append(run_in_new_process(build, source, model, place))
    for number, ((source, model), done) in enumerate(zip(cases, builds, strict=True), 1):
        name = f"source_{number}"
        cpu = float(np.median([each.cpu_seconds / each.photos for each in done])) * 1000
        note = (
            f"{source}, {model}: {done[0].photos:,} photos; for each {cpu:.0f} ms of processors "
            f"and {done[0].bytes / _KIB:.1f} KiB of the index"
        )
        rates = [each.photos / each.seconds for each in done]
        yield Row.of(name, rates, "photos/s", note=note, more_is_better=True)
        memory = [each.memory / _MIB for each in done]
        yield Row.of(f"{name}_memory", memory, "MiB", note="at most, of the process")


def build(source: str, model: str, place: Path) -> _Build:
    """Build a new index of a source in this process.

    Raises:
        DelgError: a photo could not be added.
    """
    with ImageIndex.create(place, model) as images:
        assert images.extractor
        started, worked = time.perf_counter(), time.process_time()
        report = images.add(source)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
        size = images.info()["bytes"]
    if report.failed:
        raise DelgError(f"{source}: {len(report.failed)} photos failed: {report.failed[0].reason}")
    if not report.added:
        raise DelgError(f"{source}: no photos there")
    photos = report.added
    return _Build(photos, seconds, cpu_seconds, size / photos, peak_memory())
