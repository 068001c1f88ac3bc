from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from delg.errors import ModelError
from delg.network.backbones import BACKBONES, Backbone, build_backbone
from delg.network.backbones.lite_stages import scaled_channels, stages

# Width of the receptive field of ResNet-50's conv4_x (Noh et al., arXiv 1612.06321).
RESNET50_FIELD = 291


@pytest.fixture(scope="module")
def resnet50() -> Backbone:
    return build_backbone("resnet50")


@pytest.fixture(scope="module")
def resnet50_block3() -> Backbone:
    return build_backbone("resnet50", block3_strides=True)


@pytest.fixture(scope="module")
def lite0() -> Backbone:
    return build_backbone("efficientnet_lite0")


def open_all_paths(model: keras.Model, axis: str) -> None:
    """Weights under which every input pixel that can reach a cell does, and positively so.

    Of 3×3 and 5×5 kernels only the outermost taps along the axis are kept, so that the rim of the
    receptive field stands out of the rounding of floats.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights([gamma * 0 + 1, beta * 0, mean * 0, variance * 0 + 1])
        elif layer.weights:
            kernel = np.ones(layer.kernel.shape, np.float32)
            if kernel.shape[0] in (3, 5):
                (kernel[:, 1:-1] if axis == "x" else kernel[1:-1])[:] = 0
            if not isinstance(layer, keras.layers.DepthwiseConv2D):
                kernel /= kernel.shape[2]
            layer.set_weights([kernel] + [bias * 0 for bias in layer.get_weights()[1:]])


@pytest.mark.parametrize("axis", ["x", "y"])
def test_lite_cells_describe_their_middle_not_the_theoretical_centre(
    lite0: Backbone, axis: str
) -> None:
    """Padding puts the theoretical centre at 15; trained weights look at the middle, 7.5."""
    assert lite0.offset == (lite0.stride - 1) / 2
    open_all_paths(lite0.shallow, axis)
    length, across = 1024, 32
    shape = (1, across, length, 3) if axis == "x" else (1, length, across, 3)
    for cell in (26, 31, 37):
        image = tf.Variable(
            tf.fill(shape, 1e-20)
        )  # However it grows, it stays below the 6 of ReLU6.
        with tf.GradientTape() as tape:
            maps = lite0.shallow(image, training=False)
            visited = maps[0, 0, cell, 0] if axis == "x" else maps[0, cell, 0, 0]
        slope = np.abs(tape.gradient(visited, image).numpy()[0]).sum(
            axis=(0 if axis == "x" else 1, 2)
        )
        reached = np.flatnonzero(slope > slope.max() * 1e-7)
        assert reached[0] > 0 and reached[-1] < length - 1, "the border would hide the answer"
        assert (reached[0] + reached[-1]) / 2 == 15 + lite0.stride * cell


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("variant", ["resnet50", "resnet50_block3"])
def test_resnet_cells_are_centred_on_their_receptive_fields(
    variant: str, axis: str, request: pytest.FixtureRequest
) -> None:
    backbone: Backbone = request.getfixturevalue(variant)
    saved = backbone.shallow.get_weights()
    open_all_paths(backbone.shallow, axis)
    assert backbone.stride == (32 if variant == "resnet50_block3" else 16)
    cell = 10 if variant == "resnet50_block3" else 20
    centre, half = cell * backbone.stride + int(backbone.offset), RESNET50_FIELD // 2
    # One bright pixel an image: on both rims of the cell's field, and just outside of them.
    places = [centre - half, centre + half, centre - half - 1, centre + half + 1]
    images = np.zeros((4, 32, 704, 3), np.float32)
    for image, place in zip(images, places, strict=True):
        image[0, place] = 1
    if axis == "y":
        images = images.transpose(0, 2, 1, 3)
    maps = np.asarray(backbone.shallow(images, training=False))
    lines = maps[:, 0, :, 0] if axis == "x" else maps[:, :, 0, 0]
    reached = lines[:, cell] > lines.max(axis=1) * 1e-7
    backbone.shallow.set_weights(saved)
    assert reached.tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("name", "block3_strides", "stride", "channels"),
    [
        ("efficientnet_lite0", False, 16, (112, 1280)),
        ("efficientnet_lite2", False, 16, (120, 1280)),
        ("resnet50", False, 16, (1024, 2048)),
        ("resnet50", True, 32, (1024, 2048)),
    ],
)
def test_strides_and_channels_of_both_maps(
    name: str, block3_strides: bool, stride: int, channels: tuple[int, int]
) -> None:
    backbone = build_backbone(name, block3_strides)
    mid = backbone.shallow(np.zeros((1, 64, 96, 3), np.float32))
    assert mid.shape == (1, 64 // stride, 96 // stride, channels[0])
    assert backbone.deep(mid).shape == (1, 2, 3, channels[1])
    assert backbone.stride == stride


def test_resnet_gives_the_outputs_of_keras_resnet50(resnet50: Backbone) -> None:
    theirs = keras.applications.ResNet50(include_top=False, weights=None)
    rng = np.random.default_rng(5)
    for layer in theirs.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            scale, shift = rng.uniform(0.5, 1, shape), rng.normal(0, 0.1, shape)
            mean, variance = rng.normal(0, 0.1, shape), rng.uniform(0.5, 1.5, shape)
            layer.set_weights([scale, shift, mean, variance])
    copied = set()
    for part in (resnet50.shallow, resnet50.deep):
        for layer in part.layers:
            if layer.weights:
                layer.set_weights(theirs.get_layer(layer.name).get_weights())
                copied.add(layer.name)
    assert copied == {layer.name for layer in theirs.layers if layer.weights}
    both = keras.Model(theirs.input, [theirs.get_layer("conv4_block6_out").output, theirs.output])
    image = rng.normal(0, 1, (1, 96, 64, 3)).astype(np.float32)
    expected_mid, expected_deep = (np.asarray(x) for x in both(image, training=False))
    mid = resnet50.shallow(image, training=False)
    deep = resnet50.deep(mid, training=False)
    np.testing.assert_allclose(mid, expected_mid, rtol=1e-4, atol=1e-4 * expected_mid.std())
    np.testing.assert_allclose(deep, expected_deep, rtol=1e-4, atol=1e-4 * expected_deep.std())


def test_block3_strides_halves_conv4_and_keeps_the_size_of_conv5(
    resnet50: Backbone, resnet50_block3: Backbone
) -> None:
    for ours, plain in (
        (resnet50_block3.shallow, resnet50.shallow),
        (resnet50_block3.deep, resnet50.deep),
    ):
        ours.set_weights(plain.get_weights())
    image = np.random.default_rng(6).normal(0, 1, (1, 96, 128, 3)).astype(np.float32)
    mid = np.asarray(resnet50_block3.shallow(image))
    np.testing.assert_allclose(mid, np.asarray(resnet50.shallow(image))[:, ::2, ::2], rtol=1e-5)
    assert resnet50_block3.deep(mid).shape == (1, 3, 4, 2048)


@pytest.mark.parametrize(("variant", "blocks"), [(0, 16), (1, 21), (2, 21)])
def test_number_of_lite_blocks(variant: int, blocks: int) -> None:
    # Counted in the published checkpoints.
    assert sum(len(stage) for stage in stages(variant)) == blocks


def test_channels_are_rounded_to_eights_but_not_down_by_a_tenth() -> None:
    assert [scaled_channels(c, 1.1) for c in (16, 24, 40, 80, 112, 192, 320)] == [
        16, 24, 48, 88, 120, 208, 352,
    ]  # fmt: skip
    assert scaled_channels(10, 1.0) == 16
    assert scaled_channels(24, 1.0) == 24


def test_an_unknown_backbone_is_told_what_there_is() -> None:
    with pytest.raises(ModelError, match=r"'resnet51'.*efficientnet_lite0.*resnet101"):
        build_backbone("resnet51")
    assert "resnet101" in BACKBONES


def test_block3_strides_is_refused_where_it_does_not_exist() -> None:
    with pytest.raises(ModelError, match="block3_strides"):
        build_backbone("efficientnet_lite0", block3_strides=True)
