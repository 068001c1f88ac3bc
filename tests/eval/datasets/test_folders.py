from __future__ import annotations

import pytest

from delg.errors import UsageError
from eval.datasets.folders import read_folders


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "photos"
    for name in (
        "tower/1.jpg", "tower/2.png", "tower/3.jpg", "bridge/1.jpg", "more/bridge/2.jpg",
        "alone/1.jpg", "top.jpg", ".hidden/1.jpg", "tower/.4.jpg", "tower/notes.txt",
    ):  # fmt: skip
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_photos_in_folders_of_one_name_are_right_for_each_other(root):
    benchmark = read_folders(root)
    assert (benchmark.name, benchmark.protocol, benchmark.depth) == ("photos", "retrieval", 100)
    assert [photo.id for photo in benchmark.gallery] == [
        "alone/1.jpg", "bridge/1.jpg", "more/bridge/2.jpg", "top.jpg", "tower/1.jpg",
        "tower/2.png", "tower/3.jpg",
    ]  # fmt: skip
    assert [query.id for query in benchmark.queries] == [
        "bridge/1.jpg", "more/bridge/2.jpg", "tower/1.jpg", "tower/2.png", "tower/3.jpg",
    ]  # fmt: skip
    assert all(query.gallery_id == query.id for query in benchmark.queries)
    assert benchmark.queries[0].path == root / "bridge/1.jpg"
    assert benchmark.truth["bridge/1.jpg"].relevant == {"more/bridge/2.jpg"}
    assert benchmark.truth["tower/2.png"].relevant == {"tower/1.jpg", "tower/3.jpg"}
    assert set(benchmark.truth) == {query.id for query in benchmark.queries}
    assert benchmark.labels["alone/1.jpg"] == "alone"
    assert "top.jpg" not in benchmark.labels


def test_a_sample_repeats_with_its_seed(root):
    first = [query.id for query in read_folders(root, sample=3, seed=1).queries]
    assert len(first) == 3 and first == sorted(first)
    assert [query.id for query in read_folders(root, sample=3, seed=1).queries] == first
    others = [tuple(q.id for q in read_folders(root, 3, seed).queries) for seed in range(20)]
    assert len(set(others)) > 1
    assert len(read_folders(root, sample=3).gallery) == 7


def test_a_sample_larger_than_the_whole_is_the_whole(root):
    assert len(read_folders(root, sample=99).queries) == 5


def test_what_cannot_be_a_benchmark_is_an_error(tmp_path, root):
    with pytest.raises(UsageError, match="no such folder"):
        read_folders(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no photos"):
        read_folders(tmp_path / "empty")
    with pytest.raises(UsageError, match="no two photos lie in folders of the same name"):
        read_folders(root / "alone")
    with pytest.raises(UsageError, match="no two photos"):
        read_folders(root / "tower")  # Its photos lie at the top, so have no label.
    with pytest.raises(UsageError, match="at least 1"):
        read_folders(root, sample=0)


def test_more_right_answers_than_memory_holds_ask_for_a_sample(root, monkeypatch):
    monkeypatch.setattr("eval.datasets.folders._MAX_RELEVANT", 5)
    with pytest.raises(UsageError, match="use --sample"):
        read_folders(root)
    assert len(read_folders(root, sample=1).queries) == 1
