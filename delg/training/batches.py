"""Batches of views, in an order that depends on the seed and the step alone.

Step s draws the same photos and the same warps whether or not the steps before it ran in this
process; that lets an interrupted run end equal to an uninterrupted one.
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
from delg.training.image_cache import PhotoStore, readable
from delg.training.items import NO_LABEL
from delg.training.settings import AugmentSettings, ScheduleSettings
from delg.types import FloatArray

# Random streams that must not be the same.
_ORDER, _BALANCE, _VIEWS = 1, 2, 3


@dataclass(frozen=True, eq=False)
class Batch:
    """The data of a step: P photos, V views of each; view v of photo p is row v · P + p.

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
    """Which photos a step gets.

    The balanced part of a batch draws a class evenly, then one of its photos; the rest goes through
    a fresh permutation of all photos in each epoch, so nothing depends on a shuffle buffer.
    """

    def __init__(self, labels: NDArray[np.int32], schedule: ScheduleSettings, seed: int) -> None:
        self._count, self._seed = len(labels), seed
        self._members = [
            np.flatnonzero(labels == label) for label in np.unique(labels) if label != NO_LABEL
        ]
        self._balanced = round(schedule.balanced * schedule.batch) if self._members else 0
        self._sequential = schedule.batch - self._balanced

    def photos(self, step: int) -> NDArray[np.int64]:
        """Numbers of the photos of that step."""
        rng = np.random.default_rng([self._seed, _BALANCE, step])
        classes = rng.integers(0, max(1, len(self._members)), self._balanced)
        drawn = [int(rng.choice(self._members[number])) for number in classes]
        start = step * self._sequential
        positions = np.arange(start, start + self._sequential)
        sequential = [self._permutation(int(p // self._count))[p % self._count] for p in positions]
        return np.array(drawn + sequential, np.int64)

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
        schedule: ScheduleSettings,
        seed: int,
    ) -> None:
        self._store, self._labels, self._augment = store, labels, augment
        self._sampler, self._schedule = Sampler(labels, schedule, seed), schedule
        self._seed = seed
        self.waited = 0.0

    def from_step(self, first: int, last: int) -> Iterator[Batch]:
        """Batches of the steps from ``first`` up to, not including, ``last``."""
        ahead: deque[tuple[int, list[Future[tuple[int, list[View]]]]]] = deque()
        step = first
        with ThreadPoolExecutor(self._schedule.threads) as pool:
            try:
                while step < last or ahead:
                    while step < last and len(ahead) < 3:
                        views = [
                            pool.submit(self._views, step, position, int(photo))
                            for position, photo in enumerate(self._sampler.photos(step))
                        ]
                        ahead.append((step, views))
                        step += 1
                    number, views = ahead.popleft()
                    started = time.monotonic()
                    photos = [future.result() for future in views]
                    self.waited += time.monotonic() - started
                    yield self._collate(number, photos)
            finally:
                for _, views in ahead:
                    for future in views:
                        future.cancel()

    def _views(self, step: int, position: int, photo: int) -> tuple[int, list[View]]:
        """The number of the photo that could be read, and its views."""
        rng = np.random.default_rng([self._seed, _VIEWS, step, position])
        number, pixels = self._pixels(photo)
        background = None
        if self._augment.on_background or self._augment.occlusion:
            _, background = self._pixels(int(rng.integers(0, len(self._store.items))))
        views = range(self._augment.views)
        return number, [view(pixels, self._augment, rng, background) for _ in views]

    def _pixels(self, photo: int) -> tuple[int, NDArray[np.uint8]]:
        """The photo, or where it is broken the next one that is not, with its number."""
        count = len(self._store.items)
        candidates = (*range(photo, count), *range(photo))
        for number, pixels in readable(self._store, candidates):
            return number, pixels
        raise DelgError(f"none of the {count} photos can be read any more")

    def _collate(self, step: int, photos: Sequence[tuple[int, list[View]]]) -> Batch:
        numbers = np.array([number for number, _ in photos], np.int32)
        by_view = [views[place] for place in range(self._augment.views) for _, views in photos]
        return Batch(
            step=step,
            images=np.stack([view.pixels for view in by_view]),
            labels=self._labels[numbers],
            photos=numbers,
            homographies=np.stack([view.homography for view in by_view]),
            sizes=np.array([views[0].size for _, views in photos], np.float32),
        )
