import os

import pytest

from delg.errors import UsageError
from eval.datasets.photos import find_photos, list_photos, name_some


def test_a_long_list_is_cut_short():
    assert name_some(["a", "b"]) == "'a', 'b'"
    assert name_some(list("abcdefg")) == "'a', 'b', 'c', 'd', 'e' and 2 more"


def test_photos_below_a_folder_are_listed_by_relative_path(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/2.jpg", "1.PNG", "notes.txt", ".hidden.jpg"):
        (tmp_path / name).touch()
    assert [photo.id for photo in list_photos(tmp_path)] == ["1.PNG", "b/2.jpg"]


def test_what_cannot_be_listed_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        list_photos(tmp_path / "missing")
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb"):  # noqa: PTH123
        pass
    with pytest.raises(UsageError, match="not valid UTF-8"):
        list_photos(tmp_path)


def test_missing_photos_are_counted_and_named(tmp_path):
    (tmp_path / "a.jpg").touch()
    photos = find_photos(tmp_path, ["a.jpg"], tmp_path / "list")
    assert [(photo.id, photo.path) for photo in photos] == [("a.jpg", tmp_path / "a.jpg")]
    with pytest.raises(UsageError, match=r"2 of 3 photos are missing: 'b.jpg', 'c/d.jpg'$"):
        find_photos(tmp_path, ["b.jpg", "a.jpg", "c/d.jpg"], tmp_path / "list")


@pytest.mark.parametrize("path", ["../a.jpg", "/etc/passwd", "x/../../a.jpg", "", "a\0.jpg"])
def test_paths_that_lead_out_of_the_dataset_are_refused(tmp_path, path):
    with pytest.raises(UsageError, match=r"list: .* is no path inside the dataset"):
        find_photos(tmp_path, [path], tmp_path / "list")
