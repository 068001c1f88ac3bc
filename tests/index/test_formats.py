"""Feature files of every format: written, read again, and refused when they lie."""

from __future__ import annotations

import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from delg.delf_files import FeatureFileError, read_datum, read_local
from delg.errors import UsageError
from delg.types import Failure, ImageFeatures, LocalFeatures
from index.formats import FORMATS, read, writer
from index.formats.parsed import FeatureSource, ParsedFeatures

OUT = {"delg": "out", "hloc": "out.h5", "colmap": "out", "npz": "out.npz", "hdf5": "out.hdf5"}
ORIGIN = FeatureSource("a model", "0123456789abcdef")
# A landscape photo with a keypoint near its right edge: x and y cannot be swapped unseen.
WIDTH, HEIGHT = 640, 200


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def image_features(seed: int, count: int = 5, dim: int = 8) -> ImageFeatures:
    rng = np.random.default_rng(seed)
    points = (rng.random((count, 2)) * [WIDTH - 1, HEIGHT - 1]).astype(np.float32)
    points[:1] = [630.5, 12.25]
    local = LocalFeatures(
        points,
        unit(rng.normal(size=(count, dim))),
        rng.choice([0.5, 1.0], count).astype(np.float32),
        np.sort(rng.random(count).astype(np.float32))[::-1].copy(),
    )
    return ImageFeatures(unit(rng.normal(size=16)), local, WIDTH, HEIGHT)


PHOTOS = {
    "a/1.jpg": image_features(1),
    "a/1.png": image_features(2),
    "ü 2.jpg": image_features(3, dim=8, count=0),
    "square": image_features(4, count=8),
}


def written(folder: Path, kind: str, photos: dict[str, ImageFeatures]) -> Path:
    out = folder / OUT[kind]
    assert writer(kind)(out, photos.items(), ORIGIN) == len(photos)
    return out


def parsed_by_id(path: Path, *more: Path, kind: str | None = None) -> dict[str, ParsedFeatures]:
    result = {}
    for parsed in read([path, *more], kind)[1]:
        assert isinstance(parsed, ParsedFeatures), parsed
        result[parsed.id] = parsed
    return result


def reasons(path: Path) -> dict[str, str]:
    return {parsed.path: parsed.reason for parsed in read([path])[1] if isinstance(parsed, Failure)}


@pytest.mark.parametrize("kind", FORMATS)
def test_features_come_back_as_they_were_written(kind: str, tmp_path: Path) -> None:
    after_all = parsed_by_id(written(tmp_path, kind, PHOTOS))
    names = {"a/1.jpg": "a/1", "ü 2.jpg": "ü 2"} if kind == "delg" else {}
    assert sorted(after_all) == sorted(names.get(name, name) for name in PHOTOS)
    for name, before in PHOTOS.items():
        after = after_all[names.get(name, name)]
        np.testing.assert_array_equal(after.global_descriptor, before.global_descriptor)
        assert after.local is not None
        assert len(after.local) == len(before.local)
        if len(before.local):
            assert np.allclose(after.local.keypoints, before.local.keypoints, atol=1e-4)
            for part in ("descriptors", "scales", "scores"):
                np.testing.assert_array_equal(
                    getattr(after.local, part), getattr(before.local, part)
                )
        assert after.size == (None if kind == "delg" else (WIDTH, HEIGHT))
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "delg"])
def test_files_name_what_made_them(kind: str, tmp_path: Path) -> None:
    assert read([written(tmp_path, kind, PHOTOS)])[0] == ORIGIN


@given(
    hnp.arrays(np.float32, (4, 2), elements=st.floats(0, 4096, width=32)),
    hnp.arrays(np.float32, (4, 3), elements=st.floats(-8, 8, width=32)),
    hnp.arrays(np.float32, 4, elements=st.floats(0, 1000, width=32), unique=True),
    st.sampled_from(FORMATS),
)
def test_any_features_come_back(tmp_path: Path, points, descriptors, scores, kind: str) -> None:
    descriptors[:, 0] += 9
    local = LocalFeatures(points, unit(descriptors), scores + 1, np.sort(scores)[::-1].copy())
    before = ImageFeatures(unit(descriptors[0]), local, 4096, 4096)
    path = tmp_path / OUT[kind]
    writer(kind)(path, [("x", before)], ORIGIN)
    after = parsed_by_id(path, kind=kind)["x"]
    assert after.local is not None
    np.testing.assert_allclose(after.local.keypoints, points, atol=1e-3)
    np.testing.assert_array_equal(after.local.scores, local.scores)
    np.testing.assert_array_equal(after.local.descriptors, local.descriptors)


