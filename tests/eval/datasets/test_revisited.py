from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from delg.errors import UsageError
from eval.datasets.revisited import read_revisited

GALLERY = [f"all_souls_{number:06}" for number in range(8)]
QUERIES = ["magdalen_000078", "keble_000245"]


def touch(folder: Path, names: list[str], suffix: str = ".jpg") -> Path:
    for name in names:
        path = folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.fixture
def truth():
    return {
        "imlist": list(GALLERY),
        "qimlist": list(QUERIES),
        "gnd": [
            {"bbx": [136.5, 34.1, 648.5, 955.7], "easy": [0, 3], "hard": [1], "junk": [7]},
            {"bbx": (10, 20, 110, 70), "easy": [], "hard": [], "junk": [2, 5]},
        ],
    }


@pytest.fixture
def write(tmp_path):
    def write(truth: object, protocol: int = 2) -> Path:
        path = tmp_path / "gnd_roxford5k.pkl"
        path.write_bytes(pickle.dumps(truth, protocol))
        return path

    return write


@pytest.fixture
def images(tmp_path):
    return touch(tmp_path / "images", GALLERY + QUERIES)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_the_official_pickle_is_read(write, truth, images, protocol):
    benchmark = read_revisited(write(truth, protocol), images)
    assert (benchmark.name, benchmark.protocol, benchmark.depth) == ("roxford5k", "revisited", None)
    assert [photo.id for photo in benchmark.gallery] == GALLERY
    assert benchmark.gallery[0].path == images / "all_souls_000000.jpg"
    first, second = benchmark.queries
    assert (first.id, first.path) == ("magdalen_000078", images / "magdalen_000078.jpg")
    assert first.box == pytest.approx((136.5, 34.1, 512.0, 921.6))
    assert second.box == (10, 20, 100, 50)
    assert first.gallery_id is None
    answers = benchmark.truth["magdalen_000078"]
    assert answers.easy == {"all_souls_000000", "all_souls_000003"}
    assert answers.hard == {"all_souls_000001"}
    assert answers.junk == {"all_souls_000007"}
    assert not benchmark.truth["keble_000245"].easy | benchmark.truth["keble_000245"].hard


@pytest.mark.parametrize("layout", ["jpg", "paris/defense", "."])
@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".png", ".webp"])
def test_photos_are_found_wherever_they_lie_with_any_suffix(write, truth, tmp_path, layout, suffix):
    root = tmp_path / "root"
    touch(root / layout, GALLERY + QUERIES, suffix)
    benchmark = read_revisited(write(truth), root)
    assert benchmark.gallery[2].path == root / layout / f"all_souls_000002{suffix}"


def test_arrays_are_refused_with_what_to_do(write, truth, images):
    truth["gnd"][0]["easy"] = np.array([0, 3], np.uint16)
    with pytest.raises(UsageError, match=r"gnd_roxford5k\.pkl: asks for numpy.*tolist\(\)"):
        read_revisited(write(truth), images)


def test_missing_photos_are_counted_and_named(write, truth, images):
    for name in (GALLERY[1], QUERIES[1]):
        (images / f"{name}.jpg").unlink()
    said = r"2 of 10 photos are missing: 'all_souls_000001', 'keble_000245'"
    with pytest.raises(UsageError, match=said):
        read_revisited(write(truth), images)
    with pytest.raises(UsageError, match="no such folder"):
        read_revisited(write(truth), images / "missing")


def test_two_photos_of_one_name_are_an_error(write, truth, images):
    touch(images / "more", [GALLERY[0]], ".png")
    with pytest.raises(UsageError, match="'all_souls_000000' is ambiguous"):
        read_revisited(write(truth), images)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("easy", [8], "easy: index 8 lies outside the 8 photos"),
        ("hard", [-1], "hard: index -1 lies outside"),
        ("junk", [2**63], "lies outside"),
        ("easy", [0, 0], "easy: names a photo twice"),
        ("easy", [0.5], "whole numbers"),
        ("easy", ["a"], "whole numbers"),
        ("easy", [[1], [2]], "whole numbers"),
        ("easy", [[1], 2], "whole numbers"),
        ("easy", [2**63, -1], "whole numbers"),
        ("easy", None, "whole numbers"),
        ("easy", 3, "whole numbers"),
        ("easy", {"a": 1}, "whole numbers"),
        ("junk", [0], "'all_souls_000000' are in both easy and junk"),
        ("junk", [1], "'all_souls_000001' are in both hard and junk"),
        ("hard", [3], "'all_souls_000003' are in both easy and hard"),
        ("bbx", [1, 2, 3], "not four numbers"),
        ("bbx", None, "not four numbers"),
        ("bbx", "abcd", "not four numbers"),
        ("bbx", [1, 2, float("nan"), 4], "not four numbers"),
        ("bbx", [10, 10, 10, 20], "is empty"),
        ("bbx", [10, 10, 20, 5], "is empty"),
    ],
)
def test_a_contradiction_names_the_query(write, truth, images, key, value, said):
    truth["gnd"][0][key] = value
    with pytest.raises(UsageError, match=said) as caught:
        read_revisited(write(truth), images)
    assert "query 'magdalen_000078'" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"imlist": ["a", "a"]}, "imlist names photos twice: 'a'"),
        ({"imlist": [1, 2]}, "imlist must be a list of names"),
        ({"imlist": "abc"}, "imlist must be a list of names"),
        ({"imlist": None}, "imlist must be a list of names"),
        ({"qimlist": ["keble_000245"] * 2}, "qimlist names photos twice"),
        ({"gnd": []}, "an entry for each of qimlist"),
        ({"gnd": 3}, "an entry for each of qimlist"),
        ({"gnd": [None, None]}, "'magdalen_000078': needs bbx, easy, hard and junk"),
        ({"gnd": [{"bbx": [0, 0, 1, 1], "ok": []}] * 2}, "needs bbx, easy, hard and junk"),
    ],
)
def test_a_malformed_ground_truth_says_what_is_wrong(write, truth, images, change, said):
    with pytest.raises(UsageError, match=said):
        read_revisited(write({**truth, **change}), images)


