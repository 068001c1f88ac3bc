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
the files name both. Reading takes memory in proportion to the bytes of the file, whatever these
bytes promise, and refuses numbers that are not finite.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from delg.errors import DelgError
from delg.files import write_bytes
from delg.types import FloatArray, LocalFeatures
from delg.wire import (
    WireError,
    as_float,
    as_floats,
    as_message,
    as_varints,
    read_fields,
    write_float,
    write_message,
    write_varint,
)

# A thousand features of 128 numbers take 0.6 MB; a matrix for PCA of 1024 by 1024 takes 4 MB.
MAX_BYTES = 64 << 20
MAX_FEATURES = 100_000
_MAX_AXES, _MAX_WHOLE = 8, 1 << 20
_SCALARS = {2: "x", 3: "y", 4: "scale", 5: "orientation", 6: "strength"}


class FeatureFileError(DelgError):
    """A feature file is missing, damaged, or not of the kind it is said to be."""


def encode_datum(values: FloatArray) -> bytes:
    """An array of any shape, row by row, as a Datum."""
    dims = b"".join(map(write_varint, values.shape))
    # An empty packed field is left out, as protobuf does.
    shape = write_message(1, dims) if dims else b""
    numbers = np.ascontiguousarray(values, "<f4").tobytes()
    floats = write_message(1, numbers) if numbers else b""
    return write_message(1, shape) + write_message(2, floats)


def decode_datum(data: bytes | memoryview, name: str = "the file") -> FloatArray:
    """The array of a Datum, float32.

    Raises:
        WireError: the bytes are no Datum, or its shape does not fit its values.
    """
    dims: list[int] = []
    parts: list[FloatArray] = []
    for number, kind, value in read_fields(memoryview(data)):
        if number == 1:
            for inner, inner_kind, one in read_fields(as_message(f"{name}'s shape", kind, value)):
                if inner == 1:
                    dims += as_varints(f"{name}'s dim", inner_kind, one, _MAX_AXES)
                if len(dims) > _MAX_AXES:
                    raise WireError(f"{name} has more than {_MAX_AXES} axes")
        elif number in (2, 3):
            message = as_message(f"{name}'s list of values", kind, value)
            for inner, inner_kind, one in read_fields(message):
                if inner == 1 and number == 2:
                    parts.append(as_floats(f"{name}'s values", inner_kind, one))
                elif inner == 1:
                    whole = as_varints(f"{name}'s values", inner_kind, one, _MAX_WHOLE)
                    parts.append(np.array(whole, np.float64).astype(np.float32))
    values = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if any(dim >= 1 << 31 for dim in dims) or math.prod(dims) != len(values) or not dims:
        raise WireError(f"{name} has the shape {tuple(dims)} but {len(values):,} values")
    if not np.isfinite(values).all():
        raise WireError(f"{name} holds a number that is not finite")
    return values.reshape(dims)


def encode_local(features: LocalFeatures) -> bytes:
    """Local features as DelfFeatures, in their order, with orientation 0."""
    out = []
    for (x, y), descriptor, scale, score in zip(
        features.keypoints, features.descriptors, features.scales, features.scores, strict=True
    ):
        numbers = zip(_SCALARS, (x, y, scale, 0.0, score), strict=True)
        scalars = b"".join(write_float(number, float(value)) for number, value in numbers)
        out.append(write_message(1, write_message(1, encode_datum(descriptor)) + scalars))
    return b"".join(out)


def decode_local(data: bytes) -> LocalFeatures:
    """The features of a DelfFeatures message, in its order; descriptors as stored.

    No features come back with descriptors of width 0.

    Raises:
        WireError: the bytes are no such message, or its features differ in width.
    """
    descriptors: list[FloatArray] = []
    scalars: list[list[float]] = []
    for number, kind, value in read_fields(memoryview(data)):
        if number != 1:
            raise WireError(f"it has a field {number}, which local features do not have")
        name = f"feature {len(descriptors)}"
        if len(descriptors) == MAX_FEATURES:
            raise WireError(f"it has more than {MAX_FEATURES:,} features")
        descriptor, numbers = _decode_feature(as_message(name, kind, value), name)
        if descriptors and len(descriptor) != len(descriptors[0]):
            raise WireError(
                f"{name} has {len(descriptor)} numbers, the first has {len(descriptors[0])}"
            )
        descriptors.append(descriptor)
        scalars.append(numbers)
    if not descriptors:
        return LocalFeatures.empty(0)
    table = np.array(scalars, np.float32)
    if not np.isfinite(table).all():
        raise WireError("a place, scale or strength is not finite")
    return LocalFeatures(
        table[:, :2].copy(), np.stack(descriptors), table[:, 2].copy(), table[:, 4].copy()
    )


def _decode_feature(data: memoryview, name: str) -> tuple[FloatArray, list[float]]:
    """Descriptor (d,), and x, y, scale, orientation and strength."""
    descriptor: FloatArray | None = None
    numbers = [0.0] * len(_SCALARS)
    for number, kind, value in read_fields(data):
        if number == 1:
            if descriptor is not None:
                raise WireError(f"{name} has two descriptors")
            descriptor = decode_datum(as_message(f"{name}'s descriptor", kind, value), name)
            if descriptor.ndim != 1 or not len(descriptor):
                raise WireError(f"{name}'s descriptor has the shape {descriptor.shape}, not (d,)")
        elif number in _SCALARS:
            numbers[number - 2] = as_float(f"{name}'s {_SCALARS[number]}", kind, value)
    if descriptor is None:
        raise WireError(f"{name} has no descriptor")
    return descriptor, numbers


def read_datum(path: str | Path) -> FloatArray:
    """The array in a ``.delg_global`` or ``.datum`` file, float32.

    Raises:
        FeatureFileError: it cannot be read; the message names the file and what is wrong.
    """
    try:
        return decode_datum(_read(path))
    except WireError as error:
        raise FeatureFileError(f"{path}: not a Datum file: {error}") from None


def read_local(path: str | Path) -> LocalFeatures:
    """The features in a ``.delg_local`` or ``.delf`` file, descriptors as stored.

    Raises:
        FeatureFileError: it cannot be read; the message names the file and what is wrong.
    """
    try:
        return decode_local(_read(path))
    except WireError as error:
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
