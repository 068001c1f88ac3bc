from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from delg.network.heads import Attention, Autoencoder, GeM, NormAttention, Whitening, l2_normalize


def maps_of(*channels: list[list[float]]) -> np.ndarray:
    """One image's maps (1, H, W, C), given channel by channel."""
    return np.stack(channels, axis=-1).astype(np.float32)[None]


def test_l2_normalize_by_hand_and_at_zero() -> None:
    result = np.asarray(l2_normalize(np.array([[3, 4], [0, 0], [0, -2]], np.float32)))
    np.testing.assert_allclose(result, [[0.6, 0.8], [0, 0], [0, -1]], rtol=1e-6)


def test_gem_with_p_1_is_the_mean() -> None:
    maps = maps_of([[1, 2], [3, 4]], [[0.5, 0.5], [0.5, 8.5]])
    np.testing.assert_allclose(GeM(p=1)(maps), [[2.5, 2.5]], rtol=1e-6)


def test_gem_with_large_p_is_the_maximum() -> None:
    maps = maps_of([[0.1, 0.2], [0.3, 0.9]], [[0.7, 0.1], [0.2, 0.3]])
    np.testing.assert_allclose(GeM(p=200)(maps), [[0.9, 0.7]], rtol=0.01)


def test_gem_with_p_3_by_hand() -> None:
    # (1 + 8 + 27 + 64) / 4 = 25; (0 + 0 + 0 + 8) / 4 = 2
    maps = maps_of([[1, 2], [3, 4]], [[0, 0], [0, 2]])
    np.testing.assert_allclose(GeM(p=3)(maps), [[25 ** (1 / 3), 2 ** (1 / 3)]], rtol=1e-5)


def test_gem_takes_negative_activations_as_epsilon() -> None:
    maps = maps_of([[-5, -1], [0, -3]])
    np.testing.assert_allclose(GeM(p=3, epsilon=1e-3)(maps), [[1e-3]], rtol=1e-4)
    np.testing.assert_allclose(GeM(p=3)(maps), [[1e-6]], rtol=1e-3)


def test_gem_pools_each_image_by_itself_whatever_its_shape() -> None:
    maps = np.random.default_rng(0).uniform(0, 5, (2, 3, 7, 4)).astype(np.float32)
    result = np.asarray(GeM()(maps))
    for image in range(2):
        expected = (maps[image].astype(float) ** 3).mean(axis=(0, 1)) ** (1 / 3)
        np.testing.assert_allclose(result[image], expected, rtol=1e-5)


@pytest.mark.parametrize("trainable", [True, False])
def test_p_is_learnt_only_when_asked(trainable: bool) -> None:
    layer = GeM(p=3, p_trainable=trainable)
    maps = tf.constant(maps_of([[1, 2], [3, 0]]))
    layer(maps)
    assert len(layer.trainable_variables) == trainable
    assert len(layer.weights) == 1
    with tf.GradientTape() as tape:
        tape.watch(maps)
        value = tf.reduce_sum(layer(maps))
    slopes = tape.gradient(value, [maps, *layer.trainable_variables])
    assert all(np.isfinite(slope).all() for slope in slopes)
    if trainable:
        assert slopes[1] > 0, "a larger p lies nearer to the maximum"


def test_whitening_by_hand() -> None:
    layer = Whitening(2)
    layer.build((None, 3))
    # (1, 2, 2) -> (1 + 4 + 1, 2 + 2 + 4) = (6, 8)
    layer.projection.set_weights([np.array([[1, 2], [2, 1], [0, 0]]), np.array([1, 4])])
    np.testing.assert_allclose(layer(np.array([[1, 2, 2.0]], np.float32)), [[0.6, 0.8]], rtol=1e-6)


def test_whitening_can_take_the_input_at_unit_length() -> None:
    for normalize, expected in ((True, [1.0, 0.0]), (False, [3.4 / 4.669047, 3.2 / 4.669047])):
        layer = Whitening(2, normalize_input=normalize)
        layer.build((None, 2))
        # (3, 4) / 5 + (0.4, -0.8) = (1, 0); (3, 4) + (0.4, -0.8) = (3.4, 3.2)
        layer.projection.set_weights([np.eye(2), np.array([0.4, -0.8])])
        result = layer(np.array([[3, 4]], np.float32))
        np.testing.assert_allclose(result, [expected], atol=1e-6)


