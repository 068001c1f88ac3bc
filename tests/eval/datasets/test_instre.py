from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from delg.errors import UsageError
from eval.datasets.instre import read_instre

GALLERY = [
    "INSTRE-S1/01a_canada_book/013.jpg",
    "INSTRE-S1/01a_canada_book/062.jpg",
    "INSTRE-S2/01_airforce1/001.jpg",
    "INSTRE-M/01/005.jpg",
]
QUERIES = ["INSTRE-S1/01a_canada_book/001.jpg", "INSTRE-S2/01_airforce1/002.jpg"]
CORNERS = [[100, 50, 300, 250], [0, 0, 640, 480]]


def cells(values: list[str]) -> np.ndarray:
    array = np.empty((1, len(values)), object)
    array[0] = values
    return array


def struct(right: list, boxes: list) -> np.ndarray:
    gnd = np.empty((1, len(right)), [("ok", object), ("bbx", object)])
    for place, (ok, box) in enumerate(zip(right, boxes, strict=True)):
        gnd[0, place] = (np.array([ok], float), np.array([box], float))
    return gnd


@pytest.fixture
def images(tmp_path):
    for name in GALLERY + QUERIES:
        path = tmp_path / "instre" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "instre"


@pytest.fixture
def write_mat(tmp_path):
    def write_mat(right: list, boxes: list) -> Path:
        path = tmp_path / "gnd_instre.mat"
        variables = {"imlist": cells(GALLERY), "qimlist": cells(QUERIES)}
        scipy.io.savemat(path, {**variables, "gnd": struct(right, boxes)}, do_compression=True)
        return path

    return write_mat


@pytest.fixture
def write(tmp_path):
    def write(right: list, boxes: list) -> Path:
        path = tmp_path / "gnd_instre.pkl"
        answers = [{"ok": ok, "bbx": box} for ok, box in zip(right, boxes, strict=True)]
        path.write_bytes(pickle.dumps({"imlist": GALLERY, "qimlist": QUERIES, "gnd": answers}))
        return path

    return write


def test_the_matlab_file_counts_from_one(write_mat, images):
    benchmark = read_instre(write_mat([[1, 2, 4], [3]], CORNERS), images)
    assert (benchmark.name, benchmark.protocol, benchmark.depth) == ("INSTRE", "revisited", None)
    assert [photo.id for photo in benchmark.gallery] == GALLERY
    assert benchmark.gallery[0].path == images / GALLERY[0]
    answers = benchmark.truth[QUERIES[0]]
    assert answers.easy == {GALLERY[0], GALLERY[1], GALLERY[3]}
    assert not answers.hard | answers.junk
    assert benchmark.truth[QUERIES[1]].easy == {GALLERY[2]}
    assert [query.id for query in benchmark.queries] == QUERIES
    assert [query.box for query in benchmark.queries] == [(100, 50, 200, 200), (0, 0, 640, 480)]


def test_boxes_that_cannot_be_corners_are_read_as_sizes(write, images):
    gnd = write([[0], [2]], [[100, 50, 80, 90], [0, 0, 640, 480]])
    boxes = [query.box for query in read_instre(gnd, images).queries]
    assert boxes == [(100, 50, 80, 90), (0, 0, 640, 480)]


def test_a_pickle_counts_from_zero(write, images):
    benchmark = read_instre(write([[0, 1], [2]], CORNERS), images)
    assert benchmark.truth[QUERIES[0]].easy == {GALLERY[0], GALLERY[1]}
    assert benchmark.queries[0].box == (100, 50, 200, 200)


@pytest.mark.parametrize("folder", ["INSTRE_release", "images"])
def test_the_photos_may_lie_one_folder_deeper(write, images, tmp_path, folder):
    images.rename(tmp_path / folder)
    images.mkdir()
    (tmp_path / folder).rename(images / folder)
    benchmark = read_instre(write([[0], [2]], CORNERS), images)
    assert benchmark.gallery[0].path == images / folder / GALLERY[0]


def test_missing_photos_are_named(write, images, tmp_path):
    gnd = write([[0], [2]], CORNERS)
    (images / QUERIES[1]).unlink()
    with pytest.raises(UsageError, match=f"1 of 2 photos are missing: '{QUERIES[1]}'"):
        read_instre(gnd, images)
    with pytest.raises(UsageError, match="none of INSTRE-S1, INSTRE-S2, INSTRE-M"):
        read_instre(gnd, tmp_path)


@pytest.mark.parametrize(
    ("right", "boxes", "said"),
    [
        ([[-1], [2]], CORNERS, "001.jpg': index -1 lies outside the 4 photos"),
        ([[4], [2]], CORNERS, "001.jpg': index 4 lies outside the 4 photos"),
        ([[0, 0], [2]], CORNERS, "names a photo twice"),
        ([[0], [2]], [[1, 2, 3], [0, 0, 1, 1]], "not four numbers"),
        ([[0], [2]], [[1, 2, 0, 3], [0, 0, 1, 1]], "query 0 is empty"),
        ([[0]], CORNERS[:1], "an entry for each of qimlist"),
    ],
)
def test_a_contradiction_says_what_is_wrong(write, images, right, boxes, said):
    with pytest.raises(UsageError, match=said):
        read_instre(write(right, boxes), images)


def test_indices_of_a_matlab_file_are_whole_numbers(write_mat, images):
    with pytest.raises(UsageError, match="query 0: its relevant photos must be whole numbers"):
        read_instre(write_mat([[1.5], [3]], CORNERS), images)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"x": [1, 2]}, "needs imlist, qimlist, gnd"),
        (
            {"imlist": [1], "qimlist": cells(["a"]), "gnd": struct([[1]], [[1]])},
            "imlist must be a list of names",
        ),
        (
            {"imlist": [1], "qimlist": [1], "gnd": cells(["a"])},
            "query 0: needs the relevant photos",
        ),
    ],
)
def test_a_matlab_file_of_something_else_is_an_error(tmp_path, images, variables, said):
    scipy.io.savemat(tmp_path / "gnd.mat", variables)
    with pytest.raises(UsageError, match=said):
        read_instre(tmp_path / "gnd.mat", images)


def test_a_damaged_and_a_missing_file_are_an_error(write_mat, images, tmp_path):
    gnd = write_mat([[1], [3]], CORNERS)
    gnd.write_bytes(gnd.read_bytes()[:-100])
    with pytest.raises(UsageError, match=r"gnd_instre\.mat: not a MATLAB file, or damaged"):
        read_instre(gnd, images)
    with pytest.raises(UsageError, match="no such file"):
        read_instre(tmp_path / "missing.mat", images)
