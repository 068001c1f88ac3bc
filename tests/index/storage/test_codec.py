import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.storage.codec import decode, encode

CODECS = ("int8", "float16", "float32")


def unit_vectors(seed: int, count: int, dim: int, spike: float = 1) -> np.ndarray:
    """Unit vectors; with ``spike`` one component stands out, as in real descriptors."""
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    vectors[:, 0] *= spike
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


some_vectors = st.builds(
    unit_vectors,
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 20),
    dim=st.integers(1, 130),
    spike=st.sampled_from([1.0, 30.0]),
)


@given(some_vectors)
def test_int8_errs_by_at_most_half_a_step_of_the_largest_component(vectors):
    packed = encode(vectors, "int8")
    assert packed.dtype == np.int8 and packed.shape == vectors.shape
    peak = np.abs(vectors).max(axis=1, keepdims=True)
    assert np.abs(packed * (peak / 127) - vectors).max(initial=0) <= (peak / 254).max(initial=0) * (
        1 + 1e-5
    )


def test_int8_turns_a_descriptor_by_less_than_half_a_degree_or_so():
    vectors = unit_vectors(0, 2000, 112)
    back = decode(encode(vectors, "int8"))
    angles = np.degrees(2 * np.arcsin(np.linalg.norm(back - vectors, axis=1) / 2))
    assert angles.mean() < 0.5
    assert angles.max() < 0.75


@given(some_vectors)
def test_float16_keeps_three_digits(vectors):
    packed = encode(vectors, "float16")
    assert packed.dtype == np.float16
    np.testing.assert_allclose(decode(packed), vectors, rtol=2e-3, atol=1e-6)


@given(some_vectors)
def test_float32_keeps_all(vectors):
    packed = encode(vectors, "float32")
    assert packed.dtype == np.float32
    assert packed.tobytes() == vectors.tobytes()
    np.testing.assert_allclose(decode(packed), vectors, rtol=1e-6, atol=0)


@pytest.mark.parametrize("codec", CODECS)
@given(vectors=some_vectors)
def test_what_is_decoded_has_unit_length(codec, vectors):
    back = decode(encode(vectors, codec))
    assert back.dtype == np.float32 and back.shape == vectors.shape
    # float16 is handed back as it is stored, so that storing it again changes nothing.
    tolerance = 1e-3 if codec == "float16" else 1e-6
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, atol=tolerance)


@pytest.mark.parametrize("codec", CODECS)
@given(vectors=some_vectors)
def test_encoding_again_gives_the_same_bytes(codec, vectors):
    packed = encode(vectors, codec)
    assert encode(decode(packed), codec).tobytes() == packed.tobytes()


def test_encoding_again_gives_the_same_bytes_where_rounding_lengthened_the_vector():
    # float16 rounds all but the last component up by half a step, the most there is.
    common = 0.25012213
    last = np.sqrt(1 - 15 * common**2)
    packed = encode(np.array([[common] * 15 + [last]], np.float32), "float16")
    assert encode(decode(packed), "float16").tobytes() == packed.tobytes()


@pytest.mark.parametrize("codec", CODECS)
def test_no_features_stay_no_features(codec):
    none = np.zeros((0, 112), np.float32)
    assert encode(none, codec).shape == (0, 112)
    assert decode(encode(none, codec)).shape == (0, 112)


@pytest.mark.parametrize("codec", CODECS)
def test_a_vector_of_zeros_stays_finite(codec):
    assert np.isfinite(decode(encode(np.zeros((3, 8), np.float32), codec))).all()
