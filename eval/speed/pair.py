"""One pair of photos: match and verify, from the stored form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from delg.settings import parse
from eval.speed import delf_baseline
from eval.speed.harness import Bench, Growth, Point, Result, median_ms, stage
from eval.speed.synthetic import SCALES, Scene, make_index, photo, scene
from index.results import Verification
from index.settings import IndexSettings
from index.storage.product_quantizer import MIN_TRAINING_VECTORS
from index.storage.store import Store
from index.verification.pair import verify_pair as verify_matchable

_RATES = (0.05, 0.1, 0.5)
_NOISE, _MUCH_NOISE = 0.5, 1.1
_COUNTS = (125, 250, 500, 1000, 2000, 4000)
# Pairs are verified one after another.
_IN_A_ROW = 10
_GROWTH = Growth("Verifying a pair", "features a photo", "ms")


class _Stored:
    """A scene's photos in an index, with all their features, and what verification finds."""

    def __init__(self, pair: Scene, folder: Path) -> None:
        self.scene = pair
        settings = parse(IndexSettings, {"store": {"max_features": 10**6}, **SCALES}, "speed")
        self.settings = settings
        # Others besides, for compact codes are learnt from some thousands of features.
        count = len(pair.query.local)
        others = [
            photo(count, seed=seed) for seed in range(1, 1 + -(-MIN_TRAINING_VECTORS // count))
        ]
        with make_index(folder, [pair.query, pair.other, *others], settings):
            self.store = Store(folder)

    def verify(self) -> Verification:
        """Read and unpack both photos, match, verify."""
        one, other = (self.store.matchable(row) for row in (1, 2))
        return verify_matchable(one, other, self.settings)

    def published(self) -> object:
        """The published way, on float64 arrays."""
        return delf_baseline.inliers(self.scene.query.local, self.scene.other.local)

    def note(self, baseline: bool) -> str:
        """How many of the true matches are found."""
        ours = self.scene.correct(self.verify().matches)
        text = f"{ours} of {len(self.scene.pairs)} true matches found"
        if baseline:
            theirs = delf_baseline.inliers(self.scene.query.local, self.scene.other.local)
            text += f", baseline {self.scene.correct(theirs)}"
        return text


@stage(
    "verify_pair",
    *(f"verify_pair_{rate:.0%}" for rate in _RATES),
    "verify_pair_perspective",
    "verify_pair_noisy",
)
def verify_pair(bench: Bench) -> Iterator[Result]:
    """1000 by 1000 features of 128 dimensions; half of them in agreement unless the name says."""
    scenes = {
        "verify_pair": scene(0.5),
        **{f"verify_pair_{rate:.0%}": scene(rate, noise=_NOISE) for rate in _RATES},
        "verify_pair_perspective": scene(0.5, perspective=True),
        "verify_pair_noisy": scene(0.5, noise=_MUCH_NOISE),
    }
    for name, one in scenes.items():
        stored = _Stored(one, bench.folder / name)
        yield bench.time(
            name,
            stored.verify,
            stored.published,
            baseline_runs=1 if bench.quick else 3,
            note=stored.note(bench.baseline),
            in_a_row=_IN_A_ROW,
        )
    if bench.quick:
        return
    for count in _COUNTS:
        stored = _Stored(scene(0.5, count=count), bench.folder / f"{count}")
        yield Point(_GROWTH, "ours", count, median_ms(stored.verify, 5))
        if bench.baseline:
            yield Point(_GROWTH, "published", count, median_ms(stored.published, 1))
