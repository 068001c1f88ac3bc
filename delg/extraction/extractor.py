"""Photos to features: pyramid, network, the best cells over all scales."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from delg.errors import ModelError
from delg.extraction.match_kernel import aggregate
from delg.extraction.sift import DIM as SIFT_DIM
from delg.extraction.sift import extract_sift
from delg.images import pyramid
from delg.images.decode import IN_MEMORY, ImageError, Source, decode
from delg.images.geometry import crop_to_box, rotate, rotate_back
from delg.images.pyramid import Level
from delg.settings import ImageSettings, ModelSettings
from delg.types import Box, Failure, FloatArray, ImageFeatures, LocalFeatures

if TYPE_CHECKING:
    from delg.extraction.local_aggregate import LocalAggregate
    from delg.extraction.two_towers import SecondTower
    from delg.inference.backend import Backend, LevelOutput

T = TypeVar("T")
Refinement = Callable[[NDArray[np.uint8], ImageFeatures], ImageFeatures]
# A SavedModel's operations share one pool of threads; a second photo fills their serial parts.
_PARALLEL_IMAGES = 2


@dataclass(frozen=True, eq=False)
class Prepared:
    """A photo ready for the network: decoded, turned, cropped and resized."""

    levels: list[Level]
    crop: NDArray[np.uint8]
    origin: tuple[int, int]
    width: int
    height: int
    turns: int


def aggregate_or_refuse(descriptors: FloatArray) -> FloatArray:
    """The aggregate of a photo's local descriptors (N, d), where it has no global one.

    Raises:
        ImageError: there are none.
    """
    aggregated = aggregate(descriptors)
    if aggregated is None:
        raise ImageError("no local features were found, so it could never be found")
    return aggregated


def best(scores: FloatArray, count: int) -> NDArray[np.intp]:
    """Indices of the highest scores, best first; equal scores in their given order."""
    return np.argsort(-scores, kind="stable")[:count]


class Extractor:
    """One model, ready to turn photos into features.

    Made by :func:`delg.load_model`.

    Attributes:
        name: the model's name.
        settings: everything that defines the model but its weights.
        fingerprint: hash of architecture, weights and extraction settings.
        global_dim, local_dim: widths of the descriptors.
    """

    def __init__(
        self,
        backend: Backend | None,
        settings: ModelSettings,
        fingerprint: str,
        images: ImageSettings | None = None,
        aggregate: LocalAggregate | None = None,
        tower: SecondTower | None = None,
    ) -> None:
        self._backend, self._aggregate, self._tower = backend, aggregate, tower
        self.settings, self.fingerprint, self.name = settings, fingerprint, settings.name
        self.images = images or ImageSettings()
        self.global_dim = settings.global_dim
        spec = settings.aggregate if aggregate is not None else None
        self._aggregated = spec.max_features if spec is not None else 0
        self._sift = settings.local_head.kind == "sift"
        self._sift_side = settings.local_head.sift_longest_side
        self.local_dim = SIFT_DIM if self._sift else settings.local_head.dim

    @property
    def backend(self) -> Backend:
        """What runs the network on the levels of the pyramid."""
        if self._backend is None:
            raise ModelError(f"{self.name} is a SavedModel, which runs the pyramid itself")
        return self._backend

    @cached_property
    def network_alone(self) -> Extractor:
        """The same without what its global descriptor is joined with: enough where only local
        features are wanted."""
        if self._aggregate is None and self._tower is None:
            return self
        settings = self.settings.model_copy(update={"aggregate": None, "tower": None})
        return Extractor(self._backend, settings, self.fingerprint, self.images)

    def extract(
        self, source: Source, box: Box | None = None, turns: int = 0, all_cores: bool = True
    ) -> ImageFeatures:
        """Features of one photo.

        Args:
            source: a path, the bytes of an image file, or pixels, as
                :func:`delg.images.decode.decode` takes them.
            box: look only at (x, y, width, height), in pixels of the upright photo. The crop is
                resized as the whole photo would be, so its size limit shrinks with it, as the
                revisited Oxford/Paris protocol asks.
            turns: quarter turns counter-clockwise given to the photo first. Keypoints are always
                in pixels of the photo as it came.
            all_cores: whether this photo may use all of them; not where others run beside it.

        Raises:
            ImageError: the photo or the box cannot be used.
        """
        return self._finish(self._prepare(source, box, turns), all_cores)

    def extract_many(
        self,
        sources: Iterable[T],
        read: Callable[[T], Source] | None = None,
        threads: int | None = None,
        refine: Refinement | None = None,
    ) -> Iterator[ImageFeatures | Failure]:
        """Features of many photos, in order, with memory bounded by a few photos.

        Decoding runs in threads ahead of the network; as many photos are in the network at once as
        keep all cores busy.

        Args:
            sources: as for :meth:`extract`, or anything that ``read`` turns into such; consumed
                lazily.
            read: called in the decoding threads; it may raise ``ImageError``.
            threads: for decoding; one a core by default.
            refine: called with the pixels and the features of each photo, beside others; gives
                its features. None: they stay.

        Yields:
            Features, or the ``Failure`` of a photo that cannot be used.
        """
        threads = threads or os.cpu_count() or 1
        parallel = self._backend.parallel_images if self._backend else _PARALLEL_IMAGES
        pending: deque[tuple[T, Future[ImageFeatures]]] = deque()

        def prepare(source: T) -> Prepared:
            return self._prepare(read(source) if read else cast(Source, source), None, 0)

        with ThreadPoolExecutor(threads) as decoders, ThreadPoolExecutor(parallel) as runners:
            try:
                for source in sources:
                    prepared = decoders.submit(prepare, source)
                    pending.append((source, runners.submit(self._finish_later, prepared, refine)))
                    if len(pending) > threads + parallel:
                        yield _outcome(*pending.popleft())
                while pending:
                    yield _outcome(*pending.popleft())
            finally:
                for _, future in pending:
                    future.cancel()

    def _finish_later(self, prepared: Future[Prepared], refine: Refinement | None) -> ImageFeatures:
        photo = prepared.result()
        features = self._finish(photo, all_cores=False)
        return refine(photo.crop, features) if refine else features

    def _prepare(self, source: Source, box: Box | None, turns: int) -> Prepared:
        pixels = decode(source, self.images)
        height, width = pixels.shape[:2]
        crop, origin = (pixels, (0, 0)) if box is None else crop_to_box(pixels, box)
        crop = rotate(crop, turns)
        side = pyramid.base_side(pixels, self.settings.extraction)
        side *= max(crop.shape[:2]) / max(height, width)
        return Prepared(self._levels(crop, side), crop, origin, width, height, turns)

    def _levels(self, crop: NDArray[np.uint8], side: float) -> list[Level]:
        """What the network will see of the crop, whose longest side counts as ``side``."""
        spec = self.settings.extraction
        scales = set(spec.global_scales) if self.settings.has_global else set()
        if not self._sift:
            scales |= set(spec.scales)
        return [pyramid.level(crop, scale, side) for scale in sorted(scales)]

    def _features(self, photo: Prepared, all_cores: bool) -> tuple[FloatArray, LocalFeatures]:
        """Global descriptor (D,), of any length, and local features in pixels of the crop."""
        spec, has_global = self.settings.extraction, self.settings.has_global
        outputs = [
            self.backend.run(
                level.pixels,
                with_local=not self._sift and level.scale in spec.scales,
                with_global=has_global and level.scale in spec.global_scales,
                all_cores=all_cores,
            )
            for level in photo.levels
        ]
        if self._sift:
            local = extract_sift(photo.crop, self._sift_side, spec.max_features)
        else:
            local = self._select(photo.levels, outputs)
        if not has_global:
            return aggregate_or_refuse(local.descriptors), local
        descriptors = [output.global_descriptor for output in outputs]
        return np.sum([d for d in descriptors if d is not None], axis=0), local

    def _finish(self, photo: Prepared, all_cores: bool = True) -> ImageFeatures:
        total, local = self._features(photo, all_cores)
        if self._aggregate is not None:
            total = self._aggregate.join(total, local.descriptors[: self._aggregated])
            local = local.best(self.settings.extraction.max_features)
        if self._tower is not None:
            total = self._tower.join(total, photo.crop, all_cores)
        height, width = photo.crop.shape[:2]
        if photo.turns % 2:
            height, width = width, height
        keypoints = rotate_back(local.keypoints, width, height, photo.turns)
        keypoints += np.array(photo.origin, np.float32)
        return ImageFeatures(
            global_descriptor=(total / max(float(np.linalg.norm(total)), 1e-12)).astype(np.float32),
            local=LocalFeatures(keypoints, local.descriptors, local.scales, local.scores),
            width=photo.width,
            height=photo.height,
        )

    def _select(self, levels: list[Level], outputs: list[LevelOutput]) -> LocalFeatures:
        """The best cells over all scales, as many as are kept or aggregated; keypoints in pixels of
        the crop."""
        spec = self.settings.extraction
        count = max(spec.max_features, self._aggregated)
        parts = []
        for level, output in zip(levels, outputs, strict=True):
            if level.scale not in spec.scales:
                continue
            inner = output.inner_cells(spec.border_cells)
            keep = inner[best(output.scores[inner], count)]
            keep = keep[output.scores[keep] >= spec.min_score]
            points = level.to_photo(output.centres[keep])
            # Padding can put the centre of a border cell outside the photo.
            points = points.clip(0, [level.width - 1, level.height - 1])
            scales = np.full(len(keep), level.scale, np.float32)
            scores = output.scores[keep] * spec.weight_by_scale[level.scale]
            parts.append((points, output.descriptors[keep], scales, scores))
        points, descriptors, scales, scores = (
            np.concatenate(x).astype(np.float32) for x in zip(*parts, strict=True)
        )
        keep = best(scores, count)
        return LocalFeatures(points[keep], descriptors[keep], scales[keep], scores[keep])


def _outcome(source: object, future: Future[ImageFeatures]) -> ImageFeatures | Failure:
    try:
        return future.result()
    except ImageError as error:
        named = "<memory>" if isinstance(source, IN_MEMORY) else str(source)
        return Failure(named, str(error))
