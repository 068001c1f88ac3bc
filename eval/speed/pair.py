"""One pair of photos: match and verify, from the stored form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from delg.values import ImageFeatures
from eval.speed import published
from eval.speed.harness import Bench, Growth, Point, Result, median_ms, stage
from eval.speed.scenes import Scene, scene
from index.codec import decode, encode
from index.hits import Verification
from index.matching import one_blas_thread
from index.pair import compare
from index.settings import IndexSettings

_RATES = (0.05, 0.1, 0.5)
_NOISE, _MUCH_NOISE = 0.5, 1.1
_COUNTS = (125, 250, 500, 1000, 2000, 4000)
_GROWTH = Growth("Verifying a pair", "features a photo", "ms")


class _Stored:
    """A scene's photos as an index stores them, and what verification finds."""

    def __init__(self, pair: Scene) -> None:
        self.scene, self.settings = pair, IndexSettings()
        codec = self.settings.store.local_codec
        self._codes = [encode(one.local.descriptors, codec) for one in (pair.query, pair.other)]

    def verify(self) -> Verification:
        """Unpack both photos, match, verify."""
        with one_blas_thread():
            return compare(self._unpacked(0), self._unpacked(1), self.settings)

    def _unpacked(self, number: int) -> ImageFeatures:
        photo = (self.scene.query, self.scene.other)[number]
        return replace(photo, local=replace(photo.local, descriptors=decode(self._codes[number])))

    def published(self) -> object:
        """The published way, on float64 arrays."""
        return published.inliers(self.scene.query.local, self.scene.other.local)

    def note(self, baseline: bool) -> str:
        """How many of the true matches are found."""
        ours = self.scene.correct(self.verify().matches)
        text = f"{ours} of {len(self.scene.pairs)} true matches found"
        if baseline:
            theirs = published.inliers(self.scene.query.local, self.scene.other.local)
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
        stored = _Stored(one)
        yield bench.time(
            name, stored.verify, stored.published, baseline_runs=3, note=stored.note(bench.baseline)
        )
    if bench.quick:
        return
    for count in _COUNTS:
        stored = _Stored(scene(0.5, count=count))
        yield Point(_GROWTH, "ours", count, median_ms(stored.verify, 5))
        if bench.baseline:
            yield Point(_GROWTH, "published", count, median_ms(stored.published, 1))
