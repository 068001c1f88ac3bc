"""One process writes the file of the shortlist again and again, this one reads it meanwhile."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from index.settings import ShortlistSettings
from index.storage.ann_index import AnnIndex

DIM, ROWS = 16, 50


def generation_of(number: int) -> AnnIndex:
    """An index whose rows follow from the number of its generation."""
    vectors = np.eye(DIM, dtype=np.float32)[np.arange(ROWS + number % 7) % DIM]
    ann_index = AnnIndex.train(
        DIM, len(vectors), lambda most: vectors[:most], ShortlistSettings(kind="flat")
    )
    ann_index.add(vectors, number * 1000 + np.arange(len(vectors)))
    return ann_index


def race(folder: Path, seconds: float) -> tuple[int, int]:
    """Read for so long while another process writes; reads tried, and those of mixed states."""
    generation_of(1).save(folder, 1)
    writer = subprocess.Popen([sys.executable, __file__, str(folder)])
    tried = bad = 0
    try:
        until = time.monotonic() + seconds
        while time.monotonic() < until or not tried:
            stored = AnnIndex.load(folder, DIM, None)
            tried += 1
            bad += stored is None or not np.array_equal(
                np.sort(stored[0].rows()), np.sort(generation_of(stored[1]).rows())
            )
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.wait()
    return tried, bad


if __name__ == "__main__":
    count = 1
    while True:
        count += 1
        generation_of(count).save(Path(sys.argv[1]), count)
