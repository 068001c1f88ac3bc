from __future__ import annotations

import os
import pickle
import pickletools
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delg.errors import UsageError
from eval.datasets import safe_pickle
from eval.datasets.safe_pickle import load_plain_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


@pytest.fixture
def load(tmp_path):
    def load(content: bytes) -> Any:
        path = tmp_path / "data.pkl"
        path.write_bytes(content)
        return load_plain_pickle(path)

    return load


@pytest.fixture
def refused(load, tmp_path):
    def refused(content: bytes) -> str:
        with pytest.raises(UsageError) as caught:
            load(content)
        assert str(tmp_path / "data.pkl") in str(caught.value)
        return str(caught.value)

    return refused


# What is admitted.


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_come_back_as_they_were_in_every_protocol(load, protocol):
    truth = {
        "imlist": ["all_souls_000013", "été", "塔", "a" * 300],
        "gnd": [{"bbx": (136.5, 34.1, 648.5, 955.7), "easy": [1, 2], "hard": [], "junk": [70000]}],
        "more": [None, True, -(2**40), 2**63, float("inf"), "", (), {(1, "c"): 3}, {}],
    }
    value = load(pickle.dumps(truth, protocol))
    assert value == truth
    assert type(value["gnd"][0]["bbx"]) is tuple


@pytest.mark.parametrize("protocol", [4, 5])
def test_sets_and_bytes_come_back(load, protocol):
    values = [{1, "a"}, frozenset({1, 2}), b"\x00\xff", set()]
    assert load(pickle.dumps(values, protocol)) == values


def test_strings_of_python_2_are_latin_1(load):
    assert load(b"S'cafe'\n.") == "cafe"
    assert load(b"\x80\x02U\x04caf\xe9.") == "café"
    assert load(b"\x80\x02T\x04\x00\x00\x00caf\xe9.") == "café"


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(value=plain, protocol=st.sampled_from(PROTOCOLS))
def test_any_plain_value_is_read_as_pickle_reads_it(tmp_path_factory, value, protocol):
    path = tmp_path_factory.mktemp("plain") / "data.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    assert load_plain_pickle(path) == value


# What is refused. Nothing may run: the canary is a file that every attack would make.


class Attack:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


def global_(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def stack_global(module: str, name: str) -> bytes:
    return b"".join(
        b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)
    ) + b"\x93"  # fmt: skip


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("function", [os.system, eval, exec, getattr, __import__, open, type])
def test_functions_are_refused_by_name_and_not_run(refused, canary, function, protocol):
    attack = Attack(function, f"touch {canary}" if function is os.system else f"open({canary!r})")
    assert f".{function.__name__};" in refused(pickle.dumps({"a": [attack]}, protocol))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("__builtin__", "eval"),
        ("os", "system"),
        ("posix", "system"),
        ("subprocess", "Popen"),
        ("copyreg", "_reconstructor"),
        ("copyreg", "__newobj__"),
        ("numpy", "load"),
        ("numpy", "dtype"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("_codecs", "encode"),
        ("eval.datasets.safe_pickle", "load_plain_pickle"),
        # Dotted names, which protocol 4 walks down with getattr.
        ("builtins", "set.__class__.__subclasses__"),
        ("collections", "OrderedDict.__init__.__globals__"),
    ],
)
def test_every_spelling_of_a_name_is_refused(refused, module, name):
    for spelt in (global_(module, name), stack_global(module, name)):
        assert f"asks for {module}.{name}" in refused(b"\x80\x04" + spelt + b")R.")


def test_a_name_is_refused_even_if_nothing_calls_it(refused):
    assert "os.system" in refused(b"\x80\x02]cos\nsystem\na.")


@pytest.mark.parametrize(
    "content",
    [
        b"(cnumpy\nndarray\nK\x05o.",  # OBJ
        b"(S'true'\nios\nsystem\n.",  # INST
        b"\x80\x02cnumpy\nndarray\nK\x05\x85\x81.",  # NEWOBJ
        b"\x80\x04cnumpy\nndarray\nK\x05\x85}\x92.",  # NEWOBJ_EX
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x02\x84\x01\x00\x00\x00.",  # EXT4
        b"P1\n.",  # PERSID
        b"\x80\x02K\x01Q.",  # BINPERSID
        b"\x80\x05\x97.",  # NEXT_BUFFER
        *(b"\x80\x02" + target + b"}b." for target in (b"]", b"}", b"K\x01")),  # BUILD
    ],
)
def test_instructions_that_make_objects_are_refused(refused, content):
    refused(content)