# The layouts that other tools expect.


def test_hloc_gets_a_column_for_each_descriptor_and_the_size_as_width_and_height(tmp_path) -> None:
    with h5py.File(written(tmp_path, "hloc", PHOTOS)) as file:
        group = file["a/1.jpg"]
        assert group["keypoints"].shape == (5, 2)
        assert group["keypoints"][0].tolist() == [630.5, 12.25]
        assert group["descriptors"].shape == (8, 5)
        np.testing.assert_array_equal(
            group["descriptors"][:, 3], PHOTOS["a/1.jpg"].local.descriptors[3]
        )
        assert group["image_size"][()].tolist() == [WIDTH, HEIGHT]
        assert group["global_descriptor"].shape == (16,)
        assert group["scores"].shape == group["scales"].shape == (5,)


def test_colmap_gets_its_own_origin_of_pixels(tmp_path: Path) -> None:
    folder = written(tmp_path, "colmap", PHOTOS)
    with h5py.File(folder / "keypoints.h5") as file:
        assert file["a/1.jpg"][0].tolist() == [631, 12.75]
    with h5py.File(folder / "descriptors.h5") as file:
        assert file["square"].shape == (8, 8)


def test_the_published_tools_get_two_files_a_photo(tmp_path: Path) -> None:
    folder = written(tmp_path, "delg", PHOTOS)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.delg_*"))
    assert names == sorted(
        f"{name}.delg_{kind}"
        for name in ("a/1", "a/1.png", "ü 2", "square")
        for kind in ("global", "local")
    )
    before = PHOTOS["a/1.jpg"]
    np.testing.assert_array_equal(read_datum(folder / "a/1.delg_global"), before.global_descriptor)
    assert read_local(folder / "a/1.delg_local").keypoints[0].tolist() == [630.5, 12.25]


def test_numpy_alone_reads_the_archive(tmp_path: Path) -> None:
    with np.load(written(tmp_path, "npz", PHOTOS)) as arrays:
        assert arrays["a/1.jpg/keypoints"][0].tolist() == [630.5, 12.25]
        assert arrays["a/1.jpg/size"].tolist() == [WIDTH, HEIGHT]


# What other tools write.


def hloc_file(path: Path, **datasets: object) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[f"db/p.jpg/{name}"] = values
    return path


def test_half_precision_and_lengths_other_than_one_are_read(tmp_path: Path) -> None:
    path = hloc_file(
        tmp_path / "f.h5",
        keypoints=np.array([[600, 5], [1, 2]], np.float16),
        descriptors=np.array([[3, 0], [4, 2]], np.uint8),
        scores=np.array([0.25, 0.5], np.float16),
        image_size=np.array([640, 200]),
    )
    parsed = parsed_by_id(path)["db/p.jpg"]
    assert parsed.local is not None
    assert parsed.global_descriptor is None
    assert parsed.local.keypoints.tolist() == [[1, 2], [600, 5]]
    np.testing.assert_allclose(parsed.local.descriptors, [[0, 1], [0.6, 0.8]])
    assert parsed.local.scales.tolist() == [1, 1]
    assert parsed.size == (640, 200)


def test_local_and_global_features_in_two_files_are_put_together(tmp_path: Path) -> None:
    local = hloc_file(tmp_path / "l.h5", keypoints=np.ones((1, 2)), descriptors=np.ones((3, 1)))
    data_before = hloc_file(tmp_path / "g.h5", global_descriptor=np.array([0, 2.0]))
    parsed = parsed_by_id(local, data_before)["db/p.jpg"]
    assert parsed.local is not None
    assert parsed.local.descriptors.shape == (1, 3)
    assert parsed.global_descriptor is not None
    assert parsed.global_descriptor.tolist() == [0, 1]


