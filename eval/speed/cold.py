"""``delg query`` from the shell: what a single question costs, with everything that has to load."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from delg.errors import DelgError
from eval.speed.build import write_photos
from eval.speed.harness import Bench, Result, stage
from index.image_index import ImageIndex

_PHOTOS, _COPIES, _RUNS = 20, 500, 5
_QUICK_COPIES = 20


def _make_index(folder: Path, copies: int) -> Path:
    """An index of many copies of a few real photos, which are extracted once; one of them."""
    write_photos(folder / "photos", _PHOTOS)
    with ImageIndex.create(folder / "index") as images:
        images.add(folder / "photos")
        store = images._store
        rows = list(store.catalog.images("ok"))
        features = [store.features(row) for row in rows]
        with store.lock():
            for start in range(1, copies, 10):
                named = [
                    (f"{number}/{row.id}", row, found)
                    for number in range(start, min(start + 10, copies))
                    for row, found in zip(rows, features, strict=True)
                ]
                store.commit(
                    [replace(row, id=name) for name, row, _ in named],
                    [found for _, _, found in named],
                )
            store.save_shortlist()
    return folder / "photos" / rows[0].id


@stage("query_cold")
def cold(bench: Bench) -> Iterator[Result]:
    """The default model, 100 candidates verified; the baseline loads TensorFlow."""
    copies = _QUICK_COPIES if bench.quick else _COPIES
    photo = _make_index(bench.folder, copies)
    command = [sys.executable, "-m", "delg.cli", "query", str(photo)]
    command += ["--index", str(bench.folder / "index"), "--json"]

    def ask(runtime: str) -> None:
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "DELG_RUNTIME": runtime}
        )
        if done.returncode:
            raise DelgError(f"query_cold: {done.stderr.strip()[-500:]}")

    yield bench.time(
        "query_cold",
        lambda: ask("auto"),
        lambda: ask("tensorflow"),
        runs=min(bench.runs, _RUNS),
        note=f"{_PHOTOS * copies:,} photos; the baseline: DELG_RUNTIME=tensorflow",
    )
