"""Feature files of the published DELG and DELF tools: ``.delg_global``, ``.delg_local``, ``.delf``.

Their schema, in protobuf's words (field numbers after the names):

    Datum        { Shape shape = 1; FloatList float_list = 2 or UInt32List uint32_list = 3 }
    Shape        { repeated packed int64 dim = 1 }
    FloatList    { repeated packed float value = 1 }
    UInt32List   { repeated packed uint32 value = 1 }
    DelfFeature  { Datum descriptor = 1; float x = 2, y = 3, scale = 4, orientation = 5,
                   strength = 6 }
    DelfFeatures { repeated DelfFeature feature = 1 }

A ``.delg_global`` file is one Datum, also the form of DELF's PCA files; the other two hold
DelfFeatures. Where the published tools keep arrays of (y, x), :class:`LocalFeatures` has (x, y);
the files name both. Their scale is 1 / pyramid scale. Sizes are limited before anything is parsed,
and numbers that are not finite are refused.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from delg.errors import DelgError
from delg.files import write_bytes
from delg.types import FloatArray, LocalFeatures, invert_scales

# A thousand features of 128 numbers take 0.6 MB; a matrix for PCA of 1024 by 1024 takes 4 MB.
# Parsed, hostile bytes take up to 28 times their size.
MAX_BYTES = 32 << 20
MAX_FEATURES = 100_000
_MAX_AXES = 8


class FeatureFileError(DelgError):
    """A feature file is missing, damaged, or not of the kind it is said to be."""


@functools.cache
def _message_classes() -> dict[str, Any]:
    """The classes of the schema's messages, by name."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="delf.proto", package="delf", syntax="proto2")

    def add(name: str, *fields: tuple[str, int, str], repeated: bool = False) -> Any:
        message = file.message_type.add(name=name)
        for number, (field_name, kind, type_name) in enumerate(fields, 1):
            label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            added = message.field.add(name=field_name, number=number, type=kind, label=label)
            if type_name:
                added.type_name = f".delf.{type_name}"
            elif repeated:
                added.options.packed = True
        return message

    add("Shape", ("dim", field.TYPE_INT64, ""), repeated=True)
    add("FloatList", ("value", field.TYPE_FLOAT, ""), repeated=True)
    add("UInt32List", ("value", field.TYPE_UINT32, ""), repeated=True)
    datum = add(
        "Datum",
        ("shape", field.TYPE_MESSAGE, "Shape"),
        ("float_list", field.TYPE_MESSAGE, "FloatList"),
        ("uint32_list", field.TYPE_MESSAGE, "UInt32List"),
    )
    datum.oneof_decl.add(name="values")
    datum.field[1].oneof_index = datum.field[2].oneof_index = 0
    numbers = ("x", "y", "scale", "orientation", "strength")
    add(
        "DelfFeature",
        ("descriptor", field.TYPE_MESSAGE, "Datum"),
        *((name, field.TYPE_FLOAT, "") for name in numbers),
    )
    add("DelfFeatures", ("feature", field.TYPE_MESSAGE, "DelfFeature"), repeated=True)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"delf.{name}"))
        for name in ("Datum", "DelfFeatures")
    }


def encode_datum(values: FloatArray) -> bytes:
    """An array of any shape, row by row, as a Datum."""
    datum = _message_classes()["Datum"]()
    _fill_datum(datum, values)
    return datum.SerializeToString()


def decode_datum(data: bytes) -> FloatArray:
    """The array of a Datum, float32.

    Raises:
        ValueError: the bytes are no Datum, or its shape does not fit its values.
    """
    return _read_datum(_parsed("Datum", data), "the file")


def encode_local(features: LocalFeatures) -> bytes:
    """Local features as DelfFeatures, in their order, with orientation 0."""
    message = _message_classes()["DelfFeatures"]()
    for (x, y), descriptor, scale, score in zip(
        features.keypoints,
        features.descriptors,
        invert_scales(features.scales),
        features.scores,
        strict=True,
    ):
        feature = message.feature.add(x=x, y=y, scale=scale, orientation=0, strength=score)
        _fill_datum(feature.descriptor, descriptor)
    return message.SerializeToString()