def test_affine_keypoints_of_colmap_are_read_as_points(tmp_path: Path) -> None:
    for name, values in (("keypoints", np.full((1, 6), 3.5)), ("descriptors", np.ones((1, 2)))):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["p.jpg"] = values
    parsed = parsed_by_id(tmp_path)["p.jpg"]
    assert parsed.local is not None
    assert parsed.local.keypoints.tolist() == [[3, 3]]


# Files that lie.


@pytest.mark.parametrize(
    ("datasets", "reason"),
    [
        ({"keypoints": np.ones((2, 2)), "descriptors": np.ones((3, 5))}, "for 2 keypoints"),
        ({"keypoints": np.ones((2, 2))}, "descriptors are missing"),
        ({"keypoints": np.ones(4), "descriptors": np.ones((3, 4))}, "not (N, 2)"),
        ({"global_descriptor": np.array([1, np.nan])}, "not finite"),
        ({"global_descriptor": np.array([1e300, 1])}, "not finite"),
        ({"global_descriptor": np.zeros(4)}, "no length"),
        ({"global_descriptor": np.ones((2, 2))}, "not (D,)"),
        ({"global_descriptor": np.array([b"x"])}, "not numbers"),
        ({"global_descriptor": np.ones(3), "image_size": np.array([0, 5])}, "cannot be"),
        ({"global_descriptor": np.ones(3), "image_size": np.array([5])}, "not two numbers"),
    ],
)
def test_one_photos_bad_features_are_its_own_failure(tmp_path, datasets, reason) -> None:
    path = hloc_file(tmp_path / "f.h5", **datasets)
    with h5py.File(path, "a") as file:
        file["good.jpg/global_descriptor"] = np.ones(3)
    assert reasons(path).keys() == {"db/p.jpg"}
    assert reason in reasons(path)["db/p.jpg"]
    assert any(
        isinstance(parsed, ParsedFeatures) and parsed.id == "good.jpg" for parsed in read([path])[1]
    )


def test_an_array_that_would_fill_the_memory_is_not_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_dataset("p/global_descriptor", (1 << 40,), "f4", chunks=(1 << 16,))
    assert "would take 4,398,046,511,104 bytes" in reasons(tmp_path / "f.h5")["p"]


def test_links_out_of_a_file_are_not_followed(tmp_path: Path) -> None:
    secret = hloc_file(tmp_path / "secret.h5", global_descriptor=np.ones(3))
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["linked"] = h5py.ExternalLink(secret.name, "db/p.jpg")
        file["soft"] = h5py.SoftLink("/own")
        file["own/global_descriptor"] = np.ones(3)
        file["own/keypoints"] = h5py.ExternalLink(secret.name, "db/p.jpg/global_descriptor")
        file["own/again"] = file["own"]
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource(str(secret), "db/p.jpg/global_descriptor", (3,))
        file.create_virtual_dataset("virtual/global_descriptor", layout)
        raw = [(str(secret), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("raw/global_descriptor", (3,), "f8", external=raw)
    assert [
        parsed.id for parsed in read([tmp_path / "f.h5"])[1] if isinstance(parsed, ParsedFeatures)
    ] == ["own"]
    assert reasons(tmp_path / "f.h5") == {
        "raw": "global_descriptor lies in another file",
        "virtual": "global_descriptor lies in another file",
    }


def npz_file(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("p/global_descriptor.npy", content)
    return path


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def described(dtype: str, length: int) -> str:
    return repr({"descr": dtype, "fortran_order": False, "shape": (length,)})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy(described("<f4", 1 << 40)), "would take"),
        (npy(described("<f4", 9), b"1234"), "cut short: 4 of 36"),
        (npy(described("|O", 1), b"cos\nsystem"), "not numbers"),
        (npy("__import__('os')"), "cannot be read"),
        (b"no array", "cannot be read"),
        (b"", "cannot be read"),
    ],
)  # fmt: skip
def test_hostile_arrays_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    assert reason in reasons(npz_file(tmp_path / "f.npz", content))["p"]


