"""Convolutions in fixed point against float64, and networks that run so against TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from delg.errors import ModelError
from delg.inference.layers import Convolution, InvertedResidual, Weights
from delg.inference.select import load_network
from delg.inference.tensorflow_network import TensorFlowNetwork
from delg.network.delg_model import Delg
from delg.network.weights import named_variables
from delg.settings import InputSettings

point = pytest.importorskip("delg.inference.fixed_point")
layers = pytest.importorskip("delg.inference.fixed_layers")
if not point.supported():
    pytest.skip("this processor has no AVX-512 VNNI", allow_module_level=True)

PIXELS = np.random.default_rng(1).integers(0, 256, (96, 160, 3)).astype(np.uint8)
ARCHITECTURES = {
    "as published": {"backbone": "resnet50", "global_head": {"dim": 16}},
    "pooled, in blue, green and red": {
        "backbone": "resnet50",
        "block3_strides": True,
        "global_head": {"dim": 16},
        "input": {"mean": [100, 120, 140], "std": [50, 60, 70], "channel_order": "bgr"},
    },
    "inverted residuals, in blue, green and red": {
        "backbone": "efficientnet_lite0",
        "global_head": {"dim": 16, "gem_p": 2.5},
        "local_head": {"dim": 8, "attention_hidden": 12},
        "input": {"mean": [100, 120, 140], "std": [50, 60, 70], "channel_order": "bgr"},
    },
    "wider and deeper": {
        "backbone": "efficientnet_lite2",
        "global_head": {"dim": 16, "normalize_pooled": True},
        "local_head": {"dim": 8, "attention": "norm"},
    },
}


def at_once(loop: Callable[..., None], arguments: tuple, count: int, grain: int = 1, /) -> None:
    loop(*arguments, 0, count)


def in_three(loop: Callable[..., None], arguments: tuple, count: int, grain: int = 1, /) -> None:
    for first, last in pairwise([0, count // 3, count // 2, count]):
        loop(*arguments, first, last)


def float_map(values: NDArray[np.float32]) -> point.FixedMap:
    """Float32 (h, w, channels) in fixed point, with channels of 0 up to whole registers."""
    height, width, channels = values.shape
    values = np.pad(values, ((0, 0), (0, 0), (0, -channels % 16)))
    made = point.FixedMap(height, width, values.shape[2])
    for y in range(height):
        start = made.margin + y * made.step
        largest = np.abs(values[y]).max(axis=1).clip(1e-20)
        made.pixels[start : start + width] = np.rint(values[y] / largest[:, None] * point.LARGEST)
        made.scales[start : start + width] = largest / point.LARGEST
        made.scales[start + width] = 0
    return made


def numbers(x: point.FixedMap, channels: int) -> NDArray[np.float32]:
    return layers.floats_of(x, channels, at_once)


def convolved(values: NDArray, kernel: NDArray, bias: NDArray) -> NDArray[np.float64]:
    """In float64; ``kernel`` is (height, width, in, out)."""
    reach = len(kernel) // 2
    height, width = values.shape[:2]
    padded = np.pad(values.astype(np.float64), ((reach, reach), (reach, reach), (0, 0)))
    total = np.zeros((height, width, kernel.shape[3])) + bias
    for dy, row in enumerate(kernel):
        for dx, weights in enumerate(row):
            total += padded[dy : dy + height, dx : dx + width] @ weights
    return total


def depthwise(
    values: NDArray, kernel: NDArray, bias: NDArray, stride: int, before: int
) -> NDArray[np.float64]:
    """In float64; ``kernel`` is (size, size, channels)."""
    size, (height, width) = len(kernel), (side // stride for side in values.shape[:2])
    around = (before, size - before)
    padded = np.pad(values, (around, around, (0, 0)))
    total = np.zeros((height, width, values.shape[2])) + bias
    for dy, row in enumerate(kernel):
        for dx, weights in enumerate(row):
            seen = padded[dy : dy + stride * height : stride, dx : dx + stride * width : stride]
            total += seen * weights
    return total


def written(
    channels: tuple[int, int], size: int, rng: np.random.Generator, name: str = "one"
) -> dict:
    """Weights that leave numbers about as large as they are."""
    kernel = rng.normal(size=(size, size, *channels)) / (size * np.sqrt(channels[0]))
    return {
        f"{name}/kernel": kernel.astype(np.float32),
        f"{name}/bias": rng.normal(size=channels[1]).astype(np.float32),
    }


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 70),
    st.sampled_from([24, 64, 112, 128]),
    st.sampled_from([1, 16, 40, 64, 80, 144]),
    st.sampled_from([1, 3]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_a_convolution_is_off_by_a_thousandth_at_most(
    height: int,
    width: int,
    inputs: int,
    outputs: int,
    size: int,
    relu: bool,
    positive: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(height, width, inputs)).astype(np.float32)
    values *= rng.uniform(0.001, 100, (height, width, 1)).astype(np.float32)
    weights = written((inputs, outputs), size, rng)
    values = np.abs(values) if positive else values
    network = layers.FixedLayers(Weights(weights, "w"), InputSettings(), positive)
    made = network.conv(0, Convolution("one", (inputs, outputs), size, bias=True))
    network.keep(network.relu(made) if relu else made)
    x = float_map(values)
    expected = convolved(values, weights["one/kernel"], weights["one/bias"])
    if relu:
        expected = expected.clip(0)
    (found,) = network.run(x, at_once)
    off = np.abs(numbers(found, outputs) - expected).max(axis=2)
    around = np.pad(np.abs(values).max(axis=2), 1, "edge")
    near = np.max([around[y : y + height, x : x + width] for y in range(3) for x in range(3)], 0)
    # Beside what inputs around can come to.
    assert (off <= 1e-3 * (near + 1)).all()
    (parts,) = network.run(x, in_three)
    np.testing.assert_array_equal(numbers(parts, outputs), numbers(found, outputs))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 60),
    st.sampled_from([(16, 96, 16), (24, 144, 40), (48, 240, 48), (80, 480, 80), (112, 672, 112)]),
    st.sampled_from([3, 5]),
    st.sampled_from([1, 2]),
    st.integers(0, 99),
)
def test_an_inverted_residual_is_off_by_a_thousandth_at_most(
    height: int,
    width: int,
    channels: tuple[int, int, int],
    size: int,
    stride: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    inputs, wide, outputs = channels
    values = rng.normal(size=(height * stride, width * stride, inputs)).astype(np.float32)
    weights = written((inputs, wide), 1, rng, "expand")
    weights |= written((wide, 1), size, rng, "depthwise") | written((wide, outputs), 1, rng, "last")
    # Weights of a channel's own kernel are not added up over channels.
    weights["depthwise/kernel"] *= np.float32(np.sqrt(wide))
    weights["depthwise/bias"] = rng.normal(size=wide).astype(np.float32)
    spec = InvertedResidual(
        Convolution("expand", (inputs, wide), bias=True),
        Convolution("depthwise", (wide, wide), size, stride, bias=True, depthwise=True),
        Convolution("last", (wide, outputs), bias=True),
    )
    network = layers.FixedLayers(Weights(weights, "w"), InputSettings())
    network.keep(network.inverted_residual(0, spec))
    y = convolved(values, weights["expand/kernel"], weights["expand/bias"]).clip(0, 6)
    kernel = weights["depthwise/kernel"][..., 0]
    y = depthwise(y, kernel, weights["depthwise/bias"], stride, spec.depthwise.around[0]).clip(0, 6)
    y = convolved(y, weights["last/kernel"], weights["last/bias"])
    expected = y + values if spec.residual else y
    x = float_map(values)
    (found,) = network.run(x, at_once)
    np.testing.assert_allclose(numbers(found, outputs), expected, atol=1e-3 * np.abs(y).max())
    (parts,) = network.run(x, in_three)
    np.testing.assert_array_equal(numbers(parts, outputs), numbers(found, outputs))


@pytest.mark.parametrize("width", [32, 96, 736])
def test_the_stem_runs_in_the_first_block(width: int) -> None:
    rng = np.random.default_rng(width)
    weights = written((3, 32), 3, rng, "stem")
    weights |= written((32, 1), 3, rng, "depthwise") | written((32, 16), 1, rng, "last")
    weights["depthwise/bias"] = rng.normal(size=32).astype(np.float32)
    spec = InputSettings(mean=(100, 120, 140), std=(50, 60, 70), channel_order="bgr")
    network = layers.FixedLayers(Weights(weights, "w"), spec)
    stem = Convolution("stem", (3, 32), 3, 2, bias=True)
    block = InvertedResidual(
        None,
        Convolution("depthwise", (32, 32), 3, bias=True, depthwise=True),
        Convolution("last", (32, 16), bias=True),
    )
    network.keep(network.stem_and_block(0, stem, block))
    image = rng.integers(0, 256, (64, width, 3)).astype(np.uint8)
    x = (image[..., ::-1] - np.array(spec.mean)) / np.array(spec.std)
    # The stem's padding lies behind the image alone.
    x = np.pad(x, ((0, 1), (0, 1), (0, 0)))
    y = convolved(x, weights["stem/kernel"], weights["stem/bias"])[1:-1:2, 1:-1:2].clip(0, 6)
    y = depthwise(y, weights["depthwise/kernel"][..., 0], weights["depthwise/bias"], 1, 1)
    expected = convolved(y.clip(0, 6), weights["last/kernel"], weights["last/bias"])
    for run in (at_once, in_three):
        (found,) = network.run(image, run)
        np.testing.assert_allclose(numbers(found, 16), expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_products_do_not_overflow(positive: bool, sign: int) -> None:
    values = np.ones((2, 13, 64), np.float32)
    kernel = np.full((3, 3, 64, 32), sign, np.float32)
    network = layers.FixedLayers(
        Weights({"one/kernel": kernel, "one/bias": np.zeros(32, np.float32)}, "w"),
        InputSettings(),
        positive,
    )
    network.keep(network.conv(0, Convolution("one", (64, 32), 3, bias=True)))
    (found,) = network.run(float_map(values), at_once)
    expected = convolved(values, kernel, np.zeros(32))
    np.testing.assert_allclose(numbers(found, 32), expected, rtol=1e-3)


def test_a_map_that_is_added_is_only_written_on_when_nobody_wants_it_any_more() -> None:
    rng = np.random.default_rng(2)
    weights = written((64, 64), 1, rng)
    weights |= {name.replace("one", "two"): 2 * value for name, value in weights.items()}
    network = layers.FixedLayers(Weights(weights, "w"), InputSettings())
    first = network.relu(network.conv(0, Convolution("one", (64, 64), bias=True)))
    network.keep(
        first, network.add(first, network.conv(first, Convolution("two", (64, 64), bias=True)))
    )
    values = rng.normal(size=(5, 6, 64)).astype(np.float32)
    x = float_map(values)
    before = x.pixels.copy()
    own, added = (numbers(one, 64) for one in network.run(x, at_once))
    one = convolved(values, weights["one/kernel"], weights["one/bias"]).clip(0)
    np.testing.assert_allclose(own, one, atol=1e-3 * one.max())
    two = one + convolved(one, weights["two/kernel"], weights["two/bias"])
    np.testing.assert_allclose(added, two, atol=1e-3 * np.abs(two).max())
    inside = slice(x.margin, x.margin + x.count)
    np.testing.assert_array_equal(x.pixels[inside], before[inside])


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, make_model: Callable[..., Delg]) -> Delg:
    return make_model(**ARCHITECTURES[request.param])


def fixed(model: Delg, values: dict[str, np.ndarray] | None = None):
    values = values or {name: np.asarray(one.value) for name, one in named_variables(model)}
    return load_network(model.settings, values, "w.h5", "fixed-point")


def test_a_network_gives_what_tensorflow_gives(model: Delg) -> None:
    expected, network = TensorFlowNetwork(model).run(PIXELS, True), fixed(model)
    for alone in (True, False):
        found = network.run(PIXELS, True, alone)
        assert found.grid == expected.grid
        np.testing.assert_array_equal(found.centres, expected.centres)
        # Norms drawn at random amplify what is rounded, the more the fewer numbers there are.
        np.testing.assert_allclose(found.descriptors, expected.descriptors, atol=3e-3)
        assert np.abs(found.descriptors - expected.descriptors).mean() < 6e-4
        largest = expected.scores.max()
        np.testing.assert_allclose(found.scores, expected.scores, atol=3e-3 * largest)
        np.testing.assert_allclose(found.global_descriptor, expected.global_descriptor, atol=1e-3)
    again = network.run(PIXELS, False)
    assert again.global_descriptor is None
    np.testing.assert_array_equal(again.descriptors, found.descriptors)


def test_weights_are_taken_strictly(make_model: Callable[..., Delg]) -> None:
    model = make_model(backbone="resnet50", global_head={"dim": 16})
    values = {name: np.asarray(one.value) for name, one in named_variables(model)}
    missing = {name: one for name, one in values.items() if name != "conv1_conv/bias"}
    with pytest.raises(ModelError, match=r"w\.h5: .*missing.*conv1_conv/bias"):
        fixed(model, missing)
    with pytest.raises(ModelError, match=r"not wanted.*more"):
        fixed(model, values | {"more": np.zeros(1, np.float32)})


def test_where_the_processor_cannot_it_says_so(
    make_small: Callable[..., Delg], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(point, "supported", lambda: False)
    with pytest.raises(ModelError, match="takes AVX-512 VNNI"):
        fixed(make_small())
