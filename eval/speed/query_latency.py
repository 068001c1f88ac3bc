"""Asking an index of thousands of photos: from the shell, and in a process that is warm."""

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
def ask(bench: Bench) -> Iterator[Result]:
    """The default model, 100 candidates verified."""
    photo, count = many_photos(bench.folder, bench.quick)
    index, runs = bench.folder / "index", _QUICK_RUNS if bench.quick else min(bench.runs, _RUNS)
    command = [sys.executable, "-m", "delg.cli.main", "query", str(photo)]
    command += ["--index", str(index), "--json"]

    def run() -> None:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise DelgError(f"query_cold: {done.stderr.strip()[-500:]}")

    size = f"{count:,} photos"
    yield bench.time(
        "query_cold",
        run,
        runs=runs,
        note=size,
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
