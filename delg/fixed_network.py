"""A backbone in fixed point, what stands behind it in ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delg.fixed_layers import FixedLayers, floats_of, pooled_of
from delg.layered_backbones import Halves
from delg.layers import Weights
from delg.light_network import MOST_AT_ONCE, load_session
from delg.maps import Maps
from delg.onnx_network import EPSILON, gem_power, local_maps, write_heads
from delg.settings import ModelSettings

# Parts of a loop for each thread: so many that none waits long for another.
_PARTS = 4


def _at_once(
    loop: Callable[..., None], arguments: tuple[Any, ...], count: int, grain: int = 1, /
) -> None:
    loop(*arguments, 0, count)


class FixedNetwork:
    """A DELG model whose convolutions run in fixed point; see :mod:`delg.fixed_point`.

    Args:
        settings: of the model.
        backbone: of the model, with all layers among those of :mod:`delg.fixed_layers`.
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
        self._deep = None
        if settings.has_global:
            positive = self._shallow.is_positive(mid)
            self._deep = FixedLayers(weights, settings.input, positive)
            self._deep.keep(backbone.deep(self._deep, 0))
            self._power = gem_power(weights)
        self._heads = write_heads(settings, backbone, weights)
        weights.check()
        self._cores = os.cpu_count() or 1
        self.photos_at_once = min(self._cores, MOST_AT_ONCE)
        # Beside the thread that asks.
        self._others = ThreadPoolExecutor(max(1, self._cores - 1))
        self._local = load_session(self._heads.shallow, 1)
        whole = self._heads.deep
        self._global = None if whole is None else load_session(whole, 1)

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
        """Run one level; see :class:`delg.maps.Network`."""
        spread = self._side_by_side if alone and self._cores > 1 else _at_once
        mid, *maps = self._shallow.run(pixels, spread)
        inputs = {
            one.name: floats_of(found, one.shape[3], spread)
            for one, found in zip(self._local.get_inputs(), maps, strict=True)
        }
        descriptors, scores = self._local.run(["descriptors", "scores"], inputs)
        whole = None
        if with_global and self._deep is not None and self._global is not None:
            (deep,) = self._deep.run(mid, spread)
            (reads,) = self._global.get_inputs()
            pooled = pooled_of(deep, reads.shape[1], self._power, EPSILON)
            whole = self._global.run(None, {reads.name: pooled})[0][0]
        return Maps.on_grid(
            descriptors[0], scores[0], whole, self._heads.stride, self._heads.offset
        )
