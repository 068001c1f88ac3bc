import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delg.errors import DelgError
from delg.files import file_sha256
from delg.types import ImageFeatures, LocalFeatures
from index.storage.codec import decode, encode
from index.storage.product_quantizer import MIN_TRAINING_VECTORS, ProductQuantizer
from index.storage.segment_writer import write_compact_segment, write_segment
from index.storage.segments import EncodedImage, Segment, SegmentError, segment_path

FUZZ = """
import random, resource, sys
from pathlib import Path
from index.storage.segments import Segment, SegmentError
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
path, chance = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
whole = path.read_bytes()
refused = 0
for turn in range(400):
    data = bytearray(whole)
    data[chance.randrange(len(data))] = chance.choice([0, 1, 8, 255])
    path.write_bytes(data)
    try:
        segment = Segment(path)
    except SegmentError as error:
        assert str(path) in str(error)
        refused += 1
        continue
    for position in range(len(segment)):
        segment.features(position)
print(refused)
"""

# A limit on the size of files makes writes fail as a full disk does.
FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from delg.errors import DelgError
from delg.types import ImageFeatures, LocalFeatures
from index.storage.segment_writer import write_segment
whole, local = np.ones(64, np.float32) / 8, np.ones((500, 64), np.float32) / 8
points, ones = np.ones((500, 2), np.float32), np.ones(500, np.float32)
photo = ImageFeatures(whole, LocalFeatures(points, local, ones, ones), 640, 480)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
for size in (0, 100, 2048, 10_000, 30_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        write_segment(Path(sys.argv[1]) / "x.h5", ["a"], [photo], "int8")
    except DelgError as error:
        assert "x.h5: cannot be written" in str(error), error
    else:
        raise AssertionError(f"{size} bytes were enough")
"""


def image(seed: int, count: int, dim: int = 8, local_dim: int = 6) -> ImageFeatures:
    rng = np.random.default_rng(seed)
    plain = rng.normal(size=dim)
    local = rng.normal(size=(count, local_dim))
    return ImageFeatures(
        (plain / np.linalg.norm(plain)).astype(np.float32),
        LocalFeatures(
            rng.uniform(-0.5, 4000, (count, 2)).astype(np.float32),
            (local / np.linalg.norm(local, axis=1, keepdims=True)).astype(np.float32),
            rng.uniform(0.25, 2, count).astype(np.float32),
            rng.uniform(0, 9, count).astype(np.float32),
        ),
        width=int(rng.integers(10, 5000)),
        height=int(rng.integers(10, 5000)),
    )


def same(expected_image: ImageFeatures, other: ImageFeatures) -> bool:
    return (
        (expected_image.width, expected_image.height) == (other.width, other.height)
        and np.array_equal(expected_image.global_descriptor, other.global_descriptor)
        and np.array_equal(expected_image.local.keypoints, other.local.keypoints)
        and np.array_equal(expected_image.local.descriptors, other.local.descriptors)
        and np.array_equal(expected_image.local.scales, other.local.scales)
        and np.array_equal(expected_image.local.scores, other.local.scores)
    )


@pytest.fixture
def plain(tmp_path) -> Path:
    """A segment of three photos, the second without features."""
    path = tmp_path / "000001.h5"
    write_segment(path, ["a", "b", "c"], [image(1, 40), image(2, 0), image(3, 7)], "int8")
    return path


def refusals(path: Path, seed: int) -> int:
    """How many of 400 damaged copies were refused, none having crashed the reader."""
    process = subprocess.run(
        [sys.executable, "-c", FUZZ, str(path), str(seed)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return int(process.stdout)


def check_refused(path: Path) -> None:
    with pytest.raises(SegmentError) as error:
        Segment(path)
    assert str(path) in str(error.value)


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    dims=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    codec=st.sampled_from(["int8", "float16", "float32"]),
    names=st.data(),
)
def test_what_is_written_comes_back(tmp_path, sizes, dims, codec, names):
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
    ids = names.draw(st.lists(text, min_size=len(sizes), max_size=len(sizes), unique=True))
    images = [image(seed, count, *dims) for seed, count in enumerate(sizes)]
    write_segment(tmp_path / "s.h5", ids, images, codec)
    segment = Segment(tmp_path / "s.h5")
    assert len(segment) == len(sizes)
    assert segment.ids == ids
    for position, expected_image in enumerate(images):
        # The codec alone may change something, and of the descriptors only.
        packed = decode(encode(expected_image.local.descriptors, codec))
        expected = ImageFeatures(
            expected_image.global_descriptor,
            LocalFeatures(
                expected_image.local.keypoints,
                packed,
                expected_image.local.scales,
                expected_image.local.scores,
            ),
            expected_image.width,
            expected_image.height,
        )
        assert same(segment.features(position), expected)
        assert len(segment.local(position)) == sizes[position]
    backwards = list(range(len(sizes)))[::-1]
    expected = np.stack([expected_image.global_descriptor for expected_image in images[::-1]])
    np.testing.assert_array_equal(segment.global_descriptors(backwards), expected)


@pytest.fixture(scope="module")
def quantizer() -> ProductQuantizer:
    return ProductQuantizer.train(image(0, MIN_TRAINING_VECTORS).local.descriptors)


@pytest.fixture
def compact(tmp_path, quantizer) -> Path:
    """A compact segment of three photos, the second without features."""
    path = tmp_path / "000002.h5"
    photos = [
        EncodedImage.encode(expected_image, quantizer)
        for expected_image in (image(1, 40), image(2, 0), image(3, 7))
    ]
    write_compact_segment(path, ["a", "b", "c"], photos, quantizer)
    return path


def test_a_compact_segment_gives_nearly_what_was_written(compact, quantizer):
    segment = Segment(compact)
    assert segment.ids == ["a", "b", "c"] and segment.quantizer.is_same(quantizer)
    for position, (seed, count) in enumerate(((1, 40), (2, 0), (3, 7))):
        expected_image, stored = image(seed, count), segment.features(position)
        assert (stored.width, stored.height) == (expected_image.width, expected_image.height)
        assert stored.global_descriptor.dtype == np.float32
        np.testing.assert_allclose(
            stored.global_descriptor, expected_image.global_descriptor, atol=1e-3
        )
        inside = np.clip(
            expected_image.local.keypoints,
            -0.5,
            np.array([expected_image.width, expected_image.height]) - 0.5,
        )
        assert np.abs(stored.local.keypoints - inside).max(initial=0) < 1
        assert (stored.local.descriptors * expected_image.local.descriptors).sum(axis=1).min(
            initial=1
        ) > 0.95
        near = segment.matchable(position)
        assert near.codebook is segment.quantizer
        np.testing.assert_array_equal(near.keypoints, stored.local.keypoints)
        own = quantizer.project(expected_image.local.descriptors)
        assert (near.descriptors * own).sum(axis=1).min(initial=1) > 0.95


def test_packed_photos_move_between_segments_unchanged(compact, quantizer, tmp_path):
    segment = Segment(compact)
    moved = [segment.encoded(position, quantizer) for position in (2, 0)]
    write_compact_segment(tmp_path / "moved.h5", ["c", "a"], moved, quantizer)
    second = Segment(tmp_path / "moved.h5")
    assert same(second.features(0), segment.features(2))
    assert same(second.features(1), segment.features(0))


def test_damage_to_a_compact_segment_never_crashes_the_reader(compact):
    assert refusals(compact, 3) > 0


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("records", np.zeros((46, 11), np.uint8)),
        ("records", np.zeros((47, 12), np.uint8)),
        ("records", np.zeros((47, 11), np.int16)),
        ("rotation", np.zeros((6, 5), np.float16)),
        ("rotation", np.zeros(6, np.float16)),
        ("centroids", np.zeros((6, 255, 1), np.float16)),
        ("centroids", np.zeros((6, 256, 1), np.float32)),
        ("sizes", np.zeros((3, 2), np.int32)),
    ],
)
def test_parts_of_a_compact_segment_that_do_not_fit_are_refused(compact, name, wrong):
    with h5py.File(compact, "r+") as file:
        del file[name]
        file[name] = wrong
    check_refused(compact)


def test_a_photo_without_features_keeps_the_width_of_its_descriptors(plain):
    local = Segment(plain).local(1)
    assert local.descriptors.shape == (0, 6) and local.keypoints.shape == (0, 2)


def test_the_same_features_give_the_same_bytes(tmp_path, plain):
    second = tmp_path / "again.h5"
    write_segment(second, ["a", "b", "c"], [image(1, 40), image(2, 0), image(3, 7)], "int8")
    assert second.read_bytes() == plain.read_bytes()
    assert file_sha256(second) == file_sha256(plain)


def test_segments_are_numbered_files_in_a_folder_of_their_own(tmp_path):
    assert segment_path(tmp_path, 12) == tmp_path / "segments" / "000012.h5"


def test_a_missing_segment_is_named(tmp_path):
    check_refused(tmp_path / "000009.h5")


def test_a_truncated_segment_is_named(plain):
    data = plain.read_bytes()
    for length in range(0, len(data), 101):
        plain.write_bytes(data[:length])
        check_refused(plain)


@pytest.mark.parametrize("data", [b"", b"garbage" * 1000, b"\x89HDF\r\n\x1a\n" + b"\xff" * 5000])
def test_garbage_is_named(plain, data):
    plain.write_bytes(data)
    check_refused(plain)


def test_a_folder_in_its_place_is_named(tmp_path):
    check_refused(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ids", None),
        ("scores", None),
        ("offsets", np.array([0, 40, 40, 48])),
        ("offsets", np.array([0, 45, 40, 47])),
        ("offsets", np.array([0, 40, 47])),
        ("offsets", np.int64(4)),
        ("sizes", np.zeros((2, 2), np.int32)),
        ("sizes", np.int32(3)),
        ("global_descriptors", np.zeros((4, 8), np.float32)),
        ("keypoints", np.zeros((46, 2), np.float32)),
        ("keypoints", np.zeros((47, 3), np.float32)),
        ("ids", np.arange(3)),
        ("ids", h5py.Empty("f4")),
    ],
)
def test_parts_that_are_missing_or_do_not_fit_are_noticed(plain, name, value):
    with h5py.File(plain, "a") as file:
        del file[name]
        if value is not None:
            file[name] = value
    check_refused(plain)


def test_an_array_that_is_compressed_cannot_be_mapped_and_is_refused(plain):
    with h5py.File(plain, "a") as file:
        values = file["keypoints"][()]
        del file["keypoints"]
        file.create_dataset("keypoints", data=values, compression="gzip")
    check_refused(plain)


@pytest.mark.parametrize("seed", [0, 1])
def test_damaged_bytes_are_refused_or_read_but_never_crash_or_hang(plain, seed):
    assert refusals(plain, seed) > 0


def test_it_stays_readable_after_its_file_is_deleted(plain):
    segment = Segment(plain)
    plain.unlink()
    assert segment.ids == ["a", "b", "c"]
    np.testing.assert_array_equal(
        segment.features(2).global_descriptor, image(3, 7).global_descriptor
    )
    assert len(segment.local(0)) == 40


def test_nothing_but_the_segment_is_left_after_writing(tmp_path, plain):
    assert list(tmp_path.iterdir()) == [plain]


def test_a_full_disk_is_an_error_that_leaves_nothing_behind(tmp_path):
    # In a process of its own, as a library that cannot write may take the whole process with it.
    process = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_to_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DelgError, match=r"x\.h5: cannot be written"):
        write_segment(tmp_path / "file" / "x.h5", ["a"], [image(0, 3)], "int8")


def test_a_failing_write_leaves_the_segment_of_that_name_alone(plain, monkeypatch):
    before = plain.read_bytes()

    def broken(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(DelgError, match="No space left"):
        write_segment(plain, ["z"], [image(9, 3)], "int8")
    assert plain.read_bytes() == before
    assert list(plain.parent.iterdir()) == [plain]


# Files of versions that stored the scales of published exports upside down.


@pytest.mark.parametrize("kind", ["whole", "compact"])
def test_scales_that_were_stored_upside_down_are_read_the_right_way_up(
    kind, plain, compact, quantizer, tmp_path
):
    path = {"whole": plain, "compact": compact}[kind]
    before = Segment(path)
    assert not Segment(path, has_inverse_scales=lambda: True).inverse_scales
    with h5py.File(path, "r+") as file:
        del file.attrs["scales"]
    assert not Segment(path).inverse_scales
    segment = Segment(path, has_inverse_scales=lambda: True)
    assert segment.inverse_scales
    stored = before.local(0).scales
    np.testing.assert_allclose(segment.local(0).scales, 1 / stored, rtol=1e-6)
    np.testing.assert_allclose(segment.matchable(0).scales, 1 / stored, rtol=1e-6)
    if kind == "compact":
        moved = tmp_path / "moved.h5"
        images = [segment.encoded(position, quantizer) for position in range(len(segment))]
        write_compact_segment(moved, segment.ids, images, quantizer)
        second = Segment(moved, has_inverse_scales=lambda: True).local(0)
        np.testing.assert_allclose(second.scales, 1 / stored, rtol=1e-6)
        np.testing.assert_array_equal(second.keypoints, before.local(0).keypoints)
        np.testing.assert_array_equal(second.descriptors, before.local(0).descriptors)
