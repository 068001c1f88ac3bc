"""The table of answers: safe in spreadsheets, and continued where it was left."""

from __future__ import annotations

import csv

import pytest
from dots import dots, gallery
from hypothesis import given
from hypothesis import strategies as st

from delg.errors import UsageError
from index.answers.answer_table import (
    AnswerFile,
    answer_row,
    columns_for,
    escape,
    failure_row,
    unescape,
)
from index.labels import GivenLabels, Label

COLUMNS = columns_for(["room", "=evil", "id"])


@given(st.text())
def test_no_text_is_a_formula_and_every_one_is_read_back(text):
    cell = escape(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert unescape(cell) == text


def rows(path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def test_answers_with_metadata_are_rows(make_index, tmp_path):
    gallery(tmp_path / "photos", 12)
    images = make_index()
    labels = {"004.png": Label("=HYPERLINK(1)", {"room": "-1", "id": "Inv. 4"})}
    images.add(tmp_path / "photos", GivenLabels(labels))
    with AnswerFile(tmp_path / "a.csv", COLUMNS).writing() as table:
        table.write(answer_row("-q,ü\n.png", images.query(dots(4).pixels())))
        table.write(answer_row("unknown", images.query(dots(77).pixels())))
        table.write(failure_row("bad.jpg", "no photo"))
    known, unknown, failed = rows(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    assert known["query"] == "'-q,ü\n.png" and known["label"] == "'=HYPERLINK(1)"
    assert (known["id"], known["room"], known["metadata.id"]) == ("004.png", "'-1", "Inv. 4")
    assert known["verified"] == "yes" and float(known["probability"]) > 0.5
    assert unknown["answer"] == "none" and unknown["id"] == unknown["path"] == ""
    assert failed["error"] == "no photo" and failed["answer"] == ""
    again = AnswerFile(tmp_path / "a.csv", COLUMNS)
    # What failed is tried again.
    assert again.answered == {"-q,ü\n.png", "unknown"} and len(rows(tmp_path / "a.csv")) == 2


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_row_that_was_cut_short_is_written_again(tmp_path, cut):
    path = tmp_path / "a.csv"
    with AnswerFile(path, COLUMNS).writing() as table:
        table.write({"query": "a", "answer": "none"})
        table.write({"query": "b" * 50, "answer": "none", "note": "n" * 50})
    path.write_bytes(path.read_bytes()[:-cut])
    assert AnswerFile(path, COLUMNS).answered == {"a"}
    with AnswerFile(path, COLUMNS).writing() as table:
        table.write({"query": "c"})
    assert [row["query"] for row in rows(path)] == ["a", "c"]


@pytest.mark.parametrize("content", [b"query,relevant\na,b\n", b"\xff\xd8\xff\xe0", b"hello"])
def test_a_file_of_something_else_is_kept(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.csv"):
        AnswerFile(path, COLUMNS)
    assert path.read_bytes() == content
