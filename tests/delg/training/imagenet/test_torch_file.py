from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delg.errors import ModelError
from delg.training.imagenet.torch_file import read_state_dict

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
HEAD = b"".join(pickle.dumps(part, 2) for part in (MAGIC, VERSION, {"little_endian": True}))


@pytest.fixture(scope="module")
def legacy(data: Path) -> Path:
    return data / "state_dict_legacy.pth"


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_state_dict(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_tensors_come_out_with_names_shapes_types_and_values(legacy: Path) -> None:
    state = read_state_dict(legacy)
    assert list(state) == ["a.weight", "a.bias", "n"]
    np.testing.assert_array_equal(state["a.weight"], np.arange(24).reshape(2, 3, 4))
    np.testing.assert_array_equal(state["a.bias"], [1.5, -2])
    assert state["n"] == 5
    assert [value.dtype for value in state.values()] == [np.float32, np.float32, np.int64]
    assert state["n"].shape == ()


def test_arrays_can_be_written_to(legacy: Path) -> None:
    state = read_state_dict(str(legacy))
    state["a.weight"][:] = 0
    assert read_state_dict(legacy)["a.weight"].max() == 23


# Files that PyTorch would write, made without it.


class Storage:
    def __init__(self, kind: str, values: np.ndarray, key: str) -> None:
        self.kind, self.values, self.key = kind, values, key


class Tensor:
    def __init__(self, storage: Storage, offset: Any, shape: Any, stride: Any) -> None:
        self.parts = (storage, offset, shape, stride)


Writer = Callable[[dict[str, Any]], bytes]


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch) -> Writer:
    """State dict -> the bytes of a file in the single-stream format."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def rebuild(*_: Any) -> None: ...

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild
    for kind in ("Float", "Double", "Half", "Long", "Int", "Bool"):
        name = f"{kind}Storage"
        setattr(torch, name, type(name, (), {"__module__": "torch", "__qualname__": name}))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)

    class Pickler(pickle.Pickler):
        def persistent_id(self, item: Any) -> Any:
            if isinstance(item, Storage):
                kind = getattr(torch, item.kind)
                return ("storage", kind, item.key, "cpu", len(item.values), None)
            return None

        def reducer_override(self, item: Any) -> Any:
            if isinstance(item, Tensor):
                return rebuild, (*item.parts, False, OrderedDict())
            return NotImplemented

    def to_bytes(tensors: dict[str, Any]) -> bytes:
        stream = io.BytesIO()
        Pickler(stream, 2).dump(OrderedDict(tensors))
        storages = {t.parts[0].key: t.parts[0] for t in tensors.values() if isinstance(t, Tensor)}
        body = HEAD + stream.getvalue() + pickle.dumps(sorted(storages), 2)
        for key in sorted(storages):
            values = storages[key].values
            body += struct.pack("<q", len(values)) + values.tobytes()
        return body

    return to_bytes


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("Float", "<f4"), ("Double", "<f8"), ("Half", "<f2"), ("Long", "<i8"), ("Int", "<i4")],
)
def test_every_storage_type(write: Writer, tmp_path: Path, kind: str, dtype: str) -> None:
    storage = Storage(f"{kind}Storage", np.arange(6).astype(dtype), "0")
    path = tmp_path / "a.pth"
    path.write_bytes(write({"t": Tensor(storage, 0, (2, 3), (3, 1))}))
    found = read_state_dict(path)["t"]
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, [[0, 1, 2], [3, 4, 5]])


def test_views_transposes_empty_tensors_and_shared_storages(write: Writer, tmp_path: Path) -> None:
    storage = Storage("FloatStorage", np.arange(12, dtype="<f4"), "7")
    tensors = {
        "whole": Tensor(storage, 0, (3, 4), (4, 1)),
        "transposed": Tensor(storage, 0, (4, 3), (1, 4)),
        "part": Tensor(storage, 5, (2, 2), (4, 1)),
        "scalar": Tensor(storage, 11, (), ()),
        "empty": Tensor(storage, 0, (0, 3), (3, 1)),
    }
    path = tmp_path / "a.pth"
    path.write_bytes(write(tensors))
    found = read_state_dict(path)
    whole = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(found["whole"], whole)
    np.testing.assert_array_equal(found["transposed"], whole.T)
    np.testing.assert_array_equal(found["part"], whole[1:3, 1:3])
    assert found["scalar"] == 11
    assert found["empty"].shape == (0, 3)


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (13,), (1,)),
        (12, (1,), (1,)),
        (5, (2, 4), (4, 1)),
        (-1, (2,), (1,)),
        (11, (2,), (-1,)),
        (0, (-2,), (1,)),
        (0, (2, 3), (1,)),
        (0, (1000, 1000), (0, 0)),
        (0, (2, 2), (2**40, 1)),
        (2**70, (1,), (1,)),
        ("0", (1,), (1,)),
        (0, ("a",), (1,)),
        (0, None, None),
    ],
)
def test_tensors_that_reach_outside_their_storage_are_refused(
    write: Writer, tmp_path: Path, offset: Any, shape: Any, stride: Any
) -> None:
    storage = Storage("FloatStorage", np.arange(12, dtype="<f4"), "0")
    refused(tmp_path / "a.pth", write({"t": Tensor(storage, offset, shape, stride)}))


def test_storages_of_other_types_are_refused(write: Writer, tmp_path: Path) -> None:
    storage = Storage("BoolStorage", np.zeros(3, "?"), "0")
    reason = refused(tmp_path / "a.pth", write({"t": Tensor(storage, 0, (3,), (1,))}))
    assert "BoolStorage" in reason


@pytest.mark.parametrize("value", [5, "text", None, {"nested": 1}, [1, 2]])
def test_a_dict_of_other_things_is_refused(write: Writer, tmp_path: Path, value: object) -> None:
    refused(tmp_path / "a.pth", write({"epoch": value}))


# Hostile files.


class Evil:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("place", ["alone", "dict", "tensor", "keys"])
def test_pickled_calls_are_refused_and_not_made(tmp_path: Path, place: str, protocol: int) -> None:
    marker = tmp_path / "executed"
    for evil in (
        Evil(os.system, f"touch {marker}"),
        Evil(exec, f"open({str(marker)!r}, 'w')"),
        Evil(eval, f"open({str(marker)!r}, 'w')"),
        Evil(Path.touch, marker),
        Evil(getattr, marker, "touch"),
    ):
        dumped = pickle.dumps(evil, protocol)
        content = {
            "alone": dumped,
            "dict": HEAD + dumped,
            "tensor": HEAD + pickle.dumps(OrderedDict(a=evil), protocol),
            "keys": HEAD + pickle.dumps(OrderedDict(), protocol) + dumped,
        }[place]
        assert "asks for" in refused(tmp_path / "evil.pth", content)
        assert not marker.exists()


def test_attributes_of_admitted_names_are_refused(tmp_path: Path) -> None:
    for name in ("OrderedDict.__init__", "OrderedDict.__subclasses__", "Counter"):
        call = b"\x80\x04" + b"\x8c\x0bcollections" + b"\x8c" + bytes([len(name)]) + name.encode()
        assert name in refused(tmp_path / "a.pth", HEAD + call + b"\x93.")


def test_truncated_at_every_length(legacy: Path, tmp_path: Path) -> None:
    whole = legacy.read_bytes()
    for length in range(len(whole)):
        refused(tmp_path / "a.pth", whole[:length])


def test_other_formats_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "zip.pth", b"PK\x03\x04" + b"\0" * 100)
    refused(tmp_path / "text.pth", b"hello\n" * 20)
    refused(tmp_path / "empty.pth", b"")
    assert "single-stream" in refused(
        tmp_path / "version.pth", pickle.dumps(MAGIC, 2) + pickle.dumps(1002, 2) + pickle.dumps({})
    )


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.pth"):
        read_state_dict(tmp_path / "gone.pth")
    with pytest.raises(ModelError, match=tmp_path.name):
        read_state_dict(tmp_path)


def read_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        state = read_state_dict(path)
    except ModelError as error:
        assert str(path) in str(error)
    else:
        assert all(isinstance(value, np.ndarray) for value in state.values())


@given(content=st.binary(max_size=200))
def test_random_bytes(tmp_path: Path, content: bytes) -> None:
    read_or_refused(tmp_path / "a.pth", content)
    read_or_refused(tmp_path / "a.pth", HEAD + content)


@given(changes=st.lists(st.tuples(st.integers(0, 693), st.integers(0, 255)), max_size=4))
def test_damaged_files(legacy: Path, tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    content = bytearray(legacy.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    read_or_refused(tmp_path / "a.pth", bytes(content))


@pytest.mark.parametrize("opcode", [b"\x8e", b"\x8d", b"\x96"])
def test_a_claim_of_a_petabyte_is_refused(tmp_path: Path, opcode: bytes) -> None:
    # BINBYTES8, BINUNICODE8 and BYTEARRAY8 name a length before their content.
    refused(tmp_path / "a.pth", b"\x80\x05" + opcode + struct.pack("<Q", 2**50) + b"abc.")
