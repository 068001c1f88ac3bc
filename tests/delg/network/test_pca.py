from __future__ import annotations

import numpy as np
import pytest

from delg.errors import DelgError
from delg.network.pca import fit_pca


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Correlated vectors (500, 12) around a mean that is not zero."""
    rng = np.random.default_rng(4)
    mixing = rng.normal(0, 1, (12, 12)) * np.geomspace(3, 0.1, 12)
    return (rng.normal(0, 1, (500, 12)) @ mixing.T + rng.normal(0, 5, 12)).astype(np.float32)


def projected(vectors: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return vectors.astype(np.float64) @ kernel + bias


@pytest.mark.parametrize("dim", [1, 5, 12])
def test_whitened_vectors_have_zero_mean_and_identity_covariance(
    vectors: np.ndarray, dim: int
) -> None:
    kernel, bias = fit_pca(vectors, dim)
    assert kernel.shape == (12, dim)
    assert bias.shape == (dim,)
    assert kernel.dtype == bias.dtype == np.float32
    result = projected(vectors, kernel, bias)
    np.testing.assert_allclose(result.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(np.atleast_2d(np.cov(result.T)), np.eye(dim), atol=1e-3)


def test_power_0_only_rotates(vectors: np.ndarray) -> None:
    kernel, bias = fit_pca(vectors, 12, power=0)
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(12), atol=1e-5)
    result = projected(vectors, kernel, bias)
    covariance = np.cov(result.T)
    variances = np.diag(covariance)
    assert (np.diff(variances) <= 0).all(), "largest variance first"
    assert np.abs(covariance - np.diag(variances)).max() < 1e-3 * variances[0]
    assert variances.sum() == pytest.approx(np.var(vectors, axis=0, ddof=1).sum(), rel=1e-4)


def test_power_a_quarter_leaves_the_root_of_the_variance(vectors: np.ndarray) -> None:
    variances = np.diag(np.cov(projected(vectors, *fit_pca(vectors, 6, power=0)).T))
    halfway = np.diag(np.cov(projected(vectors, *fit_pca(vectors, 6, power=0.25)).T))
    np.testing.assert_allclose(halfway, np.sqrt(variances), rtol=1e-3)


def test_shrinkage_pulls_the_scales_together(vectors: np.ndarray) -> None:
    spreads = []
    for shrinkage in (0, 0.3, 1):
        lengths = np.linalg.norm(fit_pca(vectors, 6, shrinkage=shrinkage)[0], axis=0)
        spreads.append(lengths.max() / lengths.min())
    assert spreads[0] > spreads[1] > spreads[2]
    assert spreads[2] == pytest.approx(1, rel=1e-4)


def test_known_axes() -> None:
    """Points on a cross: the axes are those of the plane."""
    points = np.array([[13, 20], [7, 20], [10, 21], [10, 19]], np.float32)
    kernel, bias = fit_pca(points, 2)
    # Variances 18 / 3 and 2 / 3; signs are such that the largest entry is positive.
    np.testing.assert_allclose(kernel, np.diag([6**-0.5, (2 / 3) ** -0.5]), atol=1e-6)
    np.testing.assert_allclose(bias, [-10 * 6**-0.5, -20 * (2 / 3) ** -0.5], rtol=1e-5)


def test_signs_are_settled(vectors: np.ndarray) -> None:
    for kernel, _ in (fit_pca(vectors, 12), fit_pca(-vectors, 12), fit_pca(vectors[:, ::-1], 5)):
        assert (kernel[np.abs(kernel).argmax(axis=0), np.arange(kernel.shape[1])] > 0).all()


def test_fits_repeat_and_do_not_depend_on_the_order(vectors: np.ndarray) -> None:
    kernel, bias = fit_pca(vectors, 8)
    again_kernel, again_bias = fit_pca(vectors.copy(), 8)
    assert (kernel == again_kernel).all()
    assert (bias == again_bias).all()
    shuffled = np.random.default_rng(0).permutation(vectors)
    np.testing.assert_allclose(fit_pca(shuffled, 8)[0], kernel, atol=1e-3 * np.abs(kernel).max())


def test_the_input_is_left_alone(vectors: np.ndarray) -> None:
    before = vectors.copy()
    fit_pca(vectors, 3)
    assert (vectors == before).all()


@pytest.mark.parametrize(("count", "channels", "dim"), [(5, 12, 5), (500, 12, 13), (0, 12, 3)])
def test_too_few_vectors_or_channels(count: int, channels: int, dim: int) -> None:
    with pytest.raises(DelgError, match=rf"{dim} components.*there are {count} of {channels}"):
        fit_pca(np.zeros((count, channels), np.float32), dim)


def test_a_constant_channel_stays_finite(vectors: np.ndarray) -> None:
    flat = vectors.copy()
    flat[:, 3] = 7
    kernel, bias = fit_pca(flat, 12)
    assert np.isfinite(kernel).all()
    assert np.isfinite(bias).all()
