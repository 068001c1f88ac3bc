"""What people say of queries and photos is kept, respected and exported."""

from __future__ import annotations

import sqlite3

import pytest
from dots import dots, gallery

from delg.errors import DelgError, UsageError
from index import ImageIndex
from index.answers.marks import FILE, Marks, query_key
from index.labels import GivenLabels, Label


@pytest.fixture
def images(make_index, tmp_path):
    gallery(tmp_path / "photos", 12)
    images = make_index()
    labels = {"004.png": Label("four"), "007.png": Label("seven")}
    images.add(tmp_path / "photos", GivenLabels(labels))
    return images


def test_marks_are_respected_in_later_answers_to_the_same_photo(images, tmp_path):
    photo = dots(4).save(tmp_path / "q.png")
    assert images.query(photo).answer().best.name == "four"
    images.mark(photo, "004.png", "different")
    images.mark(photo.read_bytes(), "007.png", "same")
    for source in (photo, photo.read_bytes()):
        result = images.query(source, k=12)
        assert {hit.id: hit.mark for hit in result if hit.mark} == {
            "004.png": "different", "007.png": "same",
        }  # fmt: skip
        assert result.answer().text == "sure: seven" and result.key == query_key(photo)
    assert result.as_json("q", "i")["hits"][0]["mark"] == "different"
    # The ranking stays, and other queries are not touched.
    assert result[0].id == "004.png"
    other = dots(4).save(tmp_path / "other.png")
    other.write_bytes(other.read_bytes() + b"x")
    assert images.query(other).answer().best.name == "four"
    images.mark(photo, "004.png", None)
    images.mark(photo, "007.png", None)
    assert images.query(photo).answer().best.name == "four"


def test_a_photo_of_the_index_is_known_by_its_file(images, tmp_path):
    images.mark(tmp_path / "photos" / "004.png", "007.png", "same")
    assert images.more_like("004.png", k=12).answer().best.name == "seven"


def test_a_mark_changes_nothing_that_can_be_found(images, tmp_path):
    before = images.generation
    catalog = (images.path / "catalog.sqlite").stat().st_mtime_ns
    images.mark(dots(1).pixels(), "004.png", "same", "x")
    assert images.generation == before
    assert (images.path / "catalog.sqlite").stat().st_mtime_ns == catalog
    again = ImageIndex.open(images.path)
    [mark] = again.marks
    assert (mark.image, mark.verdict, mark.name) == ("004.png", "same", "x") and mark.at
    assert again.check().problems == []


def test_what_cannot_be_marked_is_named(images, tmp_path):
    with pytest.raises(UsageError, match="no image"):
        images.mark(dots(1).pixels(), "nothing", "same")
    with pytest.raises(UsageError, match="cannot be read"):
        images.mark(tmp_path / "nothing.png", "004.png", "same")
    (images.path / FILE).write_bytes(b"no database" * 100)
    with pytest.raises(DelgError, match=FILE):
        images.mark(dots(1).pixels(), "004.png", "same")


def test_marks_become_truth_for_an_evaluation(tmp_path):
    marks = Marks(tmp_path)
    assert list(marks) == marks.truth() == [] and not marks.delete("a", "1")
    marks.put("a", "1", "same", "q/a.jpg")
    marks.put("a", "2", "different", "q/a.jpg")
    marks.put("a", "3", "same", "q/a.jpg")
    marks.put("b", "1", "different", "b.jpg")
    assert sorted(marks.truth()) == [("b.jpg", ""), ("q/a.jpg", "1"), ("q/a.jpg", "3")]
    assert marks.truth({"a": "A"}) == [("A", "1"), ("A", "3")]
    marks.put("a", "1", "different")
    assert marks.of("a") == {"1": "different", "2": "different", "3": "same"}
    assert marks.delete("a", "1") and not marks.delete("a", "1")


def test_a_writer_that_was_killed_leaves_no_half_mark(tmp_path):
    marks = Marks(tmp_path)
    marks.put("a", "1", "same")
    db = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    db.execute("BEGIN")
    db.execute("INSERT INTO marks VALUES ('a', '2', 'same', '', '')")
    db.close()
    assert marks.of("a") == {"1": "same"}
