"""Query latency in an index of thousands of photos: from the shell, and in a warm process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from tempfile import TemporaryDirectory

from delg.errors import DelgError
from eval.speed.harness import Bench, Result, stage
from eval.speed.warm_query import many_photos
from index.demo.photos import make_gallery
from index.image_index import ImageIndex

_RUNS, _QUICK_RUNS = 5, 2


@stage("query_cold", "query_warm", "query_warm_nothing")
def query_latency(bench: Bench) -> Iterator[Result]:
    """The default model, 100 candidates verified."""
    photo, count = many_photos(bench.folder, bench.quick)
    index = bench.folder / "index"
    runs = _QUICK_RUNS if bench.quick else min(bench.runs, _RUNS)
    command = [sys.executable, "-m", "delg.cli.main", "query", str(photo)]
    command += ["--index", str(index), "--json"]

    def run() -> None:
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            raise DelgError(f"query_cold: {process.stderr.strip()[-500:]}")

    size = f"{count:,} photos"
    yield bench.time("query_cold", run, runs=runs, note=f"{size}, a new process")
    with ImageIndex.open(index) as images:
        yield bench.time(
            "query_warm",
            lambda: images.query(photo),
            note=f"{size}, one of them relevant, 1024 pixels, 100 verified",
        )
        with TemporaryDirectory() as folder:
            unrelated = next(q.path for q in make_gallery(folder) if not q.expected)
            yield bench.time(
                "query_warm_nothing",
                lambda: images.query(unrelated),
                runs=runs,
                note="without a match: four orientations, reverification",
            )
