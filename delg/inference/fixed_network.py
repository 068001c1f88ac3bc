"""A DELG model in fixed point, and its heads behind it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delg.inference.backend import MOST_AT_ONCE, Maps
from delg.inference.fixed_layers import FixedLayers, floats_of
from delg.inference.fixed_point import FixedMap, generalised_mean
from delg.inference.layered_backbones import Halves
from delg.inference.layered_heads import EPSILON, TINY, GlobalHead, local_maps, take_decoder
from delg.inference.layers import Weights
from delg.settings import ModelSettings
from delg.types import FloatArray

# Parts of a loop for each thread: so many that none waits long for another.
_PARTS = 4


def _at_once(
    loop: Callable[..., None], arguments: tuple[Any, ...], count: int, grain: int = 1, /
) -> None:
    loop(*arguments, 0, count)


class FixedNetwork:
    """A DELG model whose convolutions run in fixed point; see :mod:`delg.inference.fixed_point`.

    Args:
        settings: of the model.
        backbone: of the model, with all layers among those of :mod:`delg.inference.fixed_layers`.
        values: its weights by name.
        origin: names them in errors.

    Raises:
        ModelError: the weights do not fit the settings.
    """

    runtime = "fixed-point"

    def __init__(
        self,
        settings: ModelSettings,
        backbone: Halves,
        values: Mapping[str, np.ndarray],
        origin: str,
    ) -> None:
        weights = Weights(values, origin)
        self._shallow = FixedLayers(weights, settings.input)
        mid = backbone.shallow(self._shallow, 0)
        self._shallow.keep(mid, *local_maps(self._shallow, mid, backbone, settings))
        take_decoder(backbone, settings, weights)
        self._deep = self._head = None
        if settings.has_global:
            positive = self._shallow.is_positive(mid)
            self._deep = FixedLayers(weights, settings.input, positive)
            self._deep.keep(backbone.deep(self._deep, 0))
            self._head = GlobalHead.take(backbone, settings, weights)
        weights.check()
        self._backbone, self._spec = backbone, settings.local_head
        self._cores = os.cpu_count() or 1
        self.photos_at_once = min(self._cores, MOST_AT_ONCE)
        # Beside the thread that asks.
        self._others = ThreadPoolExecutor(max(1, self._cores - 1))

    def _side_by_side(
        self, loop: Callable[..., None], arguments: tuple[Any, ...], count: int, grain: int = 1, /
    ) -> None:
        count_of_parts = min(count, max(self._cores, min(_PARTS * self._cores, count // grain)))
        bounds = np.linspace(0, count, count_of_parts + 1).astype(int).tolist()
        parts = iter(list(pairwise(bounds)))

        def work() -> None:
            # Whoever is done with a part takes the next.
            for first, last in parts:
                loop(*arguments, first, last)

        others = [self._others.submit(work) for _ in range(self._cores - 1)]
        work()
        for other in others:
            other.result()

    def run(self, pixels: NDArray[np.uint8], with_global: bool, alone: bool = True) -> Maps:
        """Run one level; see :class:`delg.inference.backend.Network`."""
        spread = self._side_by_side if alone and self._cores > 1 else _at_once
        mid, codes, attended = self._shallow.run(pixels, spread)
        descriptors = _unit(floats_of(codes, self._spec.dim, spread))
        if self._spec.attention == "norm":
            scores = _norms(floats_of(attended, self._backbone.mid_channels, spread))
        else:
            scores = np.logaddexp(floats_of(attended, 1, spread)[..., 0], np.float32(0))
        whole = None
        if with_global and self._deep is not None and self._head is not None:
            (deep,) = self._deep.run(mid, spread)
            whole = _whitened(deep, self._head)
        return Maps.on_grid(
            descriptors, scores, whole, self._backbone.stride, self._backbone.offset
        )


def _whitened(deep: FixedMap, head: GlobalHead) -> FloatArray:
    pooled = np.empty(len(head.kernel), np.float32)
    generalised_mean(
        deep.pixels, deep.scales, deep.step, deep.margin, deep.height, deep.width,
        head.power, EPSILON, pooled,
    )  # fmt: skip
    if head.normalize_pooled:
        pooled = _unit(pooled)
    # BLAS would use threads that other photos need.
    return _unit(np.einsum("i,ij->j", pooled, head.kernel) + head.bias)


def _norms(vectors: FloatArray) -> FloatArray:
    """Along the last axis."""
    return np.asarray(np.sqrt(np.einsum("...i,...i->...", vectors, vectors)))


def _unit(vectors: FloatArray) -> FloatArray:
    return vectors / np.maximum(_norms(vectors), np.float32(TINY))[..., None]
