from __future__ import annotations

import random
import struct
import zlib

import numpy as np
import pytest
import scipy.io
import scipy.sparse

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
    "bytes": np.array([0, 255], np.uint8),
}


@pytest.mark.parametrize("compressed", [False, True])
def test_cells_structs_text_and_numbers_are_read(tmp_path, compressed):
    path = tmp_path / "data.mat"
    scipy.io.savemat(path, VARIABLES, do_compression=compressed)
    variables = read_mat(path, ("names", "gnd", "deep", "matrix", "bytes", "missing"))
    assert variables == {
        "names": ["INSTRE-S1/01a/013.jpg", "ab", "é塔", ""],
        "gnd": [{"ok": [1, 2, 3], "bbx": [1.5, 2, 3, 4]}, {"ok": [], "bbx": "text"}],
        "deep": [["a", [3]], []],
        "matrix": [0, 3, 1, 4, 2, 5],
        "bytes": [0, 255],
    }
    assert list(variables["gnd"][0]) == ["ok", "bbx"]


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


HEADER = b"MATLAB".ljust(124) + struct.pack("<H", 0x100) + b"IM"
BOMB = zlib.compress(element(14, bytes(100)) + bytes(10 << 20))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        b"\x80\x02]." * 100,
        HEADER[:124] + struct.pack("<H", 0x200) + b"IM" + bytes(400),  # version 7.3
        HEADER + b"abc",
        HEADER + struct.pack("<II", 14, 2**32 - 1),
        HEADER + element(15, b"no zlib"),
        HEADER + element(15, BOMB),
    ],
)
def test_what_is_damaged_or_something_else_says_so(tmp_path, content):
    (tmp_path / "data.mat").write_bytes(content)
    with pytest.raises(UsageError, match=r"data\.mat: not a MATLAB file, or damaged \(.+\)"):
        read_mat(tmp_path / "data.mat", ["x"])


@pytest.mark.parametrize("value", [np.array([1j]), scipy.sparse.eye(2).tocsc()])
def test_other_kinds_of_values_are_refused(tmp_path, value):
    scipy.io.savemat(tmp_path / "data.mat", {"x": value})
    with pytest.raises(UsageError, match="damaged"):
        read_mat(tmp_path / "data.mat", ["x"])


# With SciPy 1.17 the first two crash its reader.
@pytest.mark.parametrize("seed", [10, 94, 0, 1, 2, 3])
def test_damage_is_an_error_even_where_it_crashes_the_reader(tmp_path, seed):
    path = tmp_path / "data.mat"
    variables = {name: VARIABLES[name] for name in ("names", "gnd", "deep", "matrix")}
    scipy.io.savemat(path, variables, do_compression=bool(seed & 1))
    content, rng = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(rng.randint(1, 4)):
        content[rng.randrange(124, len(content))] = rng.randrange(256)
    path.write_bytes(content)
    try:
        read_mat(path, list(VARIABLES))
    except UsageError as error:
        assert "data.mat" in str(error)


def test_large_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(mat_file, "MAX_BYTES", 1 << 20)
    (tmp_path / "data.mat").write_bytes(bytes(1 + (1 << 20)))
    with pytest.raises(UsageError, match="larger than 1 MB"):
        read_mat(tmp_path / "data.mat", ["x"])


def test_a_missing_file_is_an_error(tmp_path):
    for missing in (tmp_path, tmp_path / "missing.mat"):
        with pytest.raises(UsageError, match="no such file"):
            read_mat(missing, ["x"])
