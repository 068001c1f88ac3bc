"""The table of answers: safe in spreadsheets, and continued where it was left."""

from __future__ import annotations

import csv
import io
import re

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


@given(st.text() | st.text("=+-@';\t\n1.,a"))
def test_no_text_is_a_formula_and_every_one_is_read_back(text):
    cell = escape(text)
    # Spreadsheets that separate by semicolons or tabs begin a cell after each.
    for part in re.split("[;\t\n]", cell):
        is_number = re.fullmatch(r"[+-]?\d+([.,]\d+)?", part)
        assert is_number or not part.startswith(("=", "+", "-", "@", "\r"))
    assert unescape(cell) == text


@pytest.mark.parametrize(
    ("text", "cell"),
    [("=1+1", "'=1+1"), ("-33.8393", "-33.8393"), ("+49", "+49"), ("-1+cmd", "'-1+cmd"),
     ("x;=1+1", "x;'=1+1"), ("a;-2;b", "a;-2;b"), ("'=1", "''=1"), ("@SUM(A1)", "'@SUM(A1)"),
     ("plain; text", "plain; text"), ("", "")],
)  # fmt: skip
def test_formulas_are_text_and_numbers_stay_numbers(text, cell):
    assert escape(text) == cell


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
    assert (known["id"], known["room"], known["metadata.id"]) == ("004.png", "-1", "Inv. 4")
    assert known["verified"] == "yes" and float(known["probability"]) > 0.5
    assert unknown["answer"] == "none" and unknown["id"] == unknown["path"] == ""
    assert failed["error"] == "no photo" and failed["answer"] == ""
    # A spreadsheet may save it with semicolons.
    text = io.StringIO()
    csv.writer(text, delimiter=";").writerows(
        [COLUMNS, *([row[key] for key in COLUMNS] for row in (known, unknown, failed))]
    )
    (tmp_path / "a.csv").write_text("\ufeff" + text.getvalue(), newline="")
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
