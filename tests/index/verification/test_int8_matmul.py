import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from index.verification import int8_matmul
from index.verification.int8_matmul import GRAPH_FILE, INT8_SCALE, DescriptorProducts, quantize
from index.verification.int8_matmul_graph import make_graph


@st.composite
def int8_photos(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Descriptors of two photos, int8 (N, d) and (M, d)."""
    width = draw(st.integers(1, 90))
    counts, values = st.integers(1, 40), st.integers(-INT8_SCALE, INT8_SCALE)
    query, other = (draw(arrays(np.int8, (draw(counts), width), elements=values)) for _ in range(2))
    return query, other


def random_int8(seed: int, count: int, width: int) -> np.ndarray:
    values = np.random.default_rng(seed).integers(-INT8_SCALE, INT8_SCALE + 1, (count, width))
    return values.astype(np.int8)


def products(query: np.ndarray, other: np.ndarray) -> np.ndarray:
    return DescriptorProducts(query, other).rows(slice(0, len(other))).copy()


@given(int8_photos())
def test_products_of_int8_are_exact(photos):
    query, other = photos
    expected = other.astype(np.int64) @ query.T.astype(np.int64)
    np.testing.assert_array_equal(products(query, other), expected)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_products_do_not_overflow(sign):
    width = 160
    query = np.full((5, width), INT8_SCALE, np.int8)
    other = np.full((7, width), sign * INT8_SCALE, np.int8)
    assert (products(query, other) == sign * width * INT8_SCALE**2).all()


def test_without_onnx_runtime_the_products_are_the_same(monkeypatch):
    query, other = random_int8(0, 30, 80), random_int8(1, 50, 80)
    expected = products(query, other)
    monkeypatch.setattr(int8_matmul, "_session", lambda: None)
    np.testing.assert_array_equal(products(query, other), expected)


def test_a_slice_gives_those_rows_of_the_products():
    query, other = random_int8(0, 33, 24), random_int8(1, 21, 24)
    expected = products(query, other)
    computed = DescriptorProducts(query, other)
    for part in (slice(0, 10), slice(10, 21)):
        np.testing.assert_array_equal(computed.rows(part), expected[part])


def test_float32_descriptors_are_multiplied_as_they_are():
    rng = np.random.default_rng(2)
    query, other = (rng.normal(size=(n, 128)).astype(np.float32) for n in (11, 17))
    computed = DescriptorProducts(query, other)
    assert computed.unit_product == 1
    np.testing.assert_allclose(
        computed.rows(slice(3, 9)), other[3:9] @ query.T, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("width", [24, 80, 128])
def test_quantisation_keeps_the_products_of_unit_vectors(width):
    vectors = np.random.default_rng(3).normal(size=(2, 300, width))
    query, other = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    computed = DescriptorProducts(quantize(query), quantize(other))
    errors = computed.rows(slice(0, 300)) / computed.unit_product - other @ query.T
    assert np.abs(errors).max() < 0.05 and errors.std() < 0.01


def test_the_graph_in_the_package_is_the_one_that_its_module_makes():
    stored = onnx.load(GRAPH_FILE)
    onnx.checker.check_model(stored)
    assert stored == make_graph()
