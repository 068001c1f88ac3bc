"""Batches of views, in an order that depends on the seed and the step alone.

Step s draws the same photos and the same warps whether or not the steps before it were run in this
process; that is what lets an interrupted run end equal to an uninterrupted one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from delg.errors import DelgError
from delg.training.augment import View, view
from delg.training.dataset import NO_LABEL
from delg.training.image_cache import PhotoStore, readable
from delg.training.settings import AugmentSettings, LoopSettings
from delg.types import FloatArray

# Streams of chance that must not be the same.
_ORDER, _BALANCE, _VIEWS = 1, 2, 3


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step learns from: P photos, V views of each; view v of photo p is row v · P + p.

    Attributes:
        step: its number, from 0.
        images: uint8 (V · P, side, side, 3).
        labels: int32 (P,), NO_LABEL where there is none.
        photos: int32 (P,), numbers of the photos in the store.
        homographies: float32 (V · P, 3, 3), photo pixels to view pixels.
        sizes: float32 (P, 2), width and height of the photos.
    """

    step: int
    images: NDArray[np.uint8]
    labels: NDArray[np.int32]
    photos: NDArray[np.int32]
    homographies: FloatArray
    sizes: FloatArray


class Sampler:
    """Which photos a step sees.

    The balanced part of a batch draws a class evenly, then one of its photos; the rest walks
    through a fresh permutation of all photos each epoch, so nothing depends on a shuffle buffer.
    """

    def __init__(self, labels: NDArray[np.int32], loop: LoopSettings, seed: int) -> None:
        self._count, self._seed = len(labels), seed
        self._members = [
            np.flatnonzero(labels == label) for label in np.unique(labels) if label != NO_LABEL
        ]
        self._balanced = round(loop.balanced * loop.batch) if self._members else 0
        self._in_turn = loop.batch - self._balanced

    def photos(self, step: int) -> NDArray[np.int64]:
        """Numbers of the photos of that step."""
        rng = np.random.default_rng([self._seed, _BALANCE, step])
        classes = rng.integers(0, max(1, len(self._members)), self._balanced)
        drawn = [int(rng.choice(self._members[number])) for number in classes]
        start = step * self._in_turn
        places = np.arange(start, start + self._in_turn)
        turns = [self._permutation(int(p // self._count))[p % self._count] for p in places]
        return np.array(drawn + turns, np.int64)

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        cached = getattr(self, "_last", None)
        if cached is None or cached[0] != epoch:
            rng = np.random.default_rng([self._seed, _ORDER, epoch])
            cached = self._last = (epoch, rng.permutation(self._count))
        return cached[1]


class Batches:
    """Makes batches in threads, ahead of the model.

    Attributes:
        waited: seconds the model has waited for batches so far.
    """

    def __init__(
        self,
        store: PhotoStore,
        labels: NDArray[np.int32],
        augment: AugmentSettings,
        loop: LoopSettings,
        seed: int,
    ) -> None:
        self._store, self._labels, self._augment = store, labels, augment
        self._sampler, self._loop, self._seed = Sampler(labels, loop, seed), loop, seed
        self.waited = 0.0

    def from_step(self, first: int, last: int) -> Iterator[Batch]:
        """Batches of the steps from ``first`` up to, not including, ``last``."""
        ahead: deque[tuple[int, list[Future[tuple[int, list[View]]]]]] = deque()
        step = first
        with ThreadPoolExecutor(self._loop.threads) as pool:
            try:
                while step < last or ahead:
                    while step < last and len(ahead) < 3:
                        views = [
                            pool.submit(self._views, step, place, int(photo))
                            for place, photo in enumerate(self._sampler.photos(step))
                        ]
                        ahead.append((step, views))
                        step += 1
                    number, views = ahead.popleft()
                    started = time.monotonic()
                    done = [future.result() for future in views]
                    self.waited += time.monotonic() - started
                    yield self._collate(number, done)
            finally:
                for _, views in ahead:
                    for future in views:
                        future.cancel()

    def _views(self, step: int, place: int, photo: int) -> tuple[int, list[View]]:
        """The number of the photo that was taken, and its views."""
        rng = np.random.default_rng([self._seed, _VIEWS, step, place])
        taken, pixels = self._pixels(photo)
        behind = None
        if self._augment.on_background or self._augment.occlusion:
            _, behind = self._pixels(int(rng.integers(0, len(self._store.items))))
        return taken, [view(pixels, self._augment, rng, behind) for _ in range(self._augment.views)]

    def _pixels(self, photo: int) -> tuple[int, NDArray[np.uint8]]:
        """The photo, or where it is broken the next one that is not, with its number."""
        count = len(self._store.items)
        turn = (*range(photo, count), *range(photo))
        found = next(readable(self._store, turn), None)
        if found is None:
            raise DelgError(f"none of the {count} photos can be read any more")
        return found

    def _collate(self, step: int, done: Sequence[tuple[int, list[View]]]) -> Batch:
        photos = np.array([taken for taken, _ in done], np.int32)
        by_view = [views[number] for number in range(self._augment.views) for _, views in done]
        return Batch(
            step=step,
            images=np.stack([one.pixels for one in by_view]),
            labels=self._labels[photos],
            photos=photos,
            homographies=np.stack([one.homography for one in by_view]),
            sizes=np.array([views[0].size for _, views in done], np.float32),
        )
