"""Extraction with DELG on ResNet-50: seven scales for local features, three for the global one.

The weights are random, as the time does not depend on them. The reference implementation runs the
complete network at every scale, in TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delg.images.pyramid import level
from delg.network.tensorflow_import import load_tensorflow
from delg.zoo.registry import ModelFiles, find_model, load_model
from eval.speed.harness import Bench, Result, stage

_MODEL = "delg-r50"
_SIZE, _QUICK_SIZE = (768, 1024), (192, 256)
_RUNS = 3


def _with_random_weights(folder: Path) -> ModelFiles:
    """The published architecture; batch norms get variances like those of trained ones."""
    load_tensorflow()
    import keras

    from delg.network.delg_model import Delg
    from delg.network.weights import named_variables, save_weights
    from delg.zoo.network_file import write_network

    keras.utils.set_random_seed(0)
    model = Delg(find_model(_MODEL).settings)
    rng = np.random.default_rng(0)
    for name, variable in named_variables(model):
        if name.endswith("/moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    path = folder / "weights.h5"
    save_weights(model, path, "float32")
    # Beside the weights, as an export would otherwise stay in the user's cache.
    write_network(folder, model, ())
    return find_model(_MODEL, path)


def _reference(files: ModelFiles, pixels: NDArray[np.uint8]) -> Callable[[], object]:
    """The complete network in TensorFlow, at all scales."""
    import tensorflow as tf

    from delg.network.delg_model import Delg
    from delg.network.weights import load_weights, read_weights

    model, spec = Delg(files.settings), files.settings.extraction
    load_weights(model, read_weights(files.weights), str(files.weights))
    network = tf.function(
        model.call, input_signature=[tf.TensorSpec([1, None, None, 3], tf.uint8)], autograph=False
    )
    side = float(min(spec.longest_side, max(pixels.shape[:2])))

    def run() -> list[dict[str, NDArray[np.float32]]]:
        images = [level(pixels, scale, side).pixels[None] for scale in sorted(spec.scales)]
        return [{name: x.numpy() for name, x in network(image).items()} for image in images]

    return run


@stage("extract_r50")
def extract_r50(bench: Bench) -> Iterator[Result]:
    """One photo of 1024×768 (with --quick: 256×192)."""
    files = _with_random_weights(bench.folder)
    height, width = _QUICK_SIZE if bench.quick else _SIZE
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    extractor = load_model(_MODEL, files.weights)
    yield bench.time(
        "extract_r50",
        partial(extractor.extract, pixels),
        _reference(files, pixels) if bench.baseline else None,
        runs=min(bench.runs, _RUNS),
        note=f"{width}×{height}, 7 local + 3 global scales; the baseline: TensorFlow, all at 7",
    )
