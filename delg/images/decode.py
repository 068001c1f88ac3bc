"""Bytes of image files to upright RGB pixels; what cannot be read says why."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError, features

from delg.errors import DelgError, UsageError
from delg.forks import shared_lock
from delg.images.jpeg_end import with_end_marker
from delg.limits import LimitError, check_scans, decoding_bytes
from delg.remote_path import RemotePath, is_url
from delg.settings import ImageSettings

if TYPE_CHECKING:
    from delg.remote_files import FileStat

# The path or URL of an image file, its bytes, the open file (in binary mode), Pillow's image, or
# pixels: uint8 or uint16, (H, W), (H, W, 3) RGB or (H, W, 4) RGBA.
Source = (
    str
    | os.PathLike[str]
    | RemotePath
    | bytes
    | bytearray
    | memoryview
    | BinaryIO
    | Image.Image
    | np.ndarray
)
# Those that have no name.
IN_MEMORY = (bytes, bytearray, memoryview, io.IOBase, Image.Image, np.ndarray)

_HAS_AVIF = features.check("avif")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", *(("AVIF",) if _HAS_AVIF else ()))
HEIC_SUFFIXES = (".heic", ".heif")
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *((".avif",) if _HAS_AVIF else ()),
    *HEIC_SUFFIXES,
)
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")

# What decodes within a moment.
_QUICK_BYTES, _QUICK_PIXELS, _QUICK_SCANS = 4 << 20, 4_000_000, 20
# Pixels that are converted at once.
_STRIP_PIXELS = 1 << 20
# Filters of warnings are global: one thread at a time may change them and put them back.
_FILTERING = shared_lock()


class ImageError(DelgError):
    """An image that cannot be used; the message is the reason, without the path."""


class OversizedError(ImageError):
    """An image of more pixels than are decoded."""


def _open_heic(data: bytes) -> Image.Image:
    try:
        import pillow_heif
    except ImportError:
        raise ImageError("HEIC photos need an extra: pip install 'delg-retrieval[heic]'") from None
    pillow_heif.register_heif_opener()
    return Image.open(io.BytesIO(data), formats=("HEIF",))


def _open(data: bytes) -> Image.Image:
    """The image, of which only the header is read yet."""
    with _FILTERING, warnings.catch_warnings():
        # Our own limit is checked against the header, before any pixel is decoded.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
            return _open_heic(data)
        return Image.open(io.BytesIO(data), formats=FORMATS)


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Any Pillow mode to RGB; 16-bit values keep their high byte, transparency lies on white."""
    if image.mode.startswith("I"):
        # Some decoders return 16-bit values as 32-bit ones.
        return _array_to_rgb(np.asarray(image).clip(0, 65535).astype(np.uint16))
    if image.mode == "F":
        return _array_to_rgb(np.asarray(image))
    if image.mode == "RGB" and not image.has_transparency_data:
        return np.asarray(image)
    # In strips, so that the copies on the way to RGB do not add up.
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        pixels[top:bottom] = np.asarray(_on_white(image.crop((0, top, image.width, bottom))))
    return pixels


