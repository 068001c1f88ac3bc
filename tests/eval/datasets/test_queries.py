from __future__ import annotations

import pytest

from delg.errors import UsageError
from delg.images.scan import Photo
from eval.datasets.photos import find_photos
from eval.datasets.queries import read_queries

GALLERY = ["a/tower 1.jpg", "a/tower, 2.jpg", "b/bridge.png", "塔.jpg"]
QUERIES = ["q1.jpg", "sub/q 2.jpg", "none.webp"]
TRUTH = """query,relevant
q1.jpg,a/tower 1.jpg
none.webp,
sub/q 2.jpg,塔.jpg
q1.jpg,"a/tower, 2.jpg"
"""


@pytest.fixture
def read(tmp_path):
    for folder, names in (("gallery", GALLERY), ("queries", QUERIES)):
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def read(text, gallery="gallery", queries="queries"):
        truth = tmp_path / "mine.csv"
        truth.write_text(text, encoding="utf-8")
        return read_queries(tmp_path / gallery, tmp_path / queries, truth)

    return read


def test_several_right_answers_or_none(read, tmp_path):
    benchmark = read(TRUTH)
    assert (benchmark.name, benchmark.protocol) == ("mine", "retrieval")
    assert [photo.id for photo in benchmark.gallery] == sorted(GALLERY)
    assert [query.id for query in benchmark.queries] == ["q1.jpg", "none.webp", "sub/q 2.jpg"]
    assert benchmark.queries[2].path == (tmp_path / "queries/sub/q 2.jpg").resolve()
    assert {(query.box, query.gallery_id) for query in benchmark.queries} == {(None, None)}
    assert benchmark.truth["q1.jpg"].relevant == {"a/tower 1.jpg", "a/tower, 2.jpg"}
    assert benchmark.truth["none.webp"].relevant == frozenset()
    assert benchmark.truth["sub/q 2.jpg"].relevant == {"塔.jpg"}


def test_boxes_are_optional(read):
    benchmark = read(
        "relevant,query,x,y,width,height\n"
        "塔.jpg,q1.jpg,1,2.5,30,40\nb/bridge.png,q1.jpg,1,2.5,30,40\n"
        ",none.webp,,,,\n塔.jpg,sub/q 2.jpg,0,0,1,1\n"
    )
    boxes = {query.id: query.box for query in benchmark.queries}
    assert boxes == {"q1.jpg": (1, 2.5, 30, 40), "none.webp": None, "sub/q 2.jpg": (0, 0, 1, 1)}


def test_a_query_in_the_gallery_must_not_find_itself(read, tmp_path):
    benchmark = read(
        'query,relevant\ntower 1.jpg,b/bridge.png\n"tower, 2.jpg",a/tower 1.jpg\n',
        queries="gallery/a",
    )
    assert [query.gallery_id for query in benchmark.queries] == ["a/tower 1.jpg", "a/tower, 2.jpg"]
    with pytest.raises(UsageError, match=r"line 2: 'a/tower 1.jpg' is the query itself"):
        read("query,relevant\ntower 1.jpg,a/tower 1.jpg\n", queries="gallery/a")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column called query or relevant"),
        ("query,relevant,weight\n", "unknown column 'weight'"),
        ("query,relevant\nq9.jpg,塔.jpg\n", "line 2: .*queries holds no query 'q9.jpg'"),
        ("query,relevant\nq1.jpg,x.jpg\n", "line 2: .*gallery holds no photo 'x.jpg'"),
        (TRUTH + "q1.jpg,a/tower 1.jpg\n", "line 6: query 'q1.jpg' is listed 'a/tower 1.jpg' a"),
        (TRUTH + "q1.jpg,\n", "line 6: query 'q1.jpg' is listed with and without"),
        (TRUTH + "none.webp,塔.jpg\n", "line 6: .*with and without"),
        (
            TRUTH + "none.webp,\n",
            "line 6: query 'none.webp' is listed with and without",
        ),
        (
            "query,relevant\nq1.jpg,塔.jpg\n",
            "not mention 2 of the 3 photos .*'none.webp', 'sub/q 2",
        ),
        ("query,relevant\n", "not mention 3 of the 3 photos"),
        ("query,relevant,x,y\nq1.jpg,塔.jpg,1,2\n", "line 2: x, y, width and height must all be"),
        ("query,relevant,x,y,width,height\nq1.jpg,,1,2,,\n", "must all be numbers"),
        (
            "query,relevant,x,y,width,height\nq1.jpg,,1,2,0,4\n",
            "line 2: the box 1, 2, 0, 4 is empty",
        ),
        ("query,relevant,x,y,width,height\nq1.jpg,,1,2,inf,4\n", "not finite"),
        (
            "query,relevant,x,y,width,height\nq1.jpg,塔.jpg,1,2,3,4\nq1.jpg,b/bridge.png,1,2,3,5\n",
            "line 3: query 'q1.jpg' has another box",
        ),
    ],
)
def test_a_mistake_names_the_line_and_the_id(read, text, said):
    with pytest.raises(UsageError, match=said):
        read(text)


def test_missing_and_empty_folders_are_an_error(read, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no such folder"):
        read(TRUTH, gallery="missing")
    with pytest.raises(UsageError, match="no such folder"):
        read(TRUTH, queries="missing")
    with pytest.raises(UsageError, match="holds no photos"):
        read(TRUTH, gallery="empty")
    with pytest.raises(UsageError, match="names no query"):
        read("query,relevant\n", queries="empty")


def test_names_in_another_unicode_form_are_the_same(read, tmp_path):
    composed, decomposed = "\u00e9t\u00e9.jpg", "e\u0301te\u0301.jpg"
    for folder, on_disk, in_truth in (
        ("linux", composed, decomposed),
        ("mac", decomposed, composed),
    ):
        for part in ("gallery", "queries"):
            (tmp_path / folder / part).mkdir(parents=True)
            (tmp_path / folder / part / on_disk).touch()
        text = f"query,relevant\n{in_truth},{in_truth}\n"
        benchmark = read(text, f"{folder}/gallery", f"{folder}/queries")
        assert benchmark.truth[composed].relevant == {composed}
        assert benchmark.gallery[0].path.name == on_disk
        assert find_photos(tmp_path / folder / "gallery", [in_truth], tmp_path) == [
            Photo(composed, tmp_path / folder / "gallery" / on_disk)
        ]
