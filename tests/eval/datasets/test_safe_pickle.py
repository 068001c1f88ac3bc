from __future__ import annotations

import os
import pickle
import pickletools
import struct
from collections import OrderedDict, defaultdict
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
def test_ground_truth_comes_back_as_it_was_in_every_protocol(load, protocol):
    truth = {
        "imlist": ["all_souls_000013", "été", "塔"],
        "gnd": [{"bbx": [136.5, 34.1, 648.5, 955.7], "easy": [1, 2], "hard": [], "junk": [70000]}],
    }
    assert load(pickle.dumps(truth, protocol)) == truth


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_plain_type_comes_back(load, protocol):
    values = [
        None, True, False, 0, -1, 255, 256, 65536, -(2**40), 2**63, 1.5, -0.0, float("inf"),
        3 + 4j, "", "text", "a" * 300, "a" * 70000, b"", b"\x00\xff", b"b" * 300, (), (1,), (1, 2),
        (1, 2, 3), tuple(range(9)), [], [[1], [2]], {}, {1: "a", "b": 2, (1, "c"): 3}, set(),
        {1, "a"}, frozenset(), frozenset({1, 2}), OrderedDict([("b", 1), ("a", 2)]),
    ]  # fmt: skip
    found = load(pickle.dumps(values, protocol))
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3),
        np.arange(6, dtype=">i2"),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
        np.arange(12).reshape(3, 4)[::2, ::2],
        np.array([True, False]),
        np.array([1 + 2j]),
        np.array(["ab", "ç", "塔"]),
        np.array([b"ab", b"\xff"]),
        np.zeros((0, 4), np.uint8),
        np.array(7.5),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_of_numbers_and_text_come_back(load, array, protocol):
    found = load(pickle.dumps({"a": array, "again": [array, (array,)]}, protocol))
    assert type(found["a"]) is np.ndarray
    assert found["a"].dtype == array.dtype
    np.testing.assert_array_equal(found["a"], array)
    assert found["again"][0] is found["a"] and found["again"][1][0] is found["a"]
    found["a"][...] = found["a"]  # Can be written to.


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("scalar", [np.float32(1.5), np.int64(-3), np.uint8(7), np.bool_(True)])
def test_numpy_scalars_come_back(load, scalar, protocol):
    found = load(pickle.dumps([scalar], protocol))[0]
    assert type(found) is type(scalar) and found == scalar


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_before_version_2_is_understood(load, protocol):
    content = pickle.dumps(np.arange(3), protocol)
    old = content.replace(b"numpy._core.", b"numpy.core.")
    if protocol >= 4:  # The name's length stands before it, and the frame's before everything.
        old = old.replace(b"\x16numpy.core.multiarray", b"\x15numpy.core.multiarray")
        old = old.replace(b"\x13numpy.core.numeric", b"\x12numpy.core.numeric")
    assert old != content
    np.testing.assert_array_equal(load(old), [0, 1, 2])


def test_strings_of_python_2_are_latin_1(load):
    assert load(b"S'caf\\xe9'\n.") == "café"
    assert load(b"\x80\x02U\x04caf\xe9.") == "café"
    assert load(b"\x80\x02T\x04\x00\x00\x00caf\xe9.") == "café"


def test_arrays_of_python_2_are_read(load):
    text = (
        b"cnumpy.core.multiarray\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\ntp2\nS'b'\np3\n"
        b"tp4\nRp5\n(I1\n(I2\ntp6\ncnumpy\ndtype\np7\n(S'i2'\np8\nI0\nI1\ntp9\nRp10\n(I3\nS'<'\n"
        b"p11\nNNNI-1\nI-1\nI0\ntp12\nbI00\nS'\\x01\\x00\\xff\\x7f'\np13\ntp14\nb."
    )
    np.testing.assert_array_equal(load(text), np.array([1, 32767], np.int16))


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False)
    | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


@settings(deadline=None, max_examples=60)
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
def test_commands_are_refused_by_name(refused, canary, protocol):
    message = refused(pickle.dumps({"a": [Attack(os.system, f"touch {canary}")]}, protocol))
    assert f"asks for {os.system.__module__}.system" in message


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("function", [eval, exec, getattr, __import__, open, print, type])
def test_builtins_are_refused_by_name(refused, canary, function, protocol):
    message = refused(pickle.dumps(Attack(function, f"open({str(canary)!r}, 'w')"), protocol))
    assert f".{function.__name__};" in message


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
        ("copy_reg", "add_extension"),
        ("numpy", "load"),
        ("numpy.testing", "rundocs"),
        ("numpy", "memmap"),
        ("numpy", "recarray"),
        ("numpy._core.multiarray", "fromfile"),
        ("_codecs", "lookup"),
        ("_codecs", "register"),
        ("eval.datasets.safe_pickle", "load_plain_pickle"),
        ("", ""),
        # Dotted names, which protocol 4 walks down with getattr.
        ("numpy", "ndarray.tofile"),
        ("numpy", "dtype.__class__"),
        ("builtins", "set.__class__.__subclasses__"),
        ("collections", "OrderedDict.__init__.__globals__"),
        ("numpy._core.multiarray", "_reconstruct.__self__"),
        ("numpy.core.multiarray", "scalar.__class__"),
    ],
)
def test_every_spelling_of_a_strange_name_is_refused(refused, module, name):
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
    ],
)
def test_instructions_that_make_objects_are_refused(refused, content):
    assert "pickle instruction" in refused(content) or "asks for" in refused(content)


