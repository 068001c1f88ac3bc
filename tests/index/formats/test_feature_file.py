import subprocess
import sys

import h5py
import numpy as np
import pytest
from dots import dots

from delg.errors import DelgError
from index.formats.feature_file import write_features


@pytest.fixture
def features(model):
    return [
        ("a/1.png", model.extract(dots(1).pixels())),
        ("ü 2.png", model.extract(dots(2, count=0).pixels())),
    ]


def test_every_photo_is_a_group_with_its_arrays(tmp_path, features):
    assert write_features(tmp_path / "f.h5", iter(features), "dots", "abc") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["f.h5"]
    with h5py.File(tmp_path / "f.h5") as file:
        assert dict(file.attrs) == {"model": "dots", "fingerprint": "abc"}
        for name, image in features:
            group = file[name]
            assert (group.attrs["width"], group.attrs["height"]) == (image.width, image.height)
            for key, value in (
                ("global_descriptor", image.global_descriptor),
                ("keypoints", image.local.keypoints),
                ("descriptors", image.local.descriptors),
                ("scales", image.local.scales),
                ("scores", image.local.scores),
            ):
                np.testing.assert_array_equal(group[key][()], value)


def test_what_fails_half_way_leaves_nothing(tmp_path, features):
    def broken():
        yield features[0]
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_features(tmp_path / "f.h5", broken(), "dots", "abc")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_exists_is_replaced_only_when_the_new_one_is_complete(tmp_path, features):
    write_features(tmp_path / "f.h5", features, "dots", "old")

    def broken():
        yield features[0]
        raise DelgError("half way")

    with pytest.raises(DelgError):
        write_features(tmp_path / "f.h5", broken(), "dots", "new")
    with h5py.File(tmp_path / "f.h5") as file:
        assert file.attrs["fingerprint"] == "old"
    write_features(tmp_path / "f.h5", features[:1], "dots", "new")
    with h5py.File(tmp_path / "f.h5") as file:
        assert file.attrs["fingerprint"] == "new" and list(file) == ["a"]


def test_a_photo_and_a_folder_of_one_name_do_not_collide(tmp_path, features):
    image = features[0][1]
    assert (
        write_features(
            tmp_path / "f.h5", [(name, image) for name in ("x.png", "x.png/y.png")], "d", "f"
        )
        == 2
    )


def test_a_place_that_cannot_be_written_to_is_named(tmp_path, features):
    with pytest.raises(DelgError, match=r"none/f\.h5: cannot be written"):
        write_features(tmp_path / "none" / "f.h5", features, "dots", "abc")


# A limit on the size of files makes writes fail as a full disk does.
FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from delg.errors import DelgError
from delg.types import ImageFeatures, LocalFeatures
from index.formats.feature_file import write_features
whole, local = np.ones(64, np.float32) / 8, np.ones((500, 64), np.float32) / 8
points, ones = np.ones((500, 2), np.float32), np.ones(500, np.float32)
photo = ImageFeatures(whole, LocalFeatures(points, local, ones, ones), 640, 480)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
for size in (0, 100, 5000, 200_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        write_features(Path(sys.argv[1]), ((str(i), photo) for i in range(5)), "m", "f")
    except DelgError as error:
        assert "f.h5: cannot be written" in str(error), error
    else:
        raise AssertionError(f"{size} bytes were enough")
"""


def test_a_full_disk_is_an_error_that_leaves_nothing_behind(tmp_path):
    # In a process of its own, as a library that cannot write may take the whole process with it.
    process = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "f.h5")], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert not list(tmp_path.iterdir())