@pytest.mark.parametrize("normalize", [True, False])
def test_whitening_of_a_zero_vector_stays_finite(normalize: bool) -> None:
    layer = Whitening(3, normalize_input=normalize)
    layer.build((None, 4))
    layer.projection.set_weights([np.ones((4, 3)), np.zeros(3)])
    assert (np.asarray(layer(np.zeros((1, 4), np.float32))) == 0).all()


@pytest.mark.parametrize(("activation", "expected"), [("relu", [0, 3]), ("linear", [-4.5, 3])])
def test_autoencoder_by_hand(activation: str, expected: list[float]) -> None:
    layer = Autoencoder(1, activation)
    layer.build((None, None, None, 2))
    # code = 2·1 − 1·(−3) − 0.5 = 4.5; back = (−1·4.5 + 0, 0.5·4.5 + 0.75)
    layer.encoder.set_weights([np.array([2.0, -1]).reshape(1, 1, 2, 1), np.array([-0.5])])
    layer.decoder.set_weights([np.array([-1, 0.5]).reshape(1, 1, 1, 2), np.array([0, 0.75])])
    maps = np.array([1, -3], np.float32).reshape(1, 1, 1, 2)
    codes, back = layer(maps)
    np.testing.assert_allclose(np.ravel(codes), [4.5])
    np.testing.assert_allclose(np.ravel(back), expected)
    np.testing.assert_allclose(np.ravel(layer.encode(maps)), [4.5])


def test_codes_are_linear_and_may_be_negative() -> None:
    layer = Autoencoder(1)
    layer.build((None, None, None, 1))
    layer.encoder.set_weights([np.full((1, 1, 1, 1), -2.0), np.zeros(1)])
    assert np.ravel(layer.encode(np.full((1, 1, 1, 1), 3, np.float32))) == [-6]


def test_attention_by_hand() -> None:
    layer = Attention(hidden=2)
    layer.build((None, None, None, 2))
    layer.hidden.set_weights([np.eye(2).reshape(1, 1, 2, 2), np.array([0, 1])])
    epsilon = layer.norm.epsilon
    layer.norm.set_weights(
        [np.array([2, 1]), np.array([0.5, 0]), np.array([1, 0]), np.array([4, 1]) - epsilon]
    )
    layer.score.set_weights([np.array([1, 3]).reshape(1, 1, 2, 1), np.array([0.25])])
    # (5, −3): hidden (5, −2); normed (2·(5 − 1)/2 + 0.5, −2) = (4.5, −2); ReLU (4.5, 0);
    # score 4.75; softplus ln(1 + e^4.75)
    result = layer(np.array([5, -3], np.float32).reshape(1, 1, 1, 2))
    assert result.shape == (1, 1, 1, 1)
    np.testing.assert_allclose(np.ravel(result), [np.log1p(np.exp(4.75))], rtol=1e-5)


def test_attention_is_positive_and_learns_statistics_only_in_training() -> None:
    layer = Attention(hidden=8)
    maps = np.random.default_rng(1).normal(2, 3, (2, 5, 4, 6)).astype(np.float32)
    assert np.asarray(layer(maps)).min() > 0
    before = [np.asarray(w) for w in layer.norm.non_trainable_variables]
    layer(maps, training=False)
    same = [np.asarray(w) for w in layer.norm.non_trainable_variables]
    assert all((a == b).all() for a, b in zip(before, same, strict=True))
    layer(maps, training=True)
    after = [np.asarray(w) for w in layer.norm.non_trainable_variables]
    assert any((a != b).any() for a, b in zip(before, after, strict=True))


def test_norm_attention_is_the_length_of_the_feature() -> None:
    maps = maps_of([[3, 0], [1, -6]], [[4, 0], [2, 8]], [[0, 0], [2, 0]])
    result = NormAttention()(maps)
    np.testing.assert_allclose(result, [[[[5], [0]], [[3], [10]]]], rtol=1e-6)
    assert not NormAttention().weights


@pytest.mark.parametrize(
    "layer",
    [
        GeM(p=2.5, p_trainable=True, epsilon=1e-4),
        Whitening(7, normalize_input=True),
        Autoencoder(5, "linear"),
        Attention(hidden=9),
        NormAttention(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_are_rebuilt_from_their_configuration(layer: keras.layers.Layer) -> None:
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
    for item in (layer, again):
        item.build((None, 4) if isinstance(item, Whitening) else (None, 2, 2, 4))
    assert [w.shape for w in again.weights] == [w.shape for w in layer.weights]
    assert len(again.trainable_variables) == len(layer.trainable_variables)