def test_the_state_of_strange_values_cannot_be_set(refused):
    for target in (b"]", b"}", b"K\x01", b"X\x01\x00\x00\x00a", b"cnumpy\nndarray\n"):
        assert "sets the state" in refused(b"\x80\x02" + target + b"}b.")


def test_instances_of_classes_are_refused_by_name(refused):
    assert "collections.defaultdict" in refused(pickle.dumps(defaultdict(list)))
    assert "pathlib" in refused(pickle.dumps(Path("a")))
    assert "Attack" in refused(pickle.dumps(Attack, 2))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_objects_are_refused_even_if_harmless(refused, protocol):
    assert "'O8'" in refused(pickle.dumps(np.array([1, "a", None], object), protocol))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_commands_in_arrays_of_objects_do_not_run(refused, canary, protocol):
    array = np.empty(1, object)
    array[0] = Attack(os.system, f"touch {canary}")
    refused(pickle.dumps(array, protocol))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [
        np.zeros(2, [("a", "i4"), ("b", "O")]),
        np.zeros(2, [("a", "i4")]),
        np.zeros(2, "V8"),
        np.zeros(2, "M8[s]"),
        np.zeros(2, "m8[D]"),
    ],
    ids=lambda array: str(array.dtype),
)
def test_arrays_of_records_raw_memory_and_dates_are_refused(refused, array, protocol):
    assert "neither numbers nor text" in refused(pickle.dumps(array, protocol))


