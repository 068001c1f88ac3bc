from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from delg.errors import UsageError
from eval.datasets import mat_file
from eval.datasets.mat_file import read_mat


def cell(*values: object) -> np.ndarray:
    array = np.empty((1, len(values)), object)
    array[0] = values
    return array


STRUCT = np.zeros((1, 2), [("ok", object), ("bbx", object)])
STRUCT[0, 0] = (np.array([[1, 2, 3]]), np.array([[1.5, 2, 3, 4]]))
STRUCT[0, 1] = (np.zeros((0, 0)), "text")
VARIABLES = {
    "names": cell("INSTRE-S1/01a/013.jpg", "ab", "é塔", ""),
    "gnd": STRUCT,
    "deep": cell(cell("a", 3.0), cell()),
    "matrix": np.arange(6.0).reshape(2, 3),
}


@pytest.fixture(params=[False, True], ids=["plain", "compressed"])
def path(request, tmp_path):
    path = tmp_path / "data.mat"
    scipy.io.savemat(path, VARIABLES, do_compression=request.param)
    return path


def test_cells_structs_text_and_numbers_are_read(path):
    found = read_mat(path, ("names", "gnd", "deep", "matrix", "missing"))
    assert sorted(found) == ["deep", "gnd", "matrix", "names"]
    assert found["names"][:3] == ["INSTRE-S1/01a/013.jpg", "ab", "é塔"]
    first, second = found["gnd"]
    assert list(first) == ["ok", "bbx"]
    assert first["ok"].tolist() == [1, 2, 3] and first["bbx"].tolist() == [1.5, 2, 3, 4]
    assert second["ok"].size == 0 and second["bbx"] == "text"
    assert found["deep"][0][0] == "a" and found["deep"][0][1].tolist() == [3]
    assert found["deep"][1] == []
    assert found["matrix"].tolist() == [0, 3, 1, 4, 2, 5]


def test_variables_that_nobody_asks_for_are_passed_over(path):
    assert list(read_mat(path, ["gnd"])) == ["gnd"]


@pytest.mark.parametrize("dtype", ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_every_type_of_number_is_read(tmp_path, dtype):
    scipy.io.savemat(tmp_path / "x.mat", {"x": np.array([0, 1, 100], dtype)})
    assert read_mat(tmp_path / "x.mat", "x")["x"].tolist() == [0, 1, 100]


# Files put together by hand.


def element(kind: int, data: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(
    kind: int, dims: tuple[int, ...], *parts: bytes, order: str = "<", flags: int = 0
) -> bytes:
    head = element(6, struct.pack(order + "II", kind | flags << 8, 0), order)
    head += element(5, struct.pack(f"{order}{len(dims)}i", *dims), order)
    return element(14, head + element(1, b"x", order) + b"".join(parts), order)


def header(order: str = "<", version: int = 0x100) -> bytes:
    return (
        b"MATLAB".ljust(124) + struct.pack(order + "H", version) + {"<": b"IM", ">": b"MI"}[order]
    )


@pytest.fixture
def read(tmp_path):
    def read(content: bytes):
        (tmp_path / "data.mat").write_bytes(content)
        return read_mat(tmp_path / "data.mat", ["x"])["x"]

    return read


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_are_read(read, order):
    numbers = element(9, struct.pack(order + "2d", 1.5, -2), order)
    assert read(header(order) + matrix(6, (1, 2), numbers, order=order)).tolist() == [1.5, -2]
    text = element(4, "ab".encode("utf-16-le" if order == "<" else "utf-16-be"), order)
    assert read(header(order) + matrix(4, (1, 2), text, order=order)) == "ab"


def test_small_elements_stand_in_their_tag(read):
    small = struct.pack("<HH", 2, 3) + b"\x01\x02\x03\x00"
    assert read(header() + matrix(6, (1, 3), small)).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "header is another"),
        (b"text", "header is another"),
        (b"\x80\x02]." * 100, "header is another"),
        (header(version=0x200) + bytes(400), r"version 7\.3 or newer; save it with -v7"),
        (header() + b"abc", "or damaged"),
        (header() + struct.pack("<II", 14, 2**32 - 1), "ends too early"),
        (header() + matrix(6, (1, 2**30), element(9, bytes(8))), "another size"),
        (header() + matrix(6, (2**31 - 1,) * 8, element(9, bytes(8))), "another size"),
        (header() + matrix(1, (1, 2**30)), "another size"),
        (header() + matrix(1, (1, -1)), "another size"),
        (header() + matrix(1, (1, 1), element(9, bytes(8))), "stands where a value should"),
        (header() + matrix(2, (1, 2**30), element(5, b"\x08\0\0\0"), element(1, bytes(8))), "size"),
        (header() + matrix(2, (1, 1), element(5, bytes(4)), element(1, b"a")), "no names"),
        (header() + matrix(6, (1, 1), element(9, bytes(8)), flags=8), "real numbers"),
        (header() + matrix(5, (1, 1)), "class 5"),  # sparse
        (header() + matrix(3, (1, 1)), "class 3"),  # object
        (header() + matrix(16, (1, 1)), "class 16"),  # function
        (header() + matrix(17, (1, 1)), "class 17"),  # opaque
        (header() + matrix(4, (1, 1), element(14, b"")), "where text should"),
        (header() + matrix(6, (1, 1), element(14, b"")), "where numbers should"),
        (header() + matrix(4, (1, 1), element(16, b"\xff")), "or damaged"),
        (header() + element(15, b"no zlib"), "or damaged"),
    ],
)
def test_what_is_damaged_or_something_else_says_so(read, content, said):
    with pytest.raises(UsageError, match=said) as caught:
        read(content)
    assert "data.mat" in str(caught.value)


def test_deep_nesting_is_refused(read):
    nested = matrix(6, (1, 1), element(9, bytes(8)))
    for _ in range(100):
        nested = matrix(1, (1, 1), nested)
    with pytest.raises(UsageError, match="cells in cells"):
        read(header() + nested)


def test_bombs_and_large_files_are_refused(read, monkeypatch):
    monkeypatch.setattr(mat_file, "_MAX_UNPACKED", 1 << 20)
    bomb = zlib.compress(bytes(10 << 20))
    with pytest.raises(UsageError, match="far more than its own size"):
        read(header() + struct.pack("<II", 15, len(bomb)) + bomb)
    monkeypatch.setattr(mat_file, "MAX_BYTES", 1 << 20)
    with pytest.raises(UsageError, match="larger than 1 MB"):
        read(header() + bytes(1 << 20))


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_damage_never_raises_anything_else(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "data.mat"
    scipy.io.savemat(path, VARIABLES, do_compression=data.draw(st.booleans()))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(124, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(100, len(content)))])
    try:
        read_mat(path, list(VARIABLES))
    except UsageError as error:
        assert "data.mat" in str(error)


def test_a_missing_file_is_an_error(tmp_path):
    for missing in (tmp_path, tmp_path / "missing.mat"):
        with pytest.raises(UsageError, match="no such file"):
            read_mat(missing, ["x"])
