from __future__ import annotations

from pathlib import Path

import pytest

from delg.errors import UsageError
from eval.benchmark import RecognitionTruth, RetrievalTruth
from eval.datasets.gldv2 import (
    read_gldv2_recognition,
    read_gldv2_retrieval,
    read_recognition_solution,
    read_recognition_submission,
    read_retrieval_solution,
    read_retrieval_submission,
    read_train_labels,
    write_recognition_submission,
    write_retrieval_submission,
)

INDEX = ["fedcba9876543210", "fedcba9876543200", "00000000000000aa", "fed0000000000000"]
TEST = ["0123456789abcdef", "0223456789abcdef", "0323456789abcdef", "0423456789abcdef"]
TRAIN = {"6e158a47eb2ca3f6": "142820", "202cd79556f30760": "104169", "3ad87684c99c06e1": "142820"}

RETRIEVAL = (
    "id,images,Usage\n"
    "0123456789abcdef,None,Ignored\n"
    "0223456789abcdef,fedcba9876543210 fedcba9876543200,Public\n"
    "0323456789abcdef,fedcba9876543200,Private\n"
    "0423456789abcdef,,Private\n"
)
RECOGNITION = (
    "id,landmarks,Usage\n"
    "0123456789abcdef,142820 12,Public\n"
    "0223456789abcdef,,Public\n"
    "0323456789abcdef,100,Ignored\n"
    "0423456789abcdef,104169,Private\n"
)


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes, name: str = "file.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


# Solutions.


def test_a_retrieval_solution_has_parts_and_right_answers(write):
    assert read_retrieval_solution(write(RETRIEVAL)) == {
        "0123456789abcdef": RetrievalTruth(frozenset(), "Ignored"),
        "0223456789abcdef": RetrievalTruth(
            frozenset({"fedcba9876543210", "fedcba9876543200"}), "Public"
        ),
        "0323456789abcdef": RetrievalTruth(frozenset({"fedcba9876543200"}), "Private"),
        "0423456789abcdef": RetrievalTruth(frozenset(), "Private"),
    }


def test_a_recognition_solution_has_one_landmark_several_or_none(write):
    assert read_recognition_solution(write(RECOGNITION)) == {
        "0123456789abcdef": RecognitionTruth(frozenset({"142820", "12"}), "Public"),
        "0223456789abcdef": RecognitionTruth(frozenset(), "Public"),
        "0323456789abcdef": RecognitionTruth(frozenset({"100"}), "Ignored"),
        "0423456789abcdef": RecognitionTruth(frozenset({"104169"}), "Private"),
    }


@pytest.mark.parametrize("read", [read_retrieval_solution, read_recognition_solution])
def test_the_order_of_the_file_is_kept(write, read):
    text = RETRIEVAL if read is read_retrieval_solution else RECOGNITION
    assert list(read(write(text))) == TEST


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (read_retrieval_solution, "id,landmarks,Usage\n", "no column called images"),
        (read_retrieval_solution, "id,images\n", "no column called Usage"),
        (read_retrieval_solution, "id,images,Usage,score\n", "unknown column 'score'"),
        (read_retrieval_solution, "id,images,Usage\na,b,public\n", "line 2: Usage is 'public'"),
        (read_retrieval_solution, "id,images,Usage\na,b\n", "line 2: has more or fewer fields"),
        (read_retrieval_solution, RETRIEVAL + RETRIEVAL[16:], "line 6: '0123.*' has a line alr"),
        (read_retrieval_solution, "id,images,Usage\n,b,Public\n", "line 2: no id"),
        (read_recognition_solution, "id,images,Usage\n", "no column called landmarks"),
        (read_recognition_solution, "id,landmarks,Usage\na,b,Public\n", "line 2: landmark 'b'"),
        (read_recognition_solution, "id,landmarks,Usage\na,-1,Public\n", "line 2: landmark '-1'"),
        (read_recognition_solution, "id,landmarks,Usage\na,1,\n", "line 2: Usage is ''"),
        (read_recognition_solution, RECOGNITION + RECOGNITION[19:], "line 6: .* has a line alr"),
    ],
)
def test_a_malformed_solution_names_the_line(write, read, text, said):
    with pytest.raises(UsageError, match=said) as caught:
        read(write(text))
    assert "file.csv" in str(caught.value)


