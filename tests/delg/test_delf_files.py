"""Feature files of the published tools, against protobuf's own library as the judge."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from delg import delf_files
from delg.delf_files import (
    FeatureFileError,
    decode_datum,
    decode_local,
    encode_datum,
    encode_local,
    read_datum,
    read_local,
    write_datum,
    write_local,
)
from delg.errors import DelgError
from delg.types import LocalFeatures

finite = st.floats(-1e6, 1e6, width=32)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def length_delimited(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def local_features(count: int, dim: int, seed: int = 0) -> LocalFeatures:
    rng = np.random.default_rng(seed)
    return LocalFeatures(
        (rng.random((count, 2)) * [640, 400]).astype(np.float32),
        rng.normal(size=(count, dim)).astype(np.float32),
        rng.choice([0.25, 1.0, 2.0], count).astype(np.float32),
        rng.random(count).astype(np.float32),
    )


@pytest.fixture(scope="module")
def official() -> dict[str, type]:
    """Messages of the published schema, made by protobuf's own library."""
    file = descriptor_pb2.FileDescriptorProto(name="delf.proto", package="d", syntax="proto2")
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(name: str, *fields: tuple[str, int, int, str]) -> descriptor_pb2.DescriptorProto:
        created = file.message_type.add(name=name)
        for field, number, kind, of in fields:
            repeated = field in ("dim", "value", "feature")
            added = created.field.add(
                name=field,
                number=number,
                type=kind,
                label=kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL,
            )
            if of:
                added.type_name = f".d.{of}"
            elif repeated:
                added.options.packed = True
        return created

    message("Shape", ("dim", 1, kinds.TYPE_INT64, ""))
    message("FloatList", ("value", 1, kinds.TYPE_FLOAT, ""))
    message("UInt32List", ("value", 1, kinds.TYPE_UINT32, ""))
    datum = message(
        "Datum",
        ("shape", 1, kinds.TYPE_MESSAGE, "Shape"),
        ("float_list", 2, kinds.TYPE_MESSAGE, "FloatList"),
        ("uint32_list", 3, kinds.TYPE_MESSAGE, "UInt32List"),
    )
    datum.oneof_decl.add(name="kind_oneof")
    datum.field[1].oneof_index = datum.field[2].oneof_index = 0
    numbers = [(n, i, kinds.TYPE_FLOAT, "") for i, n in enumerate(["x", "y", "s", "o", "a"], 2)]
    message("Feature", ("descriptor", 1, kinds.TYPE_MESSAGE, "Datum"), *numbers)
    message("Features", ("feature", 1, kinds.TYPE_MESSAGE, "Feature"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("Datum", "Features")
    return {n: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"d.{n}")) for n in names}


def official_datum(official, values: np.ndarray):
    datum = official["Datum"]()
    datum.shape.dim.extend(values.shape)
    datum.float_list.SetInParent()
    datum.float_list.value.extend(values.ravel().tolist())
    return datum


# Byte for byte.


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3), elements=finite))
def test_a_datum_has_the_bytes_that_protobuf_writes(official, values: np.ndarray) -> None:
    assert encode_datum(values) == official_datum(official, values).SerializeToString()


@pytest.mark.parametrize(("count", "dim"), [(0, 4), (1, 1), (3, 40), (50, 128)])
def test_local_features_have_the_bytes_that_protobuf_writes(official, count, dim) -> None:
    features = local_features(count, dim)
    expected = official["Features"]()
    for i in range(count):
        item = expected.feature.add()
        item.descriptor.CopyFrom(official_datum(official, features.descriptors[i]))
        item.x, item.y = features.keypoints[i].tolist()
        item.s, item.o, item.a = 1 / features.scales[i], 0, features.scores[i]
    assert encode_local(features) == expected.SerializeToString()


def test_protobuf_reads_x_as_the_column_of_a_landscape_photo(official) -> None:
    item = LocalFeatures(
        np.array([[600.0, 30.0]], np.float32),
        np.ones((1, 2), np.float32),
        np.ones(1, np.float32),
        np.ones(1, np.float32),
    )
    visited = official["Features"].FromString(encode_local(item)).feature[0]
    assert (visited.x, visited.y) == (600, 30)
    assert decode_local(encode_local(item)).keypoints.tolist() == [[600, 30]]


def test_values_written_one_by_one_or_as_whole_numbers_are_read_too(official) -> None:
    shape = length_delimited(1, varint(8) + varint(2))
    loose = b"".join(b"\x0d" + np.float32(v).tobytes() for v in (1.5, -2))
    assert decode_datum(shape + length_delimited(2, loose)).tolist() == [1.5, -2]
    complete = official["Datum"]()
    complete.shape.dim.extend([2, 2])
    complete.uint32_list.value.extend([1, 300, 0, 7])
    assert decode_datum(complete.SerializeToString()).tolist() == [[1, 300], [0, 7]]


def test_unknown_fields_of_a_datum_are_passed_over() -> None:
    data = encode_datum(np.ones(2, np.float32))
    assert decode_datum(b"\x48\x07" + data + length_delimited(20, b"more")).tolist() == [1, 1]


# Round trips.


