"""Extraction with DELG on ResNet-50: seven scales for local features, three for the global one.

The weights are random; how long it takes does not depend on them. The published way runs the whole
network at every scale, in TensorFlow as Keras builds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delg.errors import DelgError
from delg.extraction.extractor import Extractor
from delg.images.pyramid import level
from delg.network.tensorflow_import import load_tensorflow
from delg.zoo.registry import ModelFiles, find_model, load_model
from eval.speed.harness import Bench, Result, Row, stage

_MODEL = "delg-r50"
_SIZE, _QUICK_SIZE = (768, 1024), (192, 256)
_RUNS = 3
# What counts as the same: deviations of unit vectors, and of scores beside the largest.
_SAME = 1e-3


def _with_random_weights(folder: Path) -> ModelFiles:
    """The published architecture; batch norms get the look of trained ones."""
    load_tensorflow()
    import keras

    from delg.network.delg_model import Delg
    from delg.network.weights import named_variables, save_weights

    keras.utils.set_random_seed(0)
    model = Delg(find_model(_MODEL).settings)
    rng = np.random.default_rng(0)
    for name, variable in named_variables(model):
        if name.endswith("/moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    path = folder / "weights.h5"
    save_weights(model, path, "float32")
    return find_model(_MODEL, path)


def _published(
    files: ModelFiles, pixels: NDArray[np.uint8]
) -> Callable[[], list[dict[str, np.ndarray]]]:
    """The whole network at all scales."""
    import tensorflow as tf

    from delg.network.delg_model import Delg
    from delg.network.weights import load_weights, read_weights

    model, spec = Delg(files.settings), files.settings.extraction
    load_weights(model, read_weights(files.weights), str(files.weights))
    whole = tf.function(
        model.call, input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)], autograph=False
    )
    side = float(min(spec.longest_side, max(pixels.shape[:2])))

    def run() -> list[dict[str, np.ndarray]]:
        levels = [level(pixels, scale, side).pixels for scale in sorted(spec.scales)]
        return [{name: x.numpy() for name, x in whole(one[None]).items()} for one in levels]

    return run


def _deviation(
    ours: Extractor, pixels: NDArray[np.uint8], theirs: list[dict[str, np.ndarray]]
) -> float:
    """The largest between our maps and the published ones, over all scales."""
    spec, largest = ours.settings.extraction, 0.0
    side = float(min(spec.longest_side, max(pixels.shape[:2])))
    for scale, found in zip(sorted(spec.scales), theirs, strict=True):
        output = ours.backend.run(
            level(pixels, scale, side).pixels, with_global=scale in spec.global_scales
        )
        descriptors = found["local_descriptors"].reshape(output.descriptors.shape)
        scores = found["attention"].reshape(-1)
        parts = [
            np.abs(output.descriptors - descriptors).max(),
            np.abs(output.scores - scores).max() / scores.max(),
        ]
        if output.global_descriptor is not None:
            parts.append(np.abs(output.global_descriptor - found["global_descriptor"][0]).max())
        largest = max(largest, *map(float, parts))
    return largest


@stage("extract_r50", "extract_r50_deviation")
def r50(bench: Bench) -> Iterator[Result]:
    """One photo of 1024×768 (a quick run: 256×192)."""
    files = _with_random_weights(bench.folder)
    height, width = _QUICK_SIZE if bench.quick else _SIZE
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    ours = load_model(_MODEL, files.weights)
    theirs = _published(files, pixels)
    # Once for each size, as a first run plans its convolutions.
    outputs = theirs()
    ours.extract(pixels)
    yield bench.time(
        "extract_r50",
        partial(ours.extract, pixels),
        theirs,
        runs=min(bench.runs, _RUNS),
        note=f"{width}×{height}, 7 local + 3 global scales; the baseline: all of it at 7 scales",
    )
    deviation = _deviation(ours, pixels, outputs)
    if not deviation <= _SAME:
        raise DelgError(f"extract_r50: outputs deviate by {deviation:.2g}, not {_SAME:g}")
    yield Row.of(
        "extract_r50_deviation", [1e6 * deviation], "ppm", note="at most, from the baseline's"
    )
