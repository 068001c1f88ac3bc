from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from bad_photos import png_header
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from delg.errors import UsageError
from delg.images.decode import FORMATS, SUFFIXES, ImageError, decode, decode_bytes, read_bytes
from delg.settings import ImageSettings

# What Pillow says about damaged and about large files.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quadrants() -> np.ndarray:
    """A photo of 48×32 whose four corners differ: red, green / blue, white."""
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :24], pixels[:16, 24:], pixels[16:, :24], pixels[16:, 24:] = RED, GREEN, BLUE, WHITE
    return pixels


def gradient(dtype: type = np.uint8, top: int = 255) -> np.ndarray:
    return np.linspace(0, top, 40 * 30).reshape(30, 40).astype(dtype)


def encoded(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(stream, kind, **options)
    return stream.getvalue()


def is_rgb(pixels: np.ndarray) -> bool:
    return pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


# What files hold.


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_the_very_pixels(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert (decode(encoded(quadrants(), kind, **options)) == quadrants()).all()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_grey_becomes_three_equal_channels(kind: str) -> None:
    pixels = decode(encoded(gradient(), kind))
    assert is_rgb(pixels)
    assert (pixels == gradient()[:, :, None]).all()


def test_a_jpeg_comes_smaller_where_that_is_enough(coffee: np.ndarray) -> None:
    data = encoded(coffee, "JPEG", quality=95)
    small = decode_bytes(data, at_least=90)
    assert small.shape == (100, 150, 3)
    assert np.abs(small.mean(axis=(0, 1)) - coffee.mean(axis=(0, 1))).max() < 2
    assert decode_bytes(data, at_least=300).shape == coffee.shape
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(coffee, "JPEG", exif=exif)
    assert decode_bytes(turned, at_least=90).shape == (150, 100, 3)
    assert decode_bytes(encoded(coffee, "PNG"), at_least=9).shape == coffee.shape
    with pytest.raises(ImageError, match="oversized"):
        decode_bytes(data, ImageSettings(max_pixels=1000), at_least=9)


def test_grey_jpeg_stays_close() -> None:
    pixels = decode(encoded(gradient(), "JPEG", quality=95))
    assert is_rgb(pixels)
    assert np.abs(pixels.astype(int) - gradient()[:, :, None]).max() < 8


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_one_bit_becomes_black_and_white(kind: str) -> None:
    mask = gradient() > 128
    assert (decode(encoded(mask, kind)) == np.where(mask, 255, 0)[:, :, None]).all()


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette_colours_are_looked_up(kind: str) -> None:
    image = Image.fromarray(quadrants()).quantize(8, dither=Image.Dither.NONE)
    assert image.mode == "P"
    assert np.abs(decode(encoded(image, kind)).astype(int) - quadrants()).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_the_high_byte(kind: str) -> None:
    deep = gradient(np.uint16, 65535)
    assert (decode(encoded(deep, kind)) == (deep >> 8)[:, :, None]).all()


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_rgb_tiff_keeps_the_high_byte(order: str) -> None:
    deep = np.zeros((20, 30, 3), np.uint16)
    deep[:, :15], deep[:, 15:] = (0xFFFF, 0x8000, 0x0100), (0x0001, 0x12FF, 0xABCD)
    stream = io.BytesIO()
    tifffile.imwrite(stream, deep, photometric="rgb", byteorder=order)
    assert (decode(stream.getvalue()) == deep >> 8).all()


def test_float_tiff_is_scaled_to_eight_bits() -> None:
    pixels = decode(encoded(gradient(np.float32, 1), "TIFF"))
    assert pixels.min() == 0
    assert pixels.max() == 255


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparent_parts_lie_on_white(kind: str) -> None:
    pixels = np.zeros((20, 30, 4), np.uint8)
    pixels[:, 10:20] = 200, 40, 0, 128
    pixels[:, 20:] = 200, 40, 0, 255
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    result = decode(encoded(pixels, kind, **options))
    assert (result[:, :10] == 255).all()
    assert np.abs(result[5, 15].astype(int) - (227, 147, 127)).max() <= 1
    assert (result[:, 20:] == (200, 40, 0)).all()


def test_grey_with_alpha_lies_on_white() -> None:
    pixels = np.zeros((20, 30, 2), np.uint8)
    pixels[:, 15:] = 90, 255
    result = decode(encoded(Image.fromarray(pixels, "LA"), "PNG"))
    assert (result[:, :15] == 255).all()
    assert (result[:, 15:] == 90).all()


def test_colour_key_and_palette_transparency_lie_on_white() -> None:
    keyed = decode(encoded(quadrants(), "PNG", transparency=RED))
    assert (keyed[:16, :24] == 255).all()
    assert (keyed[:16, 24:] == GREEN).all()
    palette = Image.fromarray(quadrants()).quantize(8, dither=Image.Dither.NONE)
    for kind in ("GIF", "PNG"):
        result = decode(encoded(palette, kind, transparency=palette.getpixel((0, 0))))
        assert (result[:16, :24] == 255).all(), kind


def test_cmyk_jpeg_keeps_its_colours() -> None:
    inks = np.zeros((32, 48, 4), np.uint8)
    inks[:, :16, 0], inks[:, 16:32, 1], inks[:, 32:, 3] = 255, 255, 255
    result = decode(encoded(Image.fromarray(inks, "CMYK"), "JPEG", quality=95)).astype(int)
    for column, colour in ((8, (0, 255, 255)), (24, (255, 0, 255)), (40, (0, 0, 0))):
        assert np.abs(result[16, column] - colour).max() < 40, colour


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_of_several_frames_the_first_counts(kind: str) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in (RED, GREEN, BLUE)]
    result = decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert result.shape == (30, 40, 3)
    assert np.abs(result.astype(int) - RED).max() < 6


# Orientation: EXIF says on which side of the upright photo the stored row 0 and column 0 lie.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_all_exif_orientations_come_out_upright(kind: str, orientation: int) -> None:
    stored = np.ascontiguousarray(STORED[orientation](quadrants()))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    result = decode(encoded(stored, kind, exif=exif, **options.get(kind, {})))
    assert result.shape == (32, 48, 3)
    assert np.abs(result.astype(int) - quadrants()).mean() < (3 if kind == "JPEG" else 1e-9)


def test_compressed_tiff_is_turned_once() -> None:
    stored = np.ascontiguousarray(STORED[6](quadrants()))
    data = encoded(stored, "TIFF", compression="tiff_lzw", tiffinfo={0x0112: 6})
    assert (decode(data) == quadrants()).all()


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"]
)
def test_broken_exif_does_not_lose_the_photo(exif: bytes) -> None:
    assert decode(encoded(quadrants(), "JPEG", exif=exif)).shape == (32, 48, 3)


