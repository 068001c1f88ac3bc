from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_model import unit
from hypothesis import given
from hypothesis import strategies as st

from delg.errors import DelgError
from delg.values import ImageFeatures, LocalFeatures
from index.codec import decode, encode
from index.segments import Segment, SegmentError, write_segment


def features(count: int, seed: int) -> ImageFeatures:
    rng = np.random.default_rng(seed)
    local = LocalFeatures(
        (rng.random((count, 2)) * 5000).astype(np.float32),
        unit(rng.normal(size=(count, 12))),
        rng.random(count).astype(np.float32),
        rng.random(count).astype(np.float32),
    )
    return ImageFeatures(unit(rng.normal(size=16)), local, 5000 + seed, 3000 - seed)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.sampled_from(["int8", "float32"]))
def test_what_is_written_is_read(tmp_path: Path, counts: list[int], codec: str) -> None:
    path = tmp_path / "one.h5"
    written = [features(count, seed) for seed, count in enumerate(counts)]
    ids = [f"ordner/bild-{seed}-é.jpg" for seed in range(len(counts))]
    write_segment(path, ids, written, codec)
    segment = Segment(path)
    assert segment.ids == ids
    for position, one in enumerate(written):
        back = segment.features(position)
        np.testing.assert_array_equal(back.global_descriptor, one.global_descriptor)
        for name in ("keypoints", "scales", "scores"):
            np.testing.assert_array_equal(getattr(back.local, name), getattr(one.local, name))
        np.testing.assert_allclose(
            back.local.descriptors, one.local.descriptors, atol=5e-3 if codec == "int8" else 1e-6
        )
        assert (back.width, back.height) == (one.width, one.height)


def test_it_stays_readable_after_the_file_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "one.h5"
    write_segment(path, ["a"], [features(20, 0)], "float32")
    segment = Segment(path)
    path.unlink()
    np.testing.assert_array_equal(segment.local(0).keypoints, features(20, 0).local.keypoints)


@pytest.mark.parametrize("part", [0, 1, 100, 2000, 4000])
def test_damaged_files_are_named(tmp_path: Path, part: int) -> None:
    path = tmp_path / "one.h5"
    write_segment(path, ["a", "b"], [features(20, 0), features(3, 1)], "int8")
    path.write_bytes(path.read_bytes()[:part])
    with pytest.raises(SegmentError, match=r"one\.h5"):
        Segment(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SegmentError, match="missing"):
        Segment(tmp_path / "one.h5")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "one.h5.tmp").mkdir()
    with pytest.raises((DelgError, IsADirectoryError, PermissionError)):
        write_segment(tmp_path / "one.h5", ["a"], [features(1, 0)], "int8")
    assert not (tmp_path / "one.h5").exists()


@given(st.integers(0, 40), st.integers(1, 200), st.integers(0, 1000))
def test_bytes_keep_directions(count: int, dim: int, seed: int) -> None:
    vectors = unit(np.random.default_rng(seed).normal(size=(count, dim)))
    packed = encode(vectors, "int8")
    back = decode(packed)
    assert packed.dtype == np.int8 and packed.shape == vectors.shape
    cosines = np.einsum("ij,ij->i", back, vectors)
    assert (cosines > 0.9995).all()
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(encode(back, "int8"), packed)


@pytest.mark.parametrize(("codec", "error"), [("float16", 1e-3), ("float32", 1e-6)])
def test_floats_keep_values(codec: str, error: float) -> None:
    vectors = unit(np.random.default_rng(0).normal(size=(50, 64)))
    np.testing.assert_allclose(decode(encode(vectors, codec)), vectors, atol=error)