def test_a_type_that_turns_into_records_or_objects_is_refused(refused):
    dtype = b"cnumpy\ndtype\n(S'i8'\nI0\nI1\ntR"
    fields = b"(I3\nS'|'\nNS'a'\n}I8\nI1\nI0\ntb"
    assert "records" in refused(dtype + fields + b".")
    assert "type 'O8'" in refused(b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.")
    assert "type" in refused(b"cnumpy\ndtype\n(S'i4,O'\nI0\nI1\ntR.")


def test_values_of_an_array_must_be_raw_bytes(refused, canary):
    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    dtype = b"cnumpy\ndtype\n(S'i8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    assert "objects" in refused(head + b"(I1\n(I1\nt" + dtype + b"I00\n(lI5\natb.")
    attack = f"cos\nsystem\n(S'touch {canary}'\ntR".encode()
    assert "os.system" in refused(head + b"(I1\n(I1\nt" + dtype + b"I00\n(l" + attack + b"atb.")


@pytest.mark.parametrize(
    "shape", [(2**40,), (2**62, 2**62), (-1,), (3,), (2, 2, 2), (1,) * 100, ("a",), [1], 1, None]
)
def test_an_array_must_have_the_size_that_it_declares(refused, shape):
    values = b"\x80\x05" + stack_global("numpy._core.numeric", "_frombuffer")
    values += b"(C\x04abcd" + stack_global("numpy", "dtype") + b"\x8c\x02i4\x85R"
    shapes = pickle.dumps(shape, 2)[2:-1]
    refused(values + shapes + b"\x8c\x01CtR.")


def test_text_arrays_hold_characters_only(refused):
    content = pickle.dumps(np.array(["a"]), 4)
    assert "no character" in refused(content.replace(b"a\x00\x00\x00", b"\xff\xff\xff\xff"))


@pytest.mark.parametrize("codec", ["zlib_codec", "hex", "utf-16", "../../evil", "idna"])
def test_the_one_encoding_is_latin_1(refused, codec):
    call = global_("_codecs", "encode") + b"(X\x01\x00\x00\x00a" + f"S'{codec}'\n".encode() + b"tR."
    assert f"the encoding '{codec}'" in refused(b"\x80\x02" + call)


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
        b"\x80\x02K\x01\x86.",
        b"\x80\x02)R.",
        b"\x80\x02K\x01K\x02R.",
        b"\x80\x02(.",
        b"\x80\x02cnumpy\nndarray\n.",  # a name in place of data
        b"\x80\x02]cnumpy\nndarray\na.",
        b"\x80\x02cnumpy\nndarray\n\x85.",
        b"\x80\x02cnumpy\ndtype\n)R.",
        b"\x80\x04]K\x01\x93.",
        b"cnumpy.core.multiarray\n_reconstruct\n(S'a'\n(I0\ntS'b'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR.",  # no values
        b"cnumpy.core.multiarray\nscalar\n(S'i8'\nS'aaaaaaaa'\ntR.",
        b"I1_000x\n.",
        b"S'a\n.",
        b"c\n",
        b"c\n\n.",
        b"\x80\x02X\x01\x00\x00\x00\xff.",  # no UTF-8
        b"c__builtin__\nset\n(S'abc'\ntR.",
        b"c__builtin__\ncomplex\n(S'a'\nS'b'\ntR.",
        b"c__builtin__\nbytes\n(I1000000000\ntR.",
    ],
)
def test_garbage_is_an_error_without_a_traceback(refused, content):
    refused(content)


def test_every_truncation_of_a_good_file_is_an_error(refused):
    for protocol in (0, 2, 4, 5):
        content = pickle.dumps({"a": [1.5, "b", np.arange(3)], "s": {1, 2}}, protocol)
        for length in range(len(content)):
            refused(content[:length])


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_damage_never_raises_anything_else(tmp_path_factory, data):
    value = {"a": [1.5, "b", np.arange(3), np.float32(2)], "s": {1}, "t": ("x", ["y"])}
    content = bytearray(pickle.dumps(value, data.draw(st.sampled_from(PROTOCOLS))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "data.pkl"
    path.write_bytes(content)
    try:
        load_plain_pickle(path)
    except UsageError as error:
        assert str(path) in str(error)


@settings(deadline=None, max_examples=300)
@given(codes=st.lists(st.sampled_from([op.code.encode("latin-1") for op in pickletools.opcodes])))
def test_random_instructions_never_raise_anything_else(tmp_path_factory, codes):
    path = tmp_path_factory.mktemp("random") / "data.pkl"
    path.write_bytes(b"".join(codes) + b".")
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
def test_huge_declared_sizes_allocate_nothing(refused, opcode):
    refused(b"\x80\x05" + opcode + b"abc.")


def test_a_huge_frame_and_a_far_memo_slot_are_harmless(load):
    assert load(b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"K\x01.") == 1
    assert load(b"\x80\x02K\x01r\xff\xff\xff\xff.") == 1


def test_shared_references_that_double_stay_small(load, refused):
    doubling = b"\x80\x04)" + b"\x94h\x00h\x00\x86" + b"".join(
        b"\x94h" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(1, 200)
    )  # fmt: skip
    assert len(load(doubling + b".")) == 2
    # As a key it would be hashed for ever.
    assert "key" in refused(b"\x80\x04}" + doubling[2:] + b"K\x01s.")
    assert "member" in refused(b"\x80\x04\x8f(" + doubling[2:] + b"\x90.")


def test_deep_nesting_neither_overflows_the_stack_nor_is_hashed(load, refused):
    deep = b"\x80\x04)" + b"\x85" * 300_000
    assert isinstance(load(deep + b"."), tuple)
    assert "key" in refused(b"\x80\x04}" + deep[2:] + b"K\x01s.")
    refused(deep + b"\x8c\x01a\x93.")  # As the module of a name.


def test_lists_that_hold_themselves_are_read(load):
    found = load(b"\x80\x04]\x94h\x00a.")
    assert found[0] is found


def test_many_copies_of_one_array_are_refused(refused):
    one = stack_global("numpy._core.numeric", "_frombuffer") + b"\x94"
    one += b"B" + struct.pack("<I", 1 << 20) + bytes(1 << 20) + b"\x94"
    one += stack_global("numpy", "dtype") + b"\x8c\x02u1\x85R\x94"
    one += b"J" + struct.pack("<i", 1 << 20) + b"\x85\x94"
    call = b"(h\x01h\x02h\x03\x8c\x01Ct"
    content = b"\x80\x04" + one + b"](" + 1000 * (b"h\x00" + call + b"R") + b"e."
    assert "far more than its own size" in refused(content)


def test_numbers_of_more_than_64_bits_are_refused(refused):
    assert "64 bits" in refused(pickle.dumps(2**64))
    assert "64 bits" in refused(pickle.dumps(10**4000))
    assert "64 bits" in refused(pickle.dumps(-(2**64), 0))
    refused(b"L" + b"9" * 100_000 + b"L\n.")


def test_files_that_are_too_large_or_long_are_refused(refused, monkeypatch):
    monkeypatch.setattr(safe_pickle, "MAX_BYTES", 1 << 20)
    assert "larger than 1 MB" in refused(bytes(1 + (1 << 20)))
    monkeypatch.setattr(safe_pickle, "MAX_INSTRUCTIONS", 1000)
    assert "1,000 instructions" in refused(b"\x80\x02(" + b"]" * 1000 + b"l.")


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing.pkl", "", "pipe"):
        with pytest.raises(UsageError, match="no such file"):
            load_plain_pickle(tmp_path / name)