def test_orientation_outside_1_to_8_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 99
    assert (decode(encoded(quadrants(), "PNG", exif=exif)) == quadrants()).all()


# What cannot be used.


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("part", [0.3, 0.6])
def test_truncated_files_are_refused(coffee: np.ndarray, kind: str, part: float) -> None:
    complete = encoded(coffee[:200, :300], kind)
    with pytest.raises(ImageError, match=r"truncated|damaged"):
        decode(complete[: int(len(complete) * part)])


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0, "restart_marker_blocks": 4}]
)
def test_a_jpeg_that_lacks_only_its_end_marker_is_a_photo(coffee, options) -> None:
    data = encoded(coffee, "JPEG", **options)
    intact = decode(data)
    for lost in (1, 2):
        assert (decode(data[:-lost]) == intact).all()
    assert decode_bytes(data[:-2], at_least=100).shape == (100, 150, 3)
    for lost in (3, 4, 10, 1000):
        with pytest.raises(ImageError, match="truncated"):
            decode(data[:-lost])


@pytest.mark.parametrize("kind", ["MPO", "AVIF"])
def test_formats_of_phones(coffee: np.ndarray, kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    pixels = decode(encoded(coffee, kind, quality=95))
    assert np.abs(pixels.astype(int) - coffee).mean() < 5
    assert f".{kind.lower()}" in SUFFIXES


def test_reason_of_a_truncated_jpeg_says_so(coffee: np.ndarray) -> None:
    complete = encoded(coffee, "JPEG")
    with pytest.raises(ImageError, match="truncated"):
        decode(complete[: len(complete) // 2])


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.jpg"
    path.touch()
    for source in (path, str(path), b""):
        with pytest.raises(ImageError, match="empty"):
            decode(source)


def test_text_named_jpg_is_not_an_image(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("not a photo at all\n" * 50)
    with pytest.raises(ImageError, match="not an image"):
        decode(path)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_content_decides_not_the_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mislabelled.jpg"
    path.write_bytes(encoded(quadrants(), kind))
    assert decode(path).shape == (32, 48, 3)


def test_other_formats_of_pillow_stay_closed() -> None:
    with pytest.raises(ImageError, match="not an image of a known format"):
        decode(encoded(quadrants(), "PPM"))
    with pytest.raises(ImageError, match="not an image of a known format"):
        decode(encoded(quadrants(), "EPS"))


def test_every_format_named_can_be_opened() -> None:
    Image.init()
    missing = [name for name in FORMATS if name not in Image.OPEN]
    assert not missing, "Pillow raises KeyError for a format it has no opener for"


def test_folder_missing_and_impossible_paths(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="folder"):
        decode(tmp_path)
    with pytest.raises(ImageError, match="no such file"):
        decode(tmp_path / "nothing.jpg")
    with pytest.raises(ImageError, match="no such file"):
        decode(str(tmp_path / "nothing.jpg"))
    with pytest.raises(ImageError, match="path"):
        decode("a\0b.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        decode("x" * 5000)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ImageError, match="cannot be read"):
        read_bytes(file / "below.jpg")


@pytest.mark.parametrize("size", [(30000, 30000), (2**31 - 1, 2**31 - 1), (12000, 12000)])
def test_oversized_is_told_from_the_header(size: tuple[int, int]) -> None:
    # There is no pixel data behind the header: an attempt to decode would be called truncated.
    with pytest.raises(ImageError, match="oversized"):
        decode(png_header(*size))


def test_oversized_jpeg_is_told_from_the_header() -> None:
    data = bytearray(encoded(quadrants(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 30000, 30000)
    with pytest.raises(ImageError, match="oversized"):
        decode(bytes(data))


def test_limit_names_the_size_and_the_setting() -> None:
    with pytest.raises(ImageError, match=r"12000×11000.*100,000,000.*images\.max_pixels"):
        decode(png_header(12000, 11000))


def test_max_pixels_is_inclusive() -> None:
    data = encoded(quadrants(), "PNG")
    assert decode(data, ImageSettings(max_pixels=48 * 32)).shape == (32, 48, 3)
    for source in (data, quadrants()):
        with pytest.raises(ImageError, match="oversized"):
            decode(source, ImageSettings(max_pixels=48 * 32 - 1))


@pytest.mark.parametrize("size", [(9, 50), (50, 9), (1, 1)])
def test_too_small_names_the_size(size: tuple[int, int]) -> None:
    data = encoded(Image.new("RGB", size), "PNG")
    with pytest.raises(ImageError, match=f"too small: {size[0]}×{size[1]}"):
        decode(data)
    with pytest.raises(ImageError, match="too small"):
        decode(np.zeros((size[1], size[0], 3), np.uint8))
    assert decode(data, ImageSettings(min_side=1)).shape == (size[1], size[0], 3)


def test_smallest_side_allowed_is_ten() -> None:
    assert decode(encoded(Image.new("RGB", (10, 10)), "PNG")).shape == (10, 10, 3)


def test_heic_without_the_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    for brand in (b"heic", b"mif1"):
        with pytest.raises(ImageError, match=r"HEIC.*delg-retrieval\[heic\]"):
            decode(b"\x00\x00\x00\x18ftyp" + brand + b"\0" * 500)


# Pixels in memory.


def test_arrays_are_taken_as_they_stand(coffee: np.ndarray) -> None:
    assert (decode(coffee) == coffee).all()
    turned = decode(np.rot90(coffee)[:, ::-1])
    assert (turned == np.rot90(coffee)[:, ::-1]).all()
    assert turned.flags.c_contiguous


def test_grey_arrays_become_rgb() -> None:
    for source in (gradient(), gradient()[:, :, None]):
        assert (decode(source) == gradient()[:, :, None].repeat(3, axis=2)).all()


def test_16_bit_arrays_keep_the_high_byte() -> None:
    deep = np.stack([gradient(np.uint16, top) for top in (65535, 30000, 999)], axis=2)
    assert (decode(deep) == deep >> 8).all()
    assert (decode(deep.astype(">u2")) == deep >> 8).all()


def test_rgba_arrays_lie_on_white() -> None:
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[:, 10:] = 10, 20, 30, 255
    result = decode(pixels)
    assert (result[:, :10] == 255).all()
    assert (result[:, 10:] == (10, 20, 30)).all()


def test_bool_arrays_are_black_and_white() -> None:
    mask = gradient() > 100
    assert (decode(mask) == np.where(mask, 255, 0)[:, :, None]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_arrays_are_0_to_1(coffee: np.ndarray, dtype: type) -> None:
    assert np.abs(decode((coffee / 255).astype(dtype)).astype(int) - coffee).max() <= 1
    assert (decode(np.zeros((20, 20), dtype)) == 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1])
def test_impossible_float_pixels_are_refused(value: float) -> None:
    pixels = np.full((20, 20, 3), 0.5)
    pixels[3, 4, 1] = value
    with pytest.raises(ImageError, match="finite"):
        decode(pixels)


@pytest.mark.parametrize("shape", [(), (50,), (0, 50, 3), (50, 0), (50, 50, 0), (50, 50, 2)])
def test_arrays_of_impossible_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="shape"):
        decode(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("shape", [(50, 50, 5), (2, 50, 50, 3), (50, 50, 50, 3)])
def test_arrays_that_are_no_photo_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError):
        decode(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.complex64, object, "U1", "M8[s]"])
def test_arrays_of_other_types_are_refused(dtype: object) -> None:
    with pytest.raises(ImageError, match="type"):
        decode(np.zeros((20, 20), dtype))


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_outside_16_bits_are_refused(value: int) -> None:
    with pytest.raises(ImageError, match="uint16"):
        decode(np.full((20, 20), value, np.int64))


def test_path_text_and_bytes_agree(tmp_path: Path, coffee: np.ndarray) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(coffee, "JPEG"))
    first = decode(path)
    assert (decode(str(path)) == first).all()
    assert (decode(path.read_bytes()) == first).all()


# Hostile bytes.


def usable_or_refused(data: bytes) -> None:
    try:
        pixels = decode_bytes(data, ImageSettings(max_pixels=4_000_000))
    except ImageError as error:
        assert str(error)
    else:
        assert is_rgb(pixels)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_in_words(data: bytes) -> None:
    usable_or_refused(data)


MAGIC = [
    b"\xff\xd8\xff\xe0\x00\x10JFIF\0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0*",
    b"RIFF\xff\0\0\0WEBPVP8 ", b"RIFF\xff\0\0\0WEBPVP8X", b"\0\0\0\x18ftypheic",
]  # fmt: skip


@given(st.sampled_from(MAGIC), st.binary(max_size=300))
def test_random_bytes_behind_a_true_magic_number(magic: bytes, data: bytes) -> None:
    usable_or_refused(magic + data)


WHOLE = {
    kind: encoded(np.random.default_rng(3).integers(0, 255, (24, 40, 3), np.uint8), kind)
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
}


@pytest.mark.parametrize("kind", WHOLE)
@given(data=st.data())
def test_damaged_files_are_refused_in_words(kind: str, data: st.DataObject) -> None:
    bytes_ = bytearray(WHOLE[kind])
    # Headers are short and most of what can go wrong is in them.
    place = st.integers(0, len(bytes_) - 1) | st.integers(0, min(150, len(bytes_) - 1))
    for where, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=8)):
        bytes_[where] = value
    usable_or_refused(bytes(bytes_[: data.draw(st.just(len(bytes_)) | place)]))


def test_a_photo_is_the_same_in_whatever_form_it_is_given(tmp_path, coffee):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(coffee).save(path, quality=90, exif=exif)
    data, expected = path.read_bytes(), decode(path)
    assert expected.shape[:2] == coffee.shape[1::-1]
    with Image.open(path) as opened, path.open("rb") as file:
        size = opened.size
        for source in (
            *(str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), file, opened),
            *(opened.copy(), memoryview(bytearray(data) * 2)[: len(data)]),
        ):
            np.testing.assert_array_equal(decode(source), expected)
        assert opened.size == size
    grey = Image.fromarray(coffee).convert("L")
    np.testing.assert_array_equal(decode(grey), np.asarray(grey.convert("RGB")))


def test_what_is_no_photo_says_so(tmp_path):
    with pytest.raises(UsageError, match=r"a photo is a path, .* not NoneType"):
        decode(None)
    with pytest.raises(UsageError, match="binary mode"):
        decode(io.StringIO("text"))
    file = io.BytesIO(b"x")
    file.close()
    with pytest.raises(ImageError, match="closed file"):
        decode(file)
    with pytest.raises(ImageError, match="is empty"):
        decode(bytearray())
    Image.new("RGB", (40, 30)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    with Image.open(tmp_path / "cut.png") as cut, pytest.raises(ImageError, match="truncated"):
        decode(cut)
    with pytest.raises(ImageError, match="too small"):
        decode(Image.new("RGB", (4, 4)))