# Submissions.


def test_a_retrieval_submission_is_read_with_its_quirks(write):
    text = "id,images\na,x \nb,y z y\n\nc,\n"
    assert read_retrieval_submission(write(text)) == {"a": ("x",), "b": ("y", "z", "y"), "c": ()}


def test_a_recognition_submission_is_read_with_its_quirks(write):
    text = "id,landmarks\na,12 0.1 \nb,0 19\nc,\n\nd,007 -1e-3\n"
    assert read_recognition_submission(write(text)) == {
        "a": ("12", 0.1),
        "b": ("0", 19.0),
        "c": None,
        "d": ("7", -0.001),
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,images\n", "no column called landmarks"),
        ("id,landmarks,x\n", "unknown column 'x'"),
        ("id,landmarks\na,12\n", "line 2: '12' is not a landmark and a score"),
        ("id,landmarks\na,12 0.5 13 0.4\n", "is not a landmark and a score"),
        ("id,landmarks\na,12 high\n", "line 2: score 'high' is no number"),
        ("id,landmarks\na,12 nan\n", "line 2: score 'nan' is not finite"),
        ("id,landmarks\na,12 1e999\n", "line 2: score '1e999' is not finite"),
        ("id,landmarks\na,x 1\n", "line 2: landmark 'x' is no number"),
        ("id,landmarks\na,1 1\nb,\na,2 2\n", "line 4: 'a' has a line already"),
        ("id,landmarks\n,1 1\n", "line 2: no id"),
    ],
)
def test_a_malformed_recognition_submission_names_the_line(write, text, said):
    with pytest.raises(UsageError, match=said):
        read_recognition_submission(write(text))


def test_a_malformed_retrieval_submission_names_the_line(write):
    with pytest.raises(UsageError, match="line 3: 'a' has a line already"):
        read_retrieval_submission(write("id,images\na,x\na,y\n"))
    with pytest.raises(UsageError, match="unknown column 'Usage'"):
        read_retrieval_submission(write("id,images,Usage\na,x,Public\n"))


def test_submissions_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "out.csv"
    rankings = {"a": ["x", "y"], "b": [], "c": ["z"]}
    write_retrieval_submission(path, rankings)
    assert path.read_text() == "id,images\na,x y\nb,\nc,z\n"
    assert read_retrieval_submission(path) == {key: tuple(ids) for key, ids in rankings.items()}
    predictions = {"a": ("12", 0.1 + 0.2), "b": None, "c": ("3", 1e-300)}
    write_recognition_submission(path, predictions)
    assert path.read_text().startswith("id,landmarks\na,12 0.30000000000000004\nb,\n")
    assert read_recognition_submission(path) == predictions


def test_a_submission_holds_a_hundred_images_a_query(tmp_path):
    write_retrieval_submission(tmp_path / "out.csv", {"a": [f"i{n}" for n in range(150)]})
    assert read_retrieval_submission(tmp_path / "out.csv")["a"][-1] == "i99"


def test_what_the_format_cannot_hold_is_not_written(tmp_path):
    path = tmp_path / "out.csv"
    for wrong in ({"a b": []}, {"": []}, {"a": ["x y"]}, {"a": [""]}):
        with pytest.raises(ValueError, match="white space"):
            write_retrieval_submission(path, wrong)
    with pytest.raises(ValueError, match="white space"):
        write_recognition_submission(path, {"a": ("1 2", 0.5)})
    with pytest.raises(ValueError, match="must be finite"):
        write_recognition_submission(path, {"a": ("1", float("nan"))})
    assert not path.exists()
    with pytest.raises(UsageError, match="cannot be written"):
        write_retrieval_submission(tmp_path / "missing" / "out.csv", {})


