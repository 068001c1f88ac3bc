import csv
import io
from pathlib import Path

import pytest

from delg.errors import UsageError
from index.labels import FileLabels, FolderLabels, Label, read_labels


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "labels.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_the_folder_names_the_label():
    labels = FolderLabels()
    assert labels.get("paris/tower/1.jpg") == Label("tower")
    assert labels.get("paris/2.jpg") == Label("paris")
    assert labels.get("3.jpg") == Label(None)
    assert labels.ids() == set()


def test_labels_from_a_file(write):
    labels = FileLabels(write("id,label\na/1.jpg,tower\n2.jpg,\n"))
    assert labels.get("a/1.jpg") == Label("tower")
    assert labels.get("2.jpg") == Label(None)
    assert labels.get("3.jpg") is None
    assert labels.ids() == {"a/1.jpg", "2.jpg"}


def test_other_columns_are_metadata_in_any_order(write):
    labels = FileLabels(write("artist,id,year,label\nMonet,1.jpg,1872,Sunrise\n"))
    assert labels.get("1.jpg") == Label("Sunrise", {"artist": "Monet", "year": "1872"})


def test_quotes_hold_commas_quotes_and_line_ends(write):
    labels = FileLabels(write('id,label,note\n"a,b.jpg","He said ""hi""","two\nlines"\n'))
    assert labels.get("a,b.jpg") == Label('He said "hi"', {"note": "two\nlines"})


def test_unicode_a_byte_order_mark_and_windows_line_ends(write):
    labels = FileLabels(write("\ufeffid,label\r\nбашня/塔.jpg,Эйфелева башня\r\n"))
    assert labels.get("башня/塔.jpg") == Label("Эйфелева башня")


def test_empty_lines_are_passed_over(write):
    assert FileLabels(write("id,label\n\n1.jpg,x\n\n")).ids() == {"1.jpg"}


@pytest.mark.parametrize("separator", [";", "\t", ","])
def test_a_table_is_read_as_spreadsheets_of_any_country_save_it(write, separator):
    lines = ["id,label,room", '1.jpg,"a; b, c\td",1', "2.jpg,x,"]
    text = io.StringIO()
    rows = csv.reader(lines)
    csv.writer(text, delimiter=separator).writerows(rows)
    labels = FileLabels(write("\ufeff" + text.getvalue()))
    assert labels.get("1.jpg") == Label("a; b, c\td", {"room": "1"})
    assert labels.get("2.jpg") == Label("x", {"room": ""})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,name\n1.jpg,x\n", "no column called label"),
        ("name,label\n1.jpg,x\n", "no column called id"),
        ("", "no column called id or label"),
        ("1.jpg,x\n", "no column called id or label"),
        ("id,label\n1.jpg,x\n2.jpg,y\n1.jpg,z\n", "line 4: '1.jpg' has a line already"),
        ("id,label\n1.jpg,x\n2.jpg\n", "line 3: has more or fewer fields"),
        ("id,label\n1.jpg,x,y\n", "line 2: has more or fewer fields"),
        ("id,label\n1.jpg,caf\xe9\n".encode("latin-1"), "not a UTF-8 CSV file"),
        ("id,label\n1.jpg,x\n".encode("utf-16"), "not a UTF-8 CSV file"),
        ('id,label\n1.jpg,"x\n', "not a UTF-8 CSV file"),
        ('id,label\n1.jpg,"x"y\n', "not a UTF-8 CSV file"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name(write, text, message):
    path = write(text)
    with pytest.raises(UsageError) as error:
        FileLabels(path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.csv: cannot be read: No such file"):
        FileLabels(tmp_path / "none.csv")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        FileLabels(tmp_path)


def test_the_choice_of_the_command_line(write):
    assert read_labels(None) is None
    assert isinstance(read_labels("folders"), FolderLabels)
    chosen = read_labels(str(write("id,label\n1.jpg,x\n")))
    assert isinstance(chosen, FileLabels) and chosen.ids() == {"1.jpg"}
