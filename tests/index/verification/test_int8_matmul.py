import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from index.verification import int8_matmul as products
from index.verification.int8_matmul import STEPS, Products, to_steps

STEP_VALUES = st.integers(-STEPS, STEPS)


@st.composite
def two_photos(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    width = draw(st.integers(1, 90))
    rows = st.integers(1, 40)
    one, other = (
        draw(arrays(np.int8, (draw(rows), width), elements=STEP_VALUES)) for _ in range(2)
    )
    return one, other


def expected(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return other.astype(np.int64) @ one.T.astype(np.int64)


@given(two_photos())
def test_products_of_bytes_are_exact(photos):
    one, other = photos
    found = Products(one, other).rows(slice(0, len(other)))
    np.testing.assert_array_equal(found, expected(one, other))


def test_the_largest_products_do_not_overflow():
    width = 160
    for signs in (1, -1):
        one = np.full((5, width), STEPS, np.int8)
        other = np.full((7, width), signs * STEPS, np.int8)
        found = Products(one, other).rows(slice(0, 7))
        assert (found == signs * width * STEPS**2).all()


def test_without_the_runtime_they_are_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    one, other = (rng.integers(-STEPS, STEPS + 1, (n, 80)).astype(np.int8) for n in (30, 50))
    fast = Products(one, other).rows(slice(0, 50)).copy()
    monkeypatch.setattr(products, "_engine", lambda: None)
    np.testing.assert_array_equal(Products(one, other).rows(slice(0, 50)), fast)


def test_parts_are_parts_of_the_whole():
    rng = np.random.default_rng(1)
    one, other = (rng.integers(-STEPS, STEPS + 1, (n, 24)).astype(np.int8) for n in (33, 21))
    made = Products(one, other)
    whole = made.rows(slice(0, 21)).copy()
    for part in (slice(0, 10), slice(10, 21)):
        np.testing.assert_array_equal(made.rows(part), whole[part])


def test_floats_are_multiplied_as_they_are():
    rng = np.random.default_rng(2)
    one, other = (rng.normal(size=(n, 128)).astype(np.float32) for n in (11, 17))
    made = Products(one, other)
    assert made.one == 1
    np.testing.assert_allclose(made.rows(slice(3, 9)), other[3:9] @ one.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [24, 80, 128])
def test_steps_keep_the_products_of_unit_vectors(width):
    rng = np.random.default_rng(3)
    one, other = rng.normal(size=(2, 300, width))
    one, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (one, other))
    made = Products(to_steps(one), to_steps(other))
    off = made.rows(slice(0, 300)) / made.one - other @ one.T
    assert np.abs(off).max() < 0.05 and off.std() < 0.01
