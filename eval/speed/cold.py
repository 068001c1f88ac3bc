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
from index.catalog import ImageRow, insert_segment, put_images
from index.image_index import ImageIndex
from index.store import Store

_PHOTOS, _COPIES, _QUICK_COPIES = 20, 500, 20
_AT_ONCE, _RUNS = 12, 5


def _make_index(folder: Path, copies: int) -> Path:
    """An index of many copies of a few real photos, which are extracted once; one of them."""
    write_photos(folder / "photos", _PHOTOS)
    with ImageIndex.create(folder / "index") as images:
        images.add(folder / "photos")
        store = images._store
        rows = list(store.catalog.images("ok"))
        with store.lock():
            for start in range(1, copies, _AT_ONCE):
                numbers = range(start, min(start + _AT_ONCE, copies))
                _copy(store, [replace(row, id=f"{n}/{row.id}") for n in numbers for row in rows])
            store.refresh()
            store.save_shortlist()
    return folder / "photos" / rows[0].id


def _copy(store: Store, images: list[ImageRow]) -> None:
    """Images under other ids, with the features that they name as they are stored."""
    segment = store.rewrite(images, store.catalog.next_segment())
    placed = [
        replace(one, segment=segment.number, position=position)
        for position, one in enumerate(images)
    ]
    with store.catalog.write() as db:
        insert_segment(db, segment)
        put_images(db, placed)


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
