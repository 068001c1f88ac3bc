"""One pair of photos: match and verify stored features."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delg.settings import parse
from eval.speed import delf_baseline
from eval.speed.harness import Bench, Growth, Point, Result, median_ms, stage
from eval.speed.synthetic import SCALES, Scene, make_index, photo, scene
from index.results import Verification
from index.settings import IndexSettings
from index.storage.product_quantizer import MIN_TRAINING_VECTORS
from index.storage.store import Store
from index.verification.pair import verify_pair as verify_matchable

_INLIER_RATES = (0.05, 0.1, 0.5)
_NOISE, _MUCH_NOISE = 0.5, 1.1
_COUNTS = (125, 250, 500, 1000, 2000, 4000)
# Pairs are verified one after another.
_IN_A_ROW = 10
_GROWTH = Growth("Verifying a pair", "features per photo", "ms")


class _StoredPair:
    """A scene's photos in an index with all their features, ready to verify."""

    def __init__(self, pair: Scene, folder: Path) -> None:
        self.scene = pair
        settings = parse(IndexSettings, {"store": {"max_features": 10**6}, **SCALES}, "speed")
        self.settings = settings
        # Further photos, as a codebook is learnt from some thousands of features.
        count = len(pair.query.local)
        fillers = [
            photo(count, seed=seed) for seed in range(1, 1 + -(-MIN_TRAINING_VECTORS // count))
        ]
        with make_index(folder, [pair.query, pair.other, *fillers], settings):
            self.store = Store(folder)

    def verify(self) -> Verification:
        """Read and unpack both photos, match, verify."""
        query, other = (self.store.matchable(row) for row in (1, 2))
        return verify_matchable(query, other, 0.0, self.settings)

    def verify_by_reference(self) -> NDArray[np.int64]:
        """Matches of the reference implementation, on float64 arrays."""
        return delf_baseline.match_inliers(self.scene.query.local, self.scene.other.local)

    def note(self, baseline: bool) -> str:
        """Counts of the true matches that are kept."""
        ours = self.scene.correct(self.verify().matches)
        text = f"{ours} of {len(self.scene.pairs)} true matches found"
        if baseline:
            text += f", baseline {self.scene.correct(self.verify_by_reference())}"
        return text


@stage(
    "verify_pair",
    *(f"verify_pair_{rate:.0%}" for rate in _INLIER_RATES),
    "verify_pair_perspective",
    "verify_pair_noisy",
)
def verify_pair(bench: Bench) -> Iterator[Result]:
    """1000 by 1000 features of 128 dimensions; half of them inliers unless the name says."""
    scenes = {
        "verify_pair": scene(0.5),
        **{f"verify_pair_{rate:.0%}": scene(rate, noise=_NOISE) for rate in _INLIER_RATES},
        "verify_pair_perspective": scene(0.5, perspective=True),
        "verify_pair_noisy": scene(0.5, noise=_MUCH_NOISE),
    }
    for name, pair in scenes.items():
        stored = _StoredPair(pair, bench.folder / name)
        yield bench.time(
            name,
            stored.verify,
            stored.verify_by_reference,
            baseline_runs=1 if bench.quick else 3,
            note=stored.note(bench.baseline),
            in_a_row=_IN_A_ROW,
        )
    if bench.quick:
        return
    for count in _COUNTS:
        stored = _StoredPair(scene(0.5, count=count), bench.folder / f"{count}")
        yield Point(_GROWTH, "ours", count, median_ms(stored.verify, 5))
        if bench.baseline:
            yield Point(_GROWTH, "reference", count, median_ms(stored.verify_by_reference, 1))
