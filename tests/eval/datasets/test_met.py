from __future__ import annotations

import json
from pathlib import Path

import pytest

from delg.errors import UsageError
from eval.datasets.met import read_met

DATABASE = [
    {"id": 34, "path": "MET/34/0.jpg"},
    {"id": 34, "path": "MET/34/1.jpg"},
    {"id": 436535, "path": "MET/436535/0.jpg"},
]
TEST = [
    {"path": "test_met/ab12.jpg", "MET_id": 34, "photographer": "x", "url": "https://example.org"},
    {"path": "test_other/cd34.jpg", "category": "Paintings", "url": "https://example.org"},
    {"path": "test_noart/ef56.jpg"},
]
VAL = [{"path": "test_met/00ff.jpg", "MET_id": "436535"}]


def make(photos: Path, truth: Path) -> None:
    for entry in DATABASE + TEST + VAL:
        path = photos / str(entry["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    truth.mkdir(parents=True, exist_ok=True)
    for name, entries in {
        "MET_database.json": DATABASE,
        "mini_MET_database.json": DATABASE[1:],
        "testset.json": TEST,
        "valset.json": VAL,
    }.items():
        (truth / name).write_text(json.dumps(entries))


@pytest.fixture
def root(tmp_path):
    make(tmp_path, tmp_path)
    return tmp_path


def test_the_test_queries_and_the_database_are_read(root):
    benchmark = read_met(root)
    assert (benchmark.name, benchmark.protocol) == ("Met test", "recognition")
    assert [photo.id for photo in benchmark.gallery] == [str(entry["path"]) for entry in DATABASE]
    assert benchmark.gallery[0].path == root / "MET/34/0.jpg"
    assert benchmark.labels == {
        "MET/34/0.jpg": "34",
        "MET/34/1.jpg": "34",
        "MET/436535/0.jpg": "436535",
    }
    assert [query.path for query in benchmark.queries] == [root / str(e["path"]) for e in TEST]
    assert benchmark.truth["test_met/ab12.jpg"].labels == {"34"}
    # Photos of no exhibit have no label.
    assert benchmark.truth["test_other/cd34.jpg"].labels == frozenset()
    assert benchmark.truth["test_noart/ef56.jpg"].labels == frozenset()


def test_the_validation_queries_and_the_mini_database_are_read(root):
    benchmark = read_met(root, split="val", mini=True)
    assert benchmark.name == "Met val (mini)"
    assert len(benchmark.gallery) == 2
    assert benchmark.truth["test_met/00ff.jpg"].labels == {"436535"}


def test_the_layout_of_the_authors_code_is_read_too(tmp_path):
    make(tmp_path / "images", tmp_path / "ground_truth")
    assert read_met(tmp_path).gallery[0].path == tmp_path / "images/MET/34/0.jpg"


@pytest.mark.parametrize("name", ["MET_database.json", "testset.json"])
def test_a_missing_file_is_named(root, name):
    (root / name).unlink()
    with pytest.raises(UsageError, match=f"neither {name} nor ground_truth/{name}"):
        read_met(root)


def test_missing_photos_are_named(root):
    (root / "test_noart/ef56.jpg").unlink()
    with pytest.raises(UsageError, match=r"1 of 3 photos are missing: 'test_noart/ef56.jpg'"):
        read_met(root)
    (root / "MET/34/1.jpg").unlink()
    with pytest.raises(UsageError, match=r"1 of 3 photos are missing: 'MET/34/1.jpg'"):
        read_met(root)
    (root / "MET").rename(root / "gone")
    with pytest.raises(UsageError, match="neither MET/ nor images/MET/"):
        read_met(root)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ("{}", "must be a list"),
        ("[]", "must be a list"),
        ("[3]", "entry 0: has no path"),
        ('[{"id": 3}]', "entry 0: has no path"),
        ('[{"path": "MET/34/0.jpg"}]', "'MET/34/0.jpg' has no id"),
        ('[{"path": "MET/34/0.jpg", "id": "a"}]', "entry 0: id 'a' is no number"),
        ('[{"path": "MET/34/0.jpg", "id": 3.5}]', "entry 0: id '3.5' is no number"),
        ('[{"path": "../x.jpg", "id": 3}]', "no path inside the dataset"),
        ('[{"path": "a", "id": 3}, {"path": "a", "id": 4}]', "entry 1: 'a' has an entry already"),
    ],
)
def test_a_malformed_file_says_what_is_wrong(root, text, said):
    (root / "MET_database.json").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_met(root)


def test_there_are_two_splits(root):
    with pytest.raises(UsageError, match="'train'; there are test, val"):
        read_met(root, split="train")
