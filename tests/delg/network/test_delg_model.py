from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from delg.errors import ModelError
from delg.network.delg_model import Delg

IMAGE = np.random.default_rng(0).integers(0, 256, (1, 96, 64, 3)).astype(np.uint8)


Maker = Callable[..., Delg]


@pytest.fixture(scope="module")
def small(make_small: Maker) -> Delg:
    return make_small()


@pytest.fixture(scope="module")
def resnet50(make_model: Maker) -> Delg:
    return make_model()


def parameters(model: Delg) -> int:
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def test_published_resnet50_has_as_many_parameters_as_the_original(resnet50: Delg) -> None:
    assert parameters(resnet50) == 28_520_577


def test_published_resnet50_shapes(resnet50: Delg) -> None:
    outputs = {name: value.shape for name, value in resnet50(IMAGE).items()}
    assert outputs == {
        "global_descriptor": (1, 2048),
        "local_descriptors": (1, 6, 4, 128),
        "attention": (1, 6, 4),
        "mid_level": (1, 6, 4, 1024),
    }


def test_block3_strides_shapes(make_model: Maker) -> None:
    model = make_model(block3_strides=True)
    outputs = {name: value.shape for name, value in model(IMAGE).items()}
    assert outputs == {
        "global_descriptor": (1, 2048),
        "local_descriptors": (1, 3, 2, 128),
        "attention": (1, 3, 2),
        "mid_level": (1, 3, 2, 1024),
    }
    assert model.stride == 32
    assert parameters(model) == 28_520_577


def test_resnet101_has_23_blocks_in_conv4(make_model: Maker) -> None:
    model = make_model(backbone="resnet101")
    names = {layer.name for layer in model.shallow.layers}
    assert "conv4_block23_out" in names
    assert "conv4_block24_out" not in names
    assert model.shallow.output_shape[-1] == 1024
    assert model.deep.output_shape[-1] == 2048


def test_descriptors_are_of_unit_length_and_attention_positive(small: Delg) -> None:
    outputs = small(np.concatenate([IMAGE, IMAGE[:, ::-1]]))
    for name in ("global_descriptor", "local_descriptors"):
        np.testing.assert_allclose(np.linalg.norm(outputs[name], axis=-1), 1, rtol=1e-5)
    assert np.asarray(outputs["attention"]).min() > 0
    assert outputs["global_descriptor"].shape == (2, 16)
    assert outputs["local_descriptors"].shape == (2, 6, 4, 8)


def test_images_of_a_batch_do_not_mix(small: Delg) -> None:
    other = IMAGE[:, ::-1, ::-1]
    both, alone = small(np.concatenate([other, IMAGE])), small(IMAGE)
    for name, value in alone.items():
        np.testing.assert_allclose(both[name][1:], value, rtol=1e-3, atol=1e-4)


def gradients(model: Delg, name: str, variables: list[object]) -> list[object]:
    with tf.GradientTape() as tape:
        # Not the plain sum: the length of a unit vector has no slope.
        loss = tf.reduce_sum(model(IMAGE, training=True)[name][..., :3] ** 3)
    return tape.gradient(loss, variables)


@pytest.mark.parametrize(
    ("name", "own"), [("local_descriptors", "autoencoder"), ("attention", "attention")]
)
def test_local_losses_leave_the_backbone_alone(small: Delg, name: str, own: str) -> None:
    for part in (small.shallow, small.deep):
        assert all(slope is None for slope in gradients(small, name, part.trainable_variables))
    head = getattr(small, own)
    variables = (head.encoder if own == "autoencoder" else head).trainable_variables
    assert all(slope is not None for slope in gradients(small, name, variables))
    assert any(np.abs(slope).max() > 0 for slope in gradients(small, name, variables))


def test_the_global_loss_teaches_the_whole_backbone(small: Delg) -> None:
    for part in (small.shallow, small.deep, small.whitening, small.pooling):
        slopes = gradients(small, "global_descriptor", part.trainable_variables)
        assert slopes
        assert all(slope is not None for slope in slopes)
        assert any(np.abs(slope).max() > 0 for slope in slopes)


def test_the_global_loss_leaves_the_local_heads_alone(small: Delg) -> None:
    for head in (small.autoencoder, small.attention):
        slopes = gradients(small, "global_descriptor", head.trainable_variables)
        assert all(slope is None for slope in slopes)


def test_pixels_are_scaled_channel_by_channel(make_model: Maker) -> None:
    model = make_model(
        backbone="lite_short",
        input={"mean": [10, 20, 30], "std": [1, 2, 4], "channel_order": "bgr"},
        global_head={"dim": 2},
        local_head={"dim": 2, "attention": "norm"},
    )
    pixel = np.array([50, 24, 14], np.uint8).reshape(1, 1, 1, 3)
    # Blue first: (14, 24, 50).
    assert np.ravel(model.scale_pixels(pixel)).tolist() == [4, 2, 5]


def test_published_scaling_is_minus_one_to_one(resnet50: Delg) -> None:
    pixels = np.array([0, 128, 255], np.uint8).reshape(1, 1, 1, 3)
    assert np.ravel(resnet50.scale_pixels(pixels)).tolist() == [-1, 0, 127 / 128]


def test_norm_attention_needs_no_weights_and_is_the_norm_of_the_middle(make_model: Maker) -> None:
    model = make_model(
        backbone="lite_short",
        global_head={"dim": 2},
        local_head={"dim": 2, "attention": "norm"},
    )
    outputs = model(IMAGE)
    expected = np.linalg.norm(outputs["mid_level"], axis=-1)
    np.testing.assert_allclose(outputs["attention"], expected, rtol=1e-5)
    assert not model.attention.weights


def test_an_unknown_backbone_is_an_error_that_names_it(make_model: Maker) -> None:
    with pytest.raises(ModelError, match="vgg16"):
        make_model(backbone="vgg16")