@given(
    hnp.arrays(np.float32, (5, 2), elements=finite),
    hnp.arrays(np.float32, (5, 3), elements=finite),
    hnp.arrays(np.float32, 5, elements=st.just(0) | st.floats(2**-10, 2**10, width=32)),
    hnp.arrays(np.float32, 5, elements=finite),
)
def test_local_features_come_back_as_they_were(points, descriptors, scales, scores) -> None:
    before = LocalFeatures(points, descriptors, scales, scores)
    after = decode_local(encode_local(before))
    for name in ("keypoints", "descriptors", "scores"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    np.testing.assert_allclose(after.scales, before.scales, rtol=2e-7)


def test_files_hold_the_inverse_of_the_pyramid_scale(official) -> None:
    message = official["Features"]()
    for scale in (4, 2, 1, 0.5):
        item = message.feature.add(x=1, y=2, s=scale, a=3)
        item.descriptor.CopyFrom(official_datum(official, np.ones(2, np.float32)))
    assert decode_local(message.SerializeToString()).scales.tolist() == [0.25, 0.5, 1, 2]


def test_files_come_back_as_they_were(tmp_path: Path) -> None:
    complete, features = np.arange(6, dtype=np.float32).reshape(2, 3), local_features(7, 16)
    write_datum(tmp_path / "a.datum", complete)
    write_local(tmp_path / "a.delf", features)
    np.testing.assert_array_equal(read_datum(tmp_path / "a.datum"), complete)
    np.testing.assert_array_equal(read_local(tmp_path / "a.delf").descriptors, features.descriptors)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.datum", "a.delf"]


# Hostile bytes.

GOOD = encode_datum(np.arange(3, dtype=np.float32))
BIG = varint((1 << 63) - 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "shape"),
        (GOOD[:-1], "cut short"),
        (GOOD[:3], "cut short"),
        (b"\x12" + BIG + b"1234", "cut short"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "cut short"),
        (length_delimited(1, length_delimited(1, BIG)), "shape"),
        (length_delimited(1, length_delimited(1, b"\x02" * 9)), "axes"),
        (length_delimited(1, length_delimited(1, b"\x04\x04")) + GOOD[5:], "shape"),
        (length_delimited(1, length_delimited(1, varint((1 << 64) - 1))), "shape"),
        (b"\x0b" + GOOD, "damaged"),
        (b"\x0f" + GOOD, "damaged"),
        (b"\x08\x05", "shape is of another type"),
        (b"\x02\x01a", "damaged"),
        (
            length_delimited(1, length_delimited(1, b"\x01")) + length_delimited(2, b"\x0a\x03abc"),
            "damaged",
        ),
        (encode_datum(np.array([1, np.nan], np.float32)), "not finite"),
        (encode_datum(np.array([np.inf], np.float32)), "not finite"),
    ],
)
def test_a_broken_datum_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_datum(data)


def feature(*parts: bytes) -> bytes:
    return length_delimited(1, b"".join(parts))


DESCRIPTOR = length_delimited(1, GOOD)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (feature(), "feature 0 has no descriptor"),
        (feature(DESCRIPTOR, DESCRIPTOR), "shape"),
        (feature(DESCRIPTOR) + feature(length_delimited(1, encode_datum(np.ones(2, np.float32)))),
         "feature 1 has 2 numbers, the first has 3"),
        (feature(length_delimited(1, encode_datum(np.ones((2, 2), np.float32)))), "shape"),
        (feature(DESCRIPTOR, b"\x10\x05"), "its x is of another type"),
        (feature(DESCRIPTOR, b"\x11" + bytes(8)), "its x is of another type"),
        (feature(DESCRIPTOR, b"\x25\x00\x00\xc0\x7f"), "not finite"),
        (feature(DESCRIPTOR, b"\x25\x01\x00\x00\x00"), "not finite"),
        (length_delimited(2, b""), "field 2"),
        (feature(DESCRIPTOR)[:-2], "cut short"),
    ],
)  # fmt: skip
def test_broken_local_features_are_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_local(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for decode in (decode_datum, decode_local):
        try:
            decode(data)
        except ValueError:
            continue


@given(st.data())
def test_flipped_bytes_are_read_or_refused(data) -> None:
    complete = bytearray(encode_local(local_features(3, 4)))
    for place in data.draw(st.lists(st.integers(0, len(complete) - 1), max_size=4)):
        complete[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        assert np.isfinite(decode_local(bytes(complete)).descriptors).all()


HOSTILE = """
import resource
from delg.delf_files import MAX_BYTES, decode_datum, decode_local
part = MAX_BYTES // 8
packed = bytes([0x0A, 0x81, 0x80, 0x80, 0x02]) + bytes(1 + 4 * (1 << 20))
cases = {
    "many axes": bytes([0x0A, 0x86, 0x80, 0x80, 0x02]) + packed,
    "many small numbers": bytes([0x1A, 0x86, 0x80, 0x80, 0x02]) + packed,
    "many features": bytes([0x0A, 0]) * (part // 2),
    "fields of other types": bytes([0x0A, 2, 0x10, 5]) * (part // 4),
    "unknown fields": bytes([0x48, 7]) * (part // 2),
}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name, data in cases.items():
    for decode in (decode_datum, decode_local):
        try:
            decode(data)
        except ValueError:
            continue
        raise SystemExit(f"{name} passes {decode.__name__}")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_is_bounded_whatever_the_bytes_promise() -> None:
    done = subprocess.run([sys.executable, "-c", HOSTILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # An eighth of the size that a file may have.
    assert int(done.stdout) < 250 << 10


def test_a_file_too_large_is_refused_unread(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(delf_files, "MAX_BYTES", 1 << 20)
    (tmp_path / "a.delf").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(FeatureFileError, match=r"a\.delf: over 1 MiB"):
        read_local(tmp_path / "a.delf")


def test_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.delf").write_bytes(b"\x0a\x05ab")
    with pytest.raises(DelgError, match=r"a\.delf: not a file of local features: cut short"):
        read_local(tmp_path / "a.delf")
    with pytest.raises(DelgError, match=r"gone\.delg_global: cannot be read"):
        read_datum(tmp_path / "gone.delg_global")
    with pytest.raises(DelgError, match="cannot be written"):
        write_datum(tmp_path / "no" / "a.datum", np.ones(2, np.float32))