@pytest.mark.parametrize("content", [[], {"imlist": []}, "text", None])
def test_a_pickle_of_something_else_is_an_error(write, images, content):
    with pytest.raises(UsageError, match="needs imlist, qimlist and gnd"):
        read_revisited(write(content), images)


def test_a_pickle_that_holds_code_is_refused_by_name(write, images):
    with pytest.raises(UsageError, match=r"asks for builtins.eval"):
        read_revisited(write(eval, 4), images)


def test_a_missing_ground_truth_is_an_error(tmp_path, images):
    with pytest.raises(UsageError, match="no such file or folder"):
        read_revisited(tmp_path / "gnd.pkl", images)


# The original ground truth, as text files.


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "gt_files"
    folder.mkdir()
    for name, text in {
        "all_souls_1_query": "oxc1_all_souls_000000 136.5 34.1 648.5 955.7\n",
        "all_souls_1_good": "all_souls_000000\nall_souls_000003\n",
        "all_souls_1_ok": "all_souls_000001\n",
        "all_souls_1_junk": "all_souls_000007\n",
        "all_souls_2_query": "all_souls_000000 0 0 100 50",
        "all_souls_2_good": "all_souls_000000\r\n",
        "all_souls_2_ok": "",
        "all_souls_2_junk": "\n",
    }.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def test_the_original_text_files_are_read(texts, images):
    benchmark = read_revisited(texts, images)
    assert (benchmark.protocol, benchmark.depth) == ("revisited", None)
    assert "good and ok as easy" in benchmark.name
    assert [photo.id for photo in benchmark.gallery] == sorted(GALLERY + QUERIES)
    first, second = benchmark.queries
    assert (first.id, second.id) == ("all_souls_1", "all_souls_2")
    assert first.path == second.path == images / "all_souls_000000.jpg"
    assert first.box == pytest.approx((136.5, 34.1, 512.0, 921.6))
    # The query counts as a right answer of its own, as is the custom there.
    assert first.gallery_id is None
    answers = benchmark.truth["all_souls_1"]
    assert answers.easy == {GALLERY[0], GALLERY[1], GALLERY[3]}
    assert not answers.hard
    assert answers.junk == {GALLERY[7]}
    assert benchmark.truth["all_souls_2"].easy == {GALLERY[0]}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("all_souls_1_query", "oxc1_all_souls_000000 1 2 3", "a name and the four numbers"),
        ("all_souls_1_query", "", "a name and the four numbers"),
        ("all_souls_1_query", "all_souls_000000 a b c d", "not four numbers"),
        ("all_souls_1_query", "all_souls_000000 1 2 nan 4", "not four numbers"),
        ("all_souls_1_query", "all_souls_000000 9 9 1 1", "is empty"),
        ("all_souls_1_query", "nowhere_000001 1 2 3 4", "1 of .* missing: 'nowhere_000001'"),
        ("all_souls_1_junk", "all_souls_000001", "'all_souls_1': .* both easy and junk"),
        ("all_souls_1_ok", "nowhere_000002", "1 of .* missing: 'nowhere_000002'"),
        ("all_souls_1_ok", None, "all_souls_1_ok.txt: missing; there must be four"),
    ],
)
def test_a_malformed_text_file_says_what_is_wrong(texts, images, name, text, said):
    path = texts / f"{name}.txt"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_revisited(texts, images)


def test_text_files_that_are_no_text_are_an_error(texts, images):
    (texts / "all_souls_1_good.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not a text file"):
        read_revisited(texts, images)


def test_a_folder_without_ground_truth_is_an_error(tmp_path, images):
    with pytest.raises(UsageError, match=r"no file ends in _query\.txt"):
        read_revisited(images, images)
