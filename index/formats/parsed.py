"""Features as files of other tools hold them, checked before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from delg.delf_files import MAX_FEATURES
from delg.errors import DelgError
from delg.paths import normal_form
from delg.types import FloatArray, LocalFeatures

# Largest array of one photo that is read, bytes.
_MAX_SIDE = 1 << 20
_TINY = 1e-12
NAMES = ("global_descriptor", "keypoints", "descriptors", "scales", "scores")


class BadFeaturesError(DelgError):
    """The features of one photo cannot be used."""


@dataclass(frozen=True)
class FeatureSource:
    """The model that made features: name and fingerprint, both empty where the file gives none."""

    model: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, eq=False)
class ParsedFeatures:
    """The features of one photo in a file, in this engine's conventions.

    Attributes:
        id: of the photo; files of the published tools leave out its suffix.
        global_descriptor: float32 (D,), unit length, or None.
        local: best score first, descriptors of unit length; None where the file is not about
            local features, which differs from a photo without any.
        size: width and height of the upright photo, pixels, or None where the file gives none.
        regions: parts of the photo, each with the (x, y) of its top-left pixel.
    """

    id: str
    global_descriptor: FloatArray | None
    local: LocalFeatures | None
    size: tuple[int, int] | None
    regions: tuple[tuple[int, int, ParsedFeatures], ...] = ()


def parse_features(
    image_id: str, arrays: Mapping[str, np.ndarray], size: object = None
) -> ParsedFeatures:
    """Features of one photo from the arrays of a file.

    Args:
        image_id: of the photo.
        arrays: by their names of ``NAMES``, as far as there are any: global_descriptor (D,) or
            (1, D); keypoints (N, 2 or more), x and y first, in this engine's pixels; descriptors
            (N, d); scales and scores (N,) or (N, 1).
        size: width and height of the upright photo, two numbers.

    Raises:
        BadFeaturesError: shapes do not fit each other, a number is not finite, or a descriptor
            has no length; the message says which.
    """
    values = {name: _numbers(name, array) for name, array in arrays.items() if name in NAMES}
    descriptor = values.get("global_descriptor")
    if descriptor is not None:
        if descriptor.ndim == 2 and len(descriptor) == 1:
            descriptor = descriptor[0]
        if descriptor.ndim != 1 or not len(descriptor):
            raise BadFeaturesError(
                f"the global descriptor has the shape {descriptor.shape}, not (D,)"
            )
        descriptor = _unit("the global descriptor", descriptor[None])[0]
    local = _local(values) if "keypoints" in values or "descriptors" in values else None
    if descriptor is None and local is None:
        raise BadFeaturesError("there are neither a global descriptor nor keypoints")
    return ParsedFeatures(normal_form(image_id), descriptor, local, _size(size))


def parse_regions(
    image_id: str, arrays: Mapping[str, np.ndarray]
) -> tuple[tuple[int, int, ParsedFeatures], ...]:
    """The parts of a photo from the arrays of a file; see :mod:`index.formats.feature_file`.

    Args:
        image_id: of the photo.
        arrays: by their names without prefix.

    Raises:
        BadFeaturesError: see :func:`parse_features`.
    """
    boxes, offsets = arrays.get("boxes"), arrays.get("offsets")
    if boxes is None or offsets is None:
        return ()
    count = len(boxes) if boxes.ndim == 2 else -1
    fits = (
        boxes.shape == (count, 4)
        and offsets.shape == (count + 1,)
        and boxes.dtype.kind in "iu"
        and offsets.dtype.kind in "iu"
        and all(len(arrays[name]) == offsets[-1] for name in NAMES[1:] if name in arrays)
        and len(arrays.get(NAMES[0], ())) == count
        and bool((np.diff(offsets.astype(np.int64)) >= 0).all())
    )
    if not fits:
        raise BadFeaturesError("the arrays of its regions do not fit each other")
    regions = []
    for number, (x, y, *size) in enumerate(boxes.tolist()):
        part = slice(int(offsets[number]), int(offsets[number + 1]))
        own = {name: arrays[name][part] for name in NAMES[1:] if name in arrays}
        own[NAMES[0]] = arrays[NAMES[0]][number]
        regions.append((x, y, parse_features(image_id, own, size)))
    return tuple(regions)


def _local(values: Mapping[str, FloatArray]) -> LocalFeatures:
    keypoints, descriptors = values.get("keypoints"), values.get("descriptors")
    if keypoints is None or descriptors is None:
        missing = "keypoints" if keypoints is None else "descriptors"
        raise BadFeaturesError(f"the {missing} are missing")
    count = len(keypoints)
    # Empty arrays come in all sorts of shapes.
    if not keypoints.size and not descriptors.size:
        width = descriptors.shape[1] if descriptors.ndim == 2 else 0
        return LocalFeatures.empty(width)
    if keypoints.ndim != 2 or keypoints.shape[1] < 2:
        raise BadFeaturesError(f"the keypoints have the shape {keypoints.shape}, not (N, 2)")
    if descriptors.ndim != 2 or len(descriptors) != count:
        raise BadFeaturesError(
            f"the descriptors have the shape {descriptors.shape} for {count} keypoints"
        )
    if count > MAX_FEATURES:
        raise BadFeaturesError(f"{count:,} features are over the limit of {MAX_FEATURES:,}")
    numbers = {}
    for name, default in (("scales", 1.0), ("scores", 0.0)):
        column = values.get(name, np.full(count, default, np.float32))
        column = column[:, 0] if column.ndim == 2 and column.shape[1] == 1 else column
        if column.shape != (count,):
            raise BadFeaturesError(
                f"the {name} have the shape {column.shape} for {count} keypoints"
            )
        numbers[name] = column
    order = np.argsort(-numbers["scores"], kind="stable")
    return LocalFeatures(
        keypoints[order, :2],
        _unit("a local descriptor", descriptors)[order],
        numbers["scales"][order],
        numbers["scores"][order],
    )


def _numbers(name: str, array: np.ndarray) -> FloatArray:
    if array.dtype.kind not in "fiu":
        raise BadFeaturesError(f"{name} holds {array.dtype}, not numbers")
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise BadFeaturesError(f"{name} holds a number that is not finite")
    return values


def _unit(name: str, vectors: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    if len(lengths) and not lengths.min() > _TINY:
        raise BadFeaturesError(f"{name} has no length")
    # Vectors of unit length stay as they are, to the last bit.
    scaled = vectors if np.allclose(lengths, 1, rtol=0, atol=1e-6) else vectors / lengths
    return scaled.astype(np.float32)


def _size(size: object) -> tuple[int, int] | None:
    if size is None:
        return None
    try:
        width, height = (int(side) for side in np.asarray(size).ravel())
    except (ValueError, TypeError, OverflowError):
        raise BadFeaturesError("the photo's size is not two numbers") from None
    if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE):
        raise BadFeaturesError(f"the photo's size {width}×{height} cannot be")
    return width, height
