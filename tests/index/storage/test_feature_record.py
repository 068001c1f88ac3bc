import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delg.types import LocalFeatures
from index.storage.feature_record import (
    EXTRA_BYTES,
    decode_keypoints,
    decode_records,
    encode_records,
)
from index.storage.product_quantizer import MIN_TRAINING_VECTORS, ProductQuantizer


def features(seed: int, count: int, size: tuple[int, int]) -> LocalFeatures:
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(count, 24))
    return LocalFeatures(
        rng.uniform((-0.5, -0.5), (size[0] - 0.5, size[1] - 0.5), (count, 2)).astype(np.float32),
        (descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)).astype(np.float32),
        rng.choice(np.float32([0.25, 0.3536, 0.5, 0.7071, 1, 1.4142, 2]), count),
        rng.uniform(0.01, 900, count).astype(np.float32),
    )


@pytest.fixture(scope="module")
def quantizer() -> ProductQuantizer:
    return ProductQuantizer.train(features(0, MIN_TRAINING_VECTORS, (640, 480)).descriptors)


sizes = st.tuples(st.integers(1, 12_000), st.integers(1, 12_000))


@settings(max_examples=50)
@given(st.integers(0, 1000), st.integers(0, 20), sizes)
def test_places_scales_and_scores_come_back_nearly(quantizer, seed, count, size):
    original = features(seed, count, size)
    records = encode_records(original, size, quantizer)
    assert records.dtype == np.uint8 and records.shape == (
        count,
        quantizer.code_bytes + EXTRA_BYTES,
    )
    back = decode_records(records, size, quantizer)
    assert (np.abs(back.keypoints - original.keypoints) <= np.array(size) / 8192 + 2e-3).all()
    np.testing.assert_array_equal(back.keypoints, decode_keypoints(records, size))
    np.testing.assert_allclose(back.scales, original.scales, rtol=2e-4)
    np.testing.assert_allclose(back.scores, original.scores, rtol=0.05)
    assert all(
        part.dtype == np.float32
        for part in (back.keypoints, back.descriptors, back.scales, back.scores)
    )


@settings(max_examples=50)
@given(st.integers(0, 1000), sizes)
def test_packing_again_places_everything_the_same(quantizer, seed, size):
    records = encode_records(features(seed, 20, size), size, quantizer)
    second = encode_records(decode_records(records, size, quantizer), size, quantizer)
    np.testing.assert_array_equal(second[:, -EXTRA_BYTES:], records[:, -EXTRA_BYTES:])


def test_what_lies_outside_is_put_at_the_border(quantizer):
    original = features(0, 4, (100, 50))
    far = np.float32([[-40, 20], [200, 20], [20, -3], [20, 60]])
    back = decode_records(
        encode_records(
            LocalFeatures(far, original.descriptors, original.scales, original.scores),
            (100, 50),
            quantizer,
        ),
        (100, 50),
        quantizer,
    )
    expected = np.float32([[-0.5, 20], [99.5, 20], [20, -0.5], [20, 49.5]])
    np.testing.assert_allclose(back.keypoints, expected, atol=0.02)


def test_nothing_stays_nothing(quantizer):
    original = features(0, 3, (100, 50))
    nothing = np.float32([0, -1, 0])
    records = encode_records(
        LocalFeatures(original.keypoints, original.descriptors, nothing, nothing),
        (100, 50),
        quantizer,
    )
    back = decode_records(records, (100, 50), quantizer)
    assert back.scales.tolist() == back.scores.tolist() == [0, 0, 0]
