from __future__ import annotations

import pytest

from delg.errors import UsageError
from eval.datasets.sop import read_sop

LIST = """image_id class_id super_class_id path
1 11319 1 bicycle_final/251952414262_0.JPG
2 11319 1 bicycle_final/251952414262_1.JPG
3 11319 1 bicycle_final/251952414262_2.JPG
4 11320 5 chair_final/251947648126_0.JPG
5 11320 5 chair_final/251947648126_1.JPG
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "Ebay_test.txt").write_text(LIST)
    for line in LIST.splitlines()[1:]:
        path = tmp_path / line.split()[3]
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "bicycle_final" / "of_the_train_part.JPG").touch()
    return tmp_path


def test_every_photo_of_the_test_part_is_a_query_against_the_others(root):
    benchmark = read_sop(root)
    assert (benchmark.protocol, benchmark.recalls) == ("retrieval", (1, 10, 100, 1000))
    assert benchmark.depth == 1000
    assert len(benchmark.gallery) == len(benchmark.queries) == 5
    assert all(query.gallery_id == query.id for query in benchmark.queries)
    assert benchmark.truth["bicycle_final/251952414262_1.JPG"].relevant == {
        "bicycle_final/251952414262_0.JPG",
        "bicycle_final/251952414262_2.JPG",
    }
    assert benchmark.labels["chair_final/251947648126_0.JPG"] == "11320"
    assert benchmark.queries[0].path == root / "bicycle_final/251952414262_0.JPG"


def test_missing_photos_are_named(root):
    (root / "chair_final/251947648126_1.JPG").unlink()
    with pytest.raises(UsageError, match=r"1 of 5 photos .*'chair_final/251947648126_1.JPG'"):
        read_sop(root)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "its first line must be"),
        ("1 2 3 a.JPG\n", "its first line must be 'image_id class_id super_class_id path'"),
        ("image_id class_id super_class_id path\n", "names no photo"),
        (LIST + "6 1 a.JPG\n", "line 7: needs 4 fields"),
        (LIST + "6 1 1 chair_final/251947648126_1.JPG\n", "line 7: .* has a line already"),
        (LIST + "6 1 1 ../../secret.JPG\n", "no path inside the dataset"),
    ],
)
def test_a_malformed_list_says_what_is_wrong(root, text, said):
    (root / "Ebay_test.txt").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_sop(root)


def test_a_folder_without_the_list_is_an_error(root):
    with pytest.raises(UsageError, match=r"Ebay_test.txt: cannot be read: No such file"):
        read_sop(root / "chair_final")
    (root / "Ebay_test.txt").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="not a text file"):
        read_sop(root)
