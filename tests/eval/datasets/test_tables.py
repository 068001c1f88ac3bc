from pathlib import Path

import pytest

from delg.errors import UsageError
from eval.datasets.tables import read_rows


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "table.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_fields_come_in_the_order_asked_for_with_line_numbers(write):
    path = write("b,a\n1,2\n\n3,4\n")
    assert list(read_rows(path, ("a", "b"))) == [(2, ["2", "1"]), (4, ["4", "3"])]


def test_optional_columns_may_be_absent(write):
    assert list(read_rows(write("a,c\n1,2\n"), ("a",), ("b", "c"))) == [(2, ["1", "", "2"])]


def test_quotes_unicode_byte_order_mark_and_windows_line_ends(write):
    path = write('\ufeffa,b\r\n"塔, ""x""\ny",2\r\n')
    assert list(read_rows(path, ("a", "b"))) == [(3, ['塔, "x"\ny', "2"])]


def test_fields_may_be_long(write):
    path = write("a\n" + "x" * 1_000_000 + "\n")
    assert len(next(read_rows(path, ("a",)))[1][0]) == 1_000_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column called a or b"),
        ("a\n1\n", "no column called b"),
        ("a,b,c\n1,2,3\n", "unknown column 'c'"),
        ("a,b,B\n1,2,3\n", "unknown column 'B'"),
        ("a,b,a\n1,2,3\n", "twice"),
        ("a,b\n1,2\n3\n", "line 3: has more or fewer fields"),
        ("a,b\n1,2,3\n", "line 2: has more or fewer fields"),
        ('a,b\n1,2\n"3,4\n', "after line 2: not a UTF-8 CSV file"),
        (b"a,b\n\xff,2\n", "not a UTF-8 CSV file"),
        (b"a,b\n1,\x00\xfe\n", "not a UTF-8 CSV file"),
    ],
)
def test_a_malformed_file_says_what_and_where(write, text, said):
    path = write(text)
    with pytest.raises(UsageError, match=said) as caught:
        list(read_rows(path, ("a", "b")))
    assert str(path) in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path):
    for path in (tmp_path / "missing.csv", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            list(read_rows(path, ("a",)))