# Train labels.


def test_train_labels_come_from_either_file(write):
    full = "id,url,landmark_id\n" + "".join(f"{i},http://x/y,{lm}\n" for i, lm in TRAIN.items())
    assert read_train_labels(write(full)) == TRAIN
    clean = (
        "landmark_id,images\n142820,6e158a47eb2ca3f6 3ad87684c99c06e1\n104169,202cd79556f30760\n"
    )
    assert read_train_labels(write(clean)) == TRAIN


def test_a_landmark_of_very_many_images_is_read(write):
    images = [f"{number:016x}" for number in range(20_000)]
    labels = read_train_labels(write(f"landmark_id,images\n7,{' '.join(images)}\n"))
    assert set(labels) == set(images) and set(labels.values()) == {"7"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,url\na,b\n", "no column called landmark_id"),
        ("id,url,landmark_id\na,b,c\n", "line 2: landmark 'c' is no number"),
        ("id,url,landmark_id\na,b,1\na,b,2\n", "line 3: 'a' has a line already"),
        ("landmark_id,images\n1,a b\n2,b\n", "line 3: 'b' has a line already"),
        ("landmark_id,images,more\n", "unknown column 'more'"),
        (b"\xff\xfe", "not a UTF-8 CSV file"),
    ],
)
def test_malformed_train_labels_name_the_line(write, text, said):
    with pytest.raises(UsageError, match=said):
        read_train_labels(write(text))
    with pytest.raises(UsageError, match="cannot be read"):
        read_train_labels(write(text).parent / "missing.csv")


# The whole dataset.


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "gldv2"
    for part, ids in (("index", INDEX), ("test", TEST), ("train", TRAIN)):
        for image in ids:
            path = root / part / image[0] / image[1] / image[2] / f"{image}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (root / part / "images_000.tar").touch()
        (root / part / ".hidden.jpg").touch()
    (root / "test" / "retrieval.csv").write_text(RETRIEVAL)
    (root / "test" / "recognition.csv").write_text(RECOGNITION)
    rows = "".join(f"{image},http://x,{landmark}\n" for image, landmark in TRAIN.items())
    (root / "train" / "train.csv").write_text("id,url,landmark_id\n" + rows)
    return root


def photo(root: Path, part: str, image: str) -> Path:
    return root / part / image[0] / image[1] / image[2] / f"{image}.jpg"


def test_retrieval_searches_the_index_tree_for_the_test_photos(root):
    benchmark = read_gldv2_retrieval(root, root / "test" / "retrieval.csv")
    assert (benchmark.name, benchmark.protocol, benchmark.depth) == (
        "GLDv2 retrieval", "retrieval", 100,
    )  # fmt: skip
    assert [photo.id for photo in benchmark.gallery] == sorted(INDEX)
    assert benchmark.gallery[0].path == photo(root, "index", sorted(INDEX)[0])
    assert [photo.id for photo in benchmark.queries] == TEST
    assert benchmark.queries[1].path == photo(root, "test", TEST[1])
    assert benchmark.truth == read_retrieval_solution(root / "test" / "retrieval.csv")


@pytest.mark.parametrize("place", ["index.csv", "index/index.csv"])
def test_the_list_of_the_index_says_what_belongs_to_it(root, place):
    solution = root / "test" / "retrieval.csv"
    (root / place).write_text("id,url\n" + "".join(f"{image},http://x\n" for image in INDEX[:3]))
    assert len(read_gldv2_retrieval(root, solution).gallery) == 3
    (root / place).write_text(
        "id,url\n" + "".join(f"{i},u\n" for i in [*INDEX, "abcd000000000000"])
    )
    with pytest.raises(UsageError, match=r"1 of 5 photos are missing: 'abcd000000000000'"):
        read_gldv2_retrieval(root, solution)
    assert len(read_gldv2_retrieval(root, solution, partial=True).gallery) == 4