@pytest.mark.parametrize("name", ["f.h5", "f.npz"])
@pytest.mark.parametrize("content", [b"", b"text", b"\x89HDF\r\n\x1a\n" + bytes(50), b"PK\x05\x06"])
def test_files_that_are_something_else_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FeatureFileError, match=name):
        list(read([tmp_path / name])[1])


@pytest.mark.parametrize("kind", ["hloc", "npz"])
def test_flipped_bytes_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    data_before = written(tmp_path, kind, PHOTOS).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / f"flipped{OUT[kind][3:]}"
    for _ in range(60):
        data = np.frombuffer(data_before, np.uint8).copy()
        data[rng.integers(0, len(data), 8)] = rng.integers(0, 256, 8)
        path.write_bytes(data.tobytes())
        try:
            for parsed in read([path])[1]:
                assert isinstance(parsed, ParsedFeatures | Failure)
        except FeatureFileError:
            continue


def test_what_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "features").write_bytes(b"")
    with pytest.raises(UsageError, match="--format"):
        read([tmp_path / "features"])
    with pytest.raises(UsageError, match="no format is called 'delf5'"):
        read([tmp_path / "features"], "delf5")
    with pytest.raises(UsageError, match="gone"):
        read([tmp_path / "gone"])
    with pytest.raises(FeatureFileError, match="holds no file that ends in"):
        list(read([tmp_path])[1])
    with pytest.raises(UsageError, match="delg, hloc, colmap, npz, hdf5"):
        writer("xml")


def test_a_single_file_stands_for_its_photo(tmp_path: Path) -> None:
    folder = written(tmp_path, "delg", PHOTOS)
    parsed = parsed_by_id(folder / "a" / "1.delg_local")
    assert list(parsed) == ["1"]
    assert parsed["1"].global_descriptor is not None


def test_an_id_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="outside"):
        writer("delg")(tmp_path / "out", [("../x", image_features(1))], ORIGIN)
    assert not list(tmp_path.rglob("*.delg_*"))


@pytest.mark.parametrize("kind", FORMATS)
def test_odd_ids_are_named_and_stop_no_other(kind: str, tmp_path: Path) -> None:
    odd = ["../x", "a", "a/keypoints", "a/b", "b//c", ".", "n\0ul", "long" * 20_000, "z"]
    features = [(image_id, image_features(number)) for number, image_id in enumerate(odd, 1)]
    failed: list[Failure] = []
    count = writer(kind)(tmp_path / OUT[kind], features, ORIGIN, failed)
    parsed = {image.id: image for image in read([tmp_path / OUT[kind]])[1]}
    assert count == len(odd) - len(failed) and 0 < len(failed) < len(odd) - 2
    assert {"a", "z"} <= parsed.keys() and not any(isinstance(v, Failure) for v in parsed.values())
    assert "n\0ul" in {failure.path for failure in failed}
    assert not list(tmp_path.glob("x*"))
    for image_id in ("a", "z"):
        before = dict(features)[image_id].global_descriptor
        assert np.allclose(parsed[image_id].global_descriptor, before)
    with pytest.raises(UsageError, match="cannot be written"):
        writer(kind)(tmp_path / f"again-{OUT[kind]}", features, ORIGIN)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_place_that_cannot_be_written_is_named(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception, match="file") as caught:
        writer(kind)(tmp_path / "file" / OUT[kind], PHOTOS.items(), ORIGIN)
    assert type(caught.value).__name__ in ("DelgError", "FeatureFileError")


@pytest.mark.parametrize("kind", FORMATS)
def test_names_come_back_in_the_unicode_form_of_ids(tmp_path: Path, kind: str) -> None:
    name = "e\u0301te\u0301/1"
    photos = parsed_by_id(written(tmp_path, kind, {name: image_features(1)}))
    assert list(photos) == ["\u00e9t\u00e9/1"]
    assert photos["\u00e9t\u00e9/1"].local is not None