@pytest.mark.parametrize("value", [Path("a"), OrderedDict(a=1), np.arange(3), np.float32(1)])
def test_instances_of_classes_are_refused_by_name(refused, value):
    message = refused(pickle.dumps({"a": value}))
    assert "asks for " in message and "tolist()" in message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b".",
        b"garbage",
        b"\x80",
        b"\x80\x04",
        b"\x80\x02]",
        b"\xff\xfe\xfd",
        b"PK\x03\x04",
        b"\x80\x02K\x01a.",  # APPEND to a number
        b"\x80\x02]e.",  # APPENDS without a mark
        b"\x80\x02}(K\x01u.",  # a key without value
        b"\x80\x02h\x07.",  # an unknown memo
        b"\x80\x02\x86.",
        b"\x80\x02)R.",
        b"\x80\x02(.",
        b"\x80\x04]K\x01\x93.",
        b"I1_000x\n.",
        b"S'a\n.",
        b"c\n",
        b"c\n\n.",
        b"\x80\x02X\x01\x00\x00\x00\xff.",  # no UTF-8
    ],
)
def test_garbage_is_an_error_without_a_traceback(refused, content):
    refused(content)


def test_every_truncation_of_a_good_file_is_an_error(refused):
    for protocol in (0, 2, 4, 5):
        content = pickle.dumps({"a": [1.5, "b", (1, 2)], "s": {1: 2}}, protocol)
        for length in range(len(content)):
            refused(content[:length])


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_damage_never_raises_anything_else(tmp_path_factory, data):
    value = {"a": [1.5, "b", np.arange(3)], "s": {1}, "t": ("x", ["y"])}
    content = bytearray(pickle.dumps(value, data.draw(st.sampled_from(PROTOCOLS))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    check_that_it_is_read_or_refused(tmp_path_factory.mktemp("damaged"), bytes(content))


@settings(deadline=None, max_examples=150)
@given(codes=st.lists(st.sampled_from([op.code.encode("latin-1") for op in pickletools.opcodes])))
def test_random_instructions_never_raise_anything_else(tmp_path_factory, codes):
    check_that_it_is_read_or_refused(tmp_path_factory.mktemp("random"), b"".join(codes) + b".")


def check_that_it_is_read_or_refused(folder: Path, content: bytes) -> None:
    path = folder / "data.pkl"
    path.write_bytes(content)
    try:
        load_plain_pickle(path)
    except UsageError as error:
        assert str(path) in str(error)


# Bombs.


@pytest.mark.parametrize(
    "opcode",
    [
        b"X\xff\xff\xff\xff", b"B\xff\xff\xff\xff", b"T\xff\xff\xff\x7f", b"T\xff\xff\xff\xff",
        b"\x8a\xff", b"\x8b\xff\xff\xff\x7f",
        b"\x8d" + struct.pack("<Q", 2**62), b"\x8e" + struct.pack("<Q", 2**63),
        b"\x96" + struct.pack("<Q", 2**63 - 1),
    ],
)  # fmt: skip
def test_huge_declared_sizes_are_refused(refused, opcode):
    refused(b"\x80\x05" + opcode + b"abc.")


def test_a_far_memo_slot_is_refused(refused):
    # The unpickler would allocate 64 GB.
    assert "asks for memory" in refused(b"\x80\x02K\x01r\xff\xff\xff\xff.")
    assert "asks for memory" in refused(b"I1\np4294967295\n.")


def test_deep_nesting_does_not_overflow_the_stack(load, refused):
    deep = b"\x80\x04)" + b"\x85" * 100_000
    assert "tuples" in refused(deep + b".")
    # As a key it would be hashed, one frame for each.
    assert "tuples" in refused(b"\x80\x04}" + deep[2:] + b"K\x01s.")
    assert isinstance(load(b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b"."), list)


def test_lists_that_hold_themselves_are_read(load):
    value = load(b"\x80\x04]\x94h\x00a.")
    assert value[0] is value


def test_numbers_of_too_many_digits_are_refused(refused):
    refused(b"L" + b"9" * 100_000 + b"L\n.")


def test_files_that_are_too_large_are_refused(refused, monkeypatch):
    monkeypatch.setattr(safe_pickle, "MAX_BYTES", 1 << 20)
    assert "larger than 1 MB" in refused(bytes(1 + (1 << 20)))


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing.pkl", "", "pipe"):
        with pytest.raises(UsageError, match="no such file"):
            load_plain_pickle(tmp_path / name)
