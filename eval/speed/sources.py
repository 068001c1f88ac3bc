"""Building from different places: photos per second, processors and memory, each in a new process.

``delg eval speed sources photos/ s3://bucket/photos`` compares the same photos on a disk and in a
bucket.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from delg.errors import DelgError
from eval.speed.harness import Row
from eval.speed.processes import peak_memory, run_in_new_process
from index.image_index import ImageIndex

_MIB = 1 << 20


@dataclass(frozen=True)
class _Build:
    """A build of a new index.

    Attributes:
        photos: that were added.
        seconds, cpu_seconds: that it took, without the model's loading.
        bytes: the most memory that the process had.
    """

    photos: int
    seconds: float
    cpu_seconds: float
    bytes: float


def compare_sources(sources: Sequence[str], folder: Path, runs: int) -> Iterator[Row]:
    """Build an index of each source, in turns.

    Args:
        sources: folders or URLs.
        folder: for the indexes.
        runs: of each.

    Raises:
        DelgError: a photo could not be added.
    """
    builds: dict[str, list[_Build]] = {source: [] for source in sources}
    for run in range(runs):
        for number, source in enumerate(sources):
            place = folder / f"{number}-{run}.index"
            builds[source].append(run_in_new_process(build, source, place))
    for number, (source, done) in enumerate(builds.items()):
        name = f"source_{number + 1}"
        cpu = float(np.median([each.cpu_seconds / each.photos for each in done])) * 1000
        note = f"{source}: {done[0].photos:,} photos, {cpu:.0f} ms of processors per photo"
        rates = [each.photos / each.seconds for each in done]
        yield Row.of(name, rates, "photos/s", note=note, more_is_better=True)
        memory = [each.bytes / _MIB for each in done]
        yield Row.of(f"{name}_memory", memory, "MiB", note="at most, of the process")


def build(source: str, place: Path) -> _Build:
    """Build a new index of a source in this process.

    Raises:
        DelgError: a photo could not be added.
    """
    with ImageIndex.create(place) as images:
        assert images.extractor
        started, worked = time.perf_counter(), time.process_time()
        report = images.add(source)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
    if report.failed:
        raise DelgError(f"{source}: {len(report.failed)} photos failed: {report.failed[0].reason}")
    if not report.added:
        raise DelgError(f"{source}: no photos there")
    return _Build(report.added, seconds, cpu_seconds, peak_memory())
