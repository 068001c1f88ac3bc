import numpy as np
import pytest

from index.storage.product_quantizer import CODE_BYTES, MIN_TRAINING_VECTORS, ProductQuantizer


def vectors(seed: int, count: int, dim: int = 112) -> np.ndarray:
    """Unit vectors that vary more in some directions than in others, as descriptors do."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(99).normal(size=(dim, dim)))[0]
    vectors_out = (rng.normal(size=(count, dim)) / np.arange(3, dim + 3) ** 0.5) @ turn
    return (vectors_out / np.linalg.norm(vectors_out, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def quantizer() -> ProductQuantizer:
    return ProductQuantizer.train(vectors(0, MIN_TRAINING_VECTORS))


def test_a_code_takes_few_bytes_and_keeps_the_direction(quantizer):
    new = vectors(1, 500)
    codes = quantizer.encode(new)
    assert codes.dtype == np.uint8 and codes.shape == (500, CODE_BYTES)
    back = quantizer.reconstruct(codes)
    assert back.dtype == np.float32 and back.shape == new.shape
    cosines = (back * new).sum(axis=1)
    assert cosines.mean() > 0.7
    # Far from what another vector would give.
    assert np.quantile(cosines, 0.01) > np.quantile(back @ vectors(2, 500).T, 0.999)


def test_what_is_decoded_and_projected_has_unit_length(quantizer):
    new = vectors(1, 50)
    for vectors_out in (quantizer.project(new), quantizer.decode(quantizer.encode(new))):
        assert vectors_out.dtype == np.float32 and vectors_out.shape == (
            50,
            quantizer.rotation.shape[1],
        )
        np.testing.assert_allclose(np.linalg.norm(vectors_out, axis=1), 1, atol=1e-5)


def test_the_nearest_neighbour_is_found_among_codes(quantizer):
    stored, rng = vectors(1, 500), np.random.default_rng(0)
    noisy = stored + rng.normal(0, 0.5 / np.sqrt(112), stored.shape)
    noisy = (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)
    vectors_out = quantizer.project(noisy) @ quantizer.decode(quantizer.encode(stored)).T
    assert (vectors_out.argmax(axis=1) == np.arange(500)).mean() > 0.95


def test_the_same_sample_gives_the_same_codes(quantizer):
    second = ProductQuantizer.train(vectors(0, MIN_TRAINING_VECTORS))
    assert second.is_same(quantizer) and quantizer.is_same(quantizer)
    assert not ProductQuantizer.train(vectors(5, MIN_TRAINING_VECTORS)).is_same(quantizer)


@pytest.mark.parametrize("dim", [1, 6, 40, 128])
def test_descriptors_may_have_any_width(dim):
    quantizer = ProductQuantizer.train(vectors(0, MIN_TRAINING_VECTORS, dim))
    codes = quantizer.encode(vectors(1, 20, dim))
    assert codes.shape == (20, min(dim, CODE_BYTES))
    assert quantizer.reconstruct(codes).shape == (20, dim)


def test_no_features_stay_no_features(quantizer):
    none = np.zeros((0, 112), np.float32)
    codes = quantizer.encode(none)
    assert codes.shape == (0, CODE_BYTES)
    assert quantizer.reconstruct(codes).shape == (0, 112)
    assert quantizer.project(none).shape == quantizer.decode(codes).shape


def test_alike_descriptors_can_be_learnt_from():
    sample = np.tile(vectors(0, 1), (MIN_TRAINING_VECTORS, 1))
    quantizer = ProductQuantizer.train(sample)
    np.testing.assert_allclose(
        quantizer.reconstruct(quantizer.encode(sample[:3])), sample[:3], atol=1e-2
    )
