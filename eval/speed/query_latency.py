"""Asking an index of thousands of photos: from the shell, and in a process that is warm."""

from __future__ import annotations

import os
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
def ask(bench: Bench) -> Iterator[Result]:
    """The default model, 100 candidates verified; the baseline loads TensorFlow."""
    photo, count = many_photos(bench.folder, bench.quick)
    index, runs = bench.folder / "index", _QUICK_RUNS if bench.quick else min(bench.runs, _RUNS)
    command = [sys.executable, "-m", "delg.cli.main", "query", str(photo)]
    command += ["--index", str(index), "--json"]

    def run(runtime: str) -> None:
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "DELG_RUNTIME": runtime}
        )
        if done.returncode:
            raise DelgError(f"query_cold: {done.stderr.strip()[-500:]}")

    size = f"{count:,} photos"
    yield bench.time(
        "query_cold",
        lambda: run("auto"),
        lambda: run("tensorflow"),
        runs=runs,
        baseline_runs=1 if bench.quick else None,
        note=f"{size}; the baseline: DELG_RUNTIME=tensorflow",
    )
    with ImageIndex.open(index) as images:
        yield bench.time(
            "query_warm",
            lambda: images.query(photo),
            note=f"{size}, one of them the right one, 1024 pixels, 100 verified",
        )
        with TemporaryDirectory() as folder:
            strange = next(one.path for one in make_gallery(folder) if not one.expected)
            yield bench.time(
                "query_warm_nothing",
                lambda: images.query(strange),
                runs=runs,
                note="of something else: four orientations, second looks",
            )