def test_recognition_searches_the_train_tree_and_knows_its_landmarks(root):
    benchmark = read_gldv2_recognition(
        root, root / "test" / "recognition.csv", root / "train" / "train.csv"
    )
    assert (benchmark.name, benchmark.protocol) == ("GLDv2 recognition", "recognition")
    assert [photo.id for photo in benchmark.gallery] == sorted(TRAIN)
    assert benchmark.labels == TRAIN
    assert [photo.id for photo in benchmark.queries] == TEST
    assert benchmark.truth[TEST[0]].labels == {"142820", "12"}


def test_the_clean_list_leaves_out_the_other_photos(root, write):
    clean = write("landmark_id,images\n104169,202cd79556f30760\n")
    benchmark = read_gldv2_recognition(root, root / "test" / "recognition.csv", clean)
    assert [photo.id for photo in benchmark.gallery] == ["202cd79556f30760"]


def test_a_partial_download_is_an_error_unless_asked_for(root):
    photo(root, "test", TEST[3]).unlink()
    photo(root, "index", INDEX[1]).unlink()
    solution = root / "test" / "retrieval.csv"
    with pytest.raises(UsageError, match=f"index: 1 of 2 photos are missing: '{INDEX[1]}'"):
        read_gldv2_retrieval(root, solution)
    benchmark = read_gldv2_retrieval(root, solution, partial=True)
    assert benchmark.name == "GLDv2 retrieval (partial)"
    assert set(benchmark.truth) == {query.id for query in benchmark.queries} == set(TEST[:3])
    assert benchmark.truth[TEST[1]] == RetrievalTruth(frozenset({INDEX[0]}), "Public")
    assert benchmark.truth[TEST[2]] == RetrievalTruth(frozenset(), "Private")


def test_a_partial_recognition_has_the_photos_that_are_there(root):
    arguments = root, root / "test" / "recognition.csv", root / "train" / "train.csv"
    photo(root, "test", TEST[3]).unlink()
    with pytest.raises(UsageError, match=f"test: 1 of 4 photos are missing: '{TEST[3]}'"):
        read_gldv2_recognition(*arguments)
    photo(root, "train", "202cd79556f30760").unlink()
    with pytest.raises(UsageError, match="train: 1 of 3 photos are missing: '202cd79556f30760'"):
        read_gldv2_recognition(*arguments)
    benchmark = read_gldv2_recognition(*arguments, partial=True)
    assert set(benchmark.labels) == {photo.id for photo in benchmark.gallery} == {
        "6e158a47eb2ca3f6", "3ad87684c99c06e1",
    }  # fmt: skip
    assert set(benchmark.truth) == set(TEST[:3])


def test_a_wrong_folder_says_what_is_missing(root, tmp_path):
    solution = root / "test" / "retrieval.csv"
    with pytest.raises(UsageError, match="GLDv2 has train/, index/ and test/"):
        read_gldv2_retrieval(root / "index", solution)
    for part in ("index", "test"):
        (tmp_path / "empty" / part).mkdir(parents=True)
    with pytest.raises(UsageError, match="2 of 2 photos are missing"):
        read_gldv2_retrieval(tmp_path / "empty", solution)
    with pytest.raises(UsageError, match="none of the photos exists"):
        read_gldv2_retrieval(tmp_path / "empty", solution, partial=True)


def test_trees_may_be_links_to_other_disks_even_in_circles(root, tmp_path):
    (root / "index" / "f").rename(tmp_path / "disk")
    (root / "index" / "f").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "loop").symlink_to(root)
    benchmark = read_gldv2_retrieval(root, root / "test" / "retrieval.csv")
    assert [photo.id for photo in benchmark.gallery] == sorted(INDEX)