def _on_white(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def _array_to_rgb(pixels: np.ndarray) -> NDArray[np.uint8]:
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    elif pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all() or pixels.min() < 0:
            raise ImageError("floating-point pixels must be finite and not negative")
        pixels = (pixels * (255 if pixels.max() <= 1 else 255 / pixels.max())).astype(np.uint8)
    elif pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:  # In either byte order.
        pixels = (pixels >> 8).astype(np.uint8)
    elif pixels.dtype != np.uint8:
        raise ImageError(f"pixels of type {pixels.dtype} are not understood; use uint8 or uint16")
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        return np.ascontiguousarray(pixels)
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return _to_rgb(Image.fromarray(np.ascontiguousarray(pixels), "RGBA"))
    raise ImageError(f"pixels of shape {pixels.shape} are not (H, W), (H, W, 3) or (H, W, 4)")


def _check_size(width: int, height: int, settings: ImageSettings) -> None:
    if width * height > settings.max_pixels:
        raise OversizedError(
            f"oversized: {width}×{height} pixels are over the limit of {settings.max_pixels:,} "
            "(setting images.max_pixels)"
        )
    if min(width, height) < settings.min_side:
        raise ImageError(
            f"too small: {width}×{height} pixels, a side needs {settings.min_side} or more"
        )


def _check_work(image: Image.Image, data: bytes, settings: ImageSettings) -> None:
    try:
        check_scans(image, data)
    except LimitError as error:
        raise OversizedError(str(error)) from None
    needed = decoding_bytes(image)
    if needed > settings.max_decode_mb * 1_000_000:
        raise OversizedError(
            f"oversized: {image.width}×{image.height} pixels of a {image.format} take "
            f"{needed // 1_000_000:,} MB to decode, the limit is {settings.max_decode_mb:,} "
            "(setting images.max_decode_mb)"
        )


def _upright(image: Image.Image, in_place: bool = True) -> Image.Image:
    broken = OSError, ValueError, TypeError, KeyError, SyntaxError, ZeroDivisionError
    # Broken EXIF says nothing about the pixels.
    with contextlib.suppress(*broken):
        # In place where it may be, as a photo that stands upright would be copied otherwise.
        return ImageOps.exif_transpose(image, in_place=in_place) or image  # type: ignore[call-overload]
    return image


def decode_bytes(
    data: bytes, settings: ImageSettings | None = None, at_least: int | None = None
) -> NDArray[np.uint8]:
    """Decode the bytes of an image file; see :func:`decode`.

    Args:
        data: the bytes.
        settings: limits.
        at_least: a JPEG may come at a half, quarter or eighth of its size, which is faster, while
            no side gets shorter than this.
    """
    settings = settings or ImageSettings()
    if not data:
        raise ImageError("the file is empty")
    try:
        with _open(data) as image:
            _check_size(image.width, image.height, settings)
            _check_work(image, data, settings)
            if at_least is not None:
                image.draft("RGB", (at_least, at_least))
            image.load()
            return _to_rgb(_upright(image))
    except Exception as error:  # Decoders raise anything on hostile or damaged bytes.
        reason = _reason(error)
        mended = with_end_marker(data) if reason is None else None
        if mended is not None:
            return decode_bytes(mended, settings, at_least)
        raise reason or ImageError(f"truncated or damaged: {error}") from None


def _reason(error: Exception) -> ImageError | None:
    """Why an image cannot be decoded, where the error says more than that it is damaged."""
    if isinstance(error, ImageError):
        return error
    if isinstance(error, Image.DecompressionBombError):
        return OversizedError("oversized: its header names more pixels than can be read")
    if isinstance(error, UnidentifiedImageError):
        return ImageError("not an image of a known format, or its header is damaged")
    return ImageError("not enough memory to decode it") if isinstance(error, MemoryError) else None


def _decode_image(image: Image.Image, settings: ImageSettings) -> NDArray[np.uint8]:
    """Pillow's image, which stays as it is."""
    _check_size(image.width, image.height, settings)
    try:
        image.load()
        return np.array(_to_rgb(_upright(image, in_place=False)))
    except Exception as error:  # As above, where Pillow has read the header only.
        raise _reason(error) or ImageError(f"truncated or damaged: {error}") from None


def _read_file(file: BinaryIO) -> bytes:
    """The bytes of an open file, from where it stands."""
    try:
        data = file.read()
    except (OSError, ValueError) as error:  # What is closed raises a ValueError.
        raise ImageError(f"cannot be read: {error}") from None
    if not isinstance(data, bytes):
        raise UsageError("a photo's file must be opened in binary mode: open(path, 'rb')")
    return data


def is_quick(data: bytes) -> bool:
    """Whether decoding takes a moment at most, by the file's size and header."""
    if len(data) > _QUICK_BYTES:
        return False
    try:
        with _open(data) as image:
            few_scans = data.count(b"\xff\xda") <= _QUICK_SCANS
            return few_scans and image.width * image.height <= _QUICK_PIXELS
    except Exception:  # What cannot be opened is refused as quickly.
        return True


def read_bytes(path: str | os.PathLike[str] | RemotePath, stat: FileStat | None = None) -> bytes:
    """The bytes of a file.

    Args:
        path: of the file, or its URL.
        stat: what is known of the file behind a URL; see :func:`delg.remote_files.read_file`.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        if is_url(path):
            return _read_remote(str(path), stat)
        assert not isinstance(path, RemotePath)
        if not S_ISREG(Path(path).stat().st_mode) and not Path(path).is_dir():
            raise ImageError("not a regular file")  # Reading a pipe might never end.
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise ImageError("no such file") from None
    except IsADirectoryError:
        raise ImageError("is a folder, not a photo") from None
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ImageError(f"not a usable path: {error}") from None


def _read_remote(url: str, stat: FileStat | None) -> bytes:
    from delg.remote_files import read_file

    try:
        return read_file(RemotePath.parse(url), stat)
    except UsageError as error:
        raise ImageError(str(error)) from None


def decode(source: Source, settings: ImageSettings | None = None) -> NDArray[np.uint8]:
    """Upright RGB pixels of a photo.

    EXIF orientation is applied; grey, palette, CMYK and 16-bit become 8-bit RGB; transparent
    parts become white; of an animation the first frame is decoded. The content decides the format,
    not the file's name.

    Args:
        source: a path or a URL, an open file, the bytes of an image file, Pillow's image, or pixels
            (see ``Source``; float pixels are taken as 0 to 1). Pixels are not rotated.
        settings: limits.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ImageError: empty, truncated, not an image, too large, too small, or unreadable.
        UsageError: the source is none of these.
    """
    settings = settings or ImageSettings()
    if isinstance(source, np.ndarray):
        if source.ndim < 2 or 0 in source.shape:
            raise ImageError(f"pixels of shape {source.shape} are not an image")
        _check_size(source.shape[1], source.shape[0], settings)
        return _array_to_rgb(source)
    if isinstance(source, Image.Image):
        return _decode_image(source, settings)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decode_bytes(bytes(source), settings)
    if isinstance(source, (str, os.PathLike, RemotePath)):
        return decode_bytes(read_bytes(source), settings)
    if hasattr(source, "read"):
        return decode_bytes(_read_file(source), settings)
    raise UsageError(
        "a photo is a path, an open file, bytes, Pillow's image or an array of pixels, "
        f"not {type(source).__name__}"
    )