def decode_local(data: bytes) -> LocalFeatures:
    """The features of a DelfFeatures message, in its order; descriptors as stored.

    No features come back with descriptors of width 0.

    Raises:
        ValueError: the bytes are no such message, or its features differ in width.
    """
    message = _parsed("DelfFeatures", data)
    for unknown in UnknownFieldSet(message):
        raise ValueError(f"it has a field {unknown.field_number}, unlike local features")
    if len(message.feature) > MAX_FEATURES:
        raise ValueError(f"it has more than {MAX_FEATURES:,} features")
    if not message.feature:
        return LocalFeatures.empty(0)
    descriptors = [
        _read_descriptor(feature, f"feature {number}")
        for number, feature in enumerate(message.feature)
    ]
    dim = len(descriptors[0])
    for number, descriptor in enumerate(descriptors):
        if len(descriptor) != dim:
            raise ValueError(f"feature {number} has {len(descriptor)} numbers, the first has {dim}")
    table = np.array([(f.x, f.y, f.scale, f.strength) for f in message.feature], np.float32)
    scales = invert_scales(table[:, 2])
    if not (np.isfinite(table).all() and np.isfinite(scales).all()):
        raise ValueError("a place, scale or strength is not finite")
    return LocalFeatures(table[:, :2].copy(), np.stack(descriptors), scales, table[:, 3].copy())


def _fill_datum(datum: Any, values: FloatArray) -> None:
    datum.shape.SetInParent()
    datum.shape.dim.extend(values.shape)
    # Without values, too, the list is there, as the published tools write it.
    datum.float_list.SetInParent()
    datum.float_list.value.extend(np.asarray(values, np.float32).ravel().tolist())


def _parsed(kind: str, data: bytes) -> Any:
    try:
        return _message_classes()[kind].FromString(data)
    except DecodeError:
        raise ValueError("cut short, damaged or of another kind") from None


def _read_descriptor(feature: Any, name: str) -> FloatArray:
    """The descriptor (d,) of a DelfFeature."""
    _refuse_other_types(feature, name)
    if not feature.HasField("descriptor"):
        raise ValueError(f"{name} has no descriptor")
    descriptor = _read_datum(feature.descriptor, name)
    if descriptor.ndim != 1 or not len(descriptor):
        raise ValueError(f"{name}'s descriptor has the shape {descriptor.shape}, not (d,)")
    return descriptor


def _read_datum(datum: Any, name: str) -> FloatArray:
    values = datum.uint32_list if datum.HasField("uint32_list") else datum.float_list
    for message in (datum, datum.shape, values):
        _refuse_other_types(message, name)
    dims = tuple(datum.shape.dim[: _MAX_AXES + 1])
    if len(dims) > _MAX_AXES:
        raise ValueError(f"{name} has more than {_MAX_AXES} axes")
    count = len(values.value)
    if not dims or not all(0 <= dim < 1 << 31 for dim in dims) or math.prod(dims) != count:
        raise ValueError(f"{name} has the shape {dims} but {count:,} values")
    array = np.fromiter(values.value, np.float32, count)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds a number that is not finite")
    return array.reshape(dims)


def _refuse_other_types(message: Any, name: str) -> None:
    """protobuf takes a field of another type than the schema's for one it does not know."""
    known = message.DESCRIPTOR.fields_by_number
    for unknown in UnknownFieldSet(message):
        if unknown.field_number in known:
            field = known[unknown.field_number].name
            raise ValueError(f"{name}: its {field} is of another type than in such files")


def read_datum(path: str | Path) -> FloatArray:
    """The array in a ``.delg_global`` or ``.datum`` file, float32.

    Raises:
        FeatureFileError: it cannot be read; the message names the file and what is wrong.
    """
    data = _read(path)
    try:
        return decode_datum(data)
    except ValueError as error:
        raise FeatureFileError(f"{path}: not a Datum file: {error}") from None


def read_local(path: str | Path) -> LocalFeatures:
    """The features in a ``.delg_local`` or ``.delf`` file, descriptors as stored.

    Raises:
        FeatureFileError: it cannot be read; the message names the file and what is wrong.
    """
    data = _read(path)
    try:
        return decode_local(data)
    except ValueError as error:
        raise FeatureFileError(f"{path}: not a file of local features: {error}") from None


def write_datum(path: str | Path, values: FloatArray) -> None:
    """Write an array as a ``.delg_global`` or ``.datum`` file."""
    write_bytes(path, encode_datum(values), durable=False)


def write_local(path: str | Path, features: LocalFeatures) -> None:
    """Write a ``.delg_local`` or ``.delf`` file."""
    write_bytes(path, encode_local(features), durable=False)


def _read(path: str | Path) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise FeatureFileError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise FeatureFileError(f"{path}: over {MAX_BYTES >> 20} MiB, too large for one photo")
    return data
