"""Features as files hold them, checked before anything believes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from delg.delf_files import MAX_FEATURES
from delg.errors import DelgError
from delg.types import FloatArray, LocalFeatures

# Bytes of one array of one photo.
MAX_ARRAY_BYTES = 256 << 20
_MAX_SIDE = 1 << 20
_TINY = 1e-12
NAMES = ("global_descriptor", "keypoints", "descriptors", "scales", "scores")


class BadFeaturesError(DelgError):
    """The features of one photo cannot be used."""


@dataclass(frozen=True)
class FeatureSource:
    """What made features: a model's name and fingerprint, both empty where nothing says so."""

    model: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, eq=False)
class ParsedFeatures:
    """The features of one photo in a file, in this engine's conventions.

    Attributes:
        id: of the photo; files of the published tools leave the suffix away.
        global_descriptor: float32 (D,), unit length, or None.
        local: best score first, descriptors of unit length; None where there are none to have,
            which is not the same as a photo in which none were found.
        size: width and height of the upright photo, or None where the file does not say.
    """

    id: str
    global_descriptor: FloatArray | None
    local: LocalFeatures | None
    size: tuple[int, int] | None


def checked(image_id: str, arrays: Mapping[str, np.ndarray], size: object = None) -> ParsedFeatures:
    """Features out of the arrays of a file.

    Args:
        image_id: of the photo.
        arrays: those of ``NAMES`` that there are; keypoints (N, 2 or more) begin with x and y in
            this engine's pixels, descriptors are (N, d).
        size: two numbers, width and height.

    Raises:
        BadFeaturesError: shapes do not fit each other, a number is not finite, or a descriptor
            has no length; the message says which.
    """
    values = {name: _numbers(name, array) for name, array in arrays.items() if name in NAMES}
    whole = values.get("global_descriptor")
    if whole is not None:
        whole = whole.reshape(-1) if whole.ndim == 2 and len(whole) == 1 else whole
        if whole.ndim != 1 or not len(whole):
            raise BadFeaturesError(f"the global descriptor has the shape {whole.shape}, not (D,)")
        whole = _unit("the global descriptor", whole[None])[0]
    local = _local(values) if "keypoints" in values or "descriptors" in values else None
    if whole is None and local is None:
        raise BadFeaturesError("there are neither a global descriptor nor keypoints")
    return ParsedFeatures(image_id, whole, local, _size(size))


def _local(values: Mapping[str, FloatArray]) -> LocalFeatures:
    keypoints, descriptors = values.get("keypoints"), values.get("descriptors")
    if keypoints is None or descriptors is None:
        missing = "keypoints" if keypoints is None else "descriptors"
        raise BadFeaturesError(f"the {missing} are missing")
    count = len(keypoints)
    # Writers give no features all sorts of shapes.
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
    for name, usual in (("scales", 1.0), ("scores", 0.0)):
        found = values.get(name, np.full(count, usual, np.float32))
        found = found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
        if found.shape != (count,):
            raise BadFeaturesError(f"the {name} have the shape {found.shape} for {count} keypoints")
        numbers[name] = found
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
    # What has unit length already stays as it is, to the last bit.
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
