"""Files that ask for more memory or work than they should, by their headers."""

import gzip
import io
import struct
import tarfile
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from delg.images.decode import OversizedError, decode
from delg.images.decode_process import DecodeProcess
from delg.limits import LimitError, read_array
from delg.settings import ImageSettings
from delg.zoo.unpack import BadArchiveError, unpack


def image_file(kind: str, mode: str, side: int, **options: object) -> bytes:
    data = io.BytesIO()
    Image.new(mode, (side, side)).save(data, kind, **options)
    return data.getvalue()


@pytest.mark.parametrize(("kind", "mode", "side"), [("WEBP", "RGB", 1300), ("TIFF", "I", 1000)])
def test_a_small_file_that_would_take_much_memory_is_refused_before_it_does(kind, mode, side):
    options = {"compression": "tiff_adobe_deflate"} if kind == "TIFF" else {}
    data = image_file(kind, mode, side, **options)
    tracemalloc.start()
    try:
        with pytest.raises(OversizedError, match=r"MB to decode, .*images.max_decode_mb"):
            decode(data, ImageSettings(max_decode_mb=16))
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_a_progressive_jpeg_of_a_thousand_scans_is_refused():
    data = image_file("JPEG", "RGB", 2000, progressive=True)
    assert decode(data).shape == (2000, 2000, 3)
    start = data.rindex(b"\xff\xda")
    with pytest.raises(OversizedError, match="scans of 2000×2000 pixels take too long"):
        decode(data[:-2] + data[start:-2] * 1000 + data[-2:])


def test_a_photo_that_takes_long_to_decode_is_killed_and_the_next_is_decoded():
    data = image_file("JPEG", "RGB", 4000, progressive=True)
    start = data.rindex(b"\xff\xda")
    slow = data[:-2] + data[start:-2] * 100 + data[-2:]
    process = DecodeProcess(0.4)
    try:
        for _ in range(2):
            with pytest.raises(OversizedError, match=r"takes more than 0.4 s"):
                process.decode(slow, ImageSettings())
        process = DecodeProcess(60)
        assert (process.decode(data, ImageSettings()) == decode(data)).all()
        with pytest.raises(OversizedError, match="over the limit of 1,000 "):
            process.decode(data, ImageSettings(max_pixels=1000))
    finally:
        process.close()


def test_transparent_parts_become_white_in_large_photos_too():
    pixels = np.zeros((1500, 1100, 4), np.uint8)
    pixels[1400:, :, 3] = 255
    data = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(data, "PNG")
    decoded = decode(data.getvalue())
    assert (decoded[:1400] == 255).all() and (decoded[1400:] == 0).all()


def array_file(header: str) -> io.BytesIO:
    data = header.encode() + b"\n"
    return io.BytesIO(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(data)) + data + b"1234")


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("<f4", (1_600_000_000,)),
        ("<f4", (-1,)),
        ("<f4", (-2, -3)),
        ("<f4", (0, 1 << 62)),
        ("|O", (1,)),
        ("<f4", (2,)),
        ("<U9", (1,)),
    ],
)
def test_an_array_of_an_absurd_header_is_refused(dtype, shape):
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}"
    with pytest.raises(LimitError):
        read_array(array_file(header), "fiu")


def test_an_array_is_read():
    header = "{'descr': '<i2', 'fortran_order': True, 'shape': (1, 2), }"
    assert read_array(array_file(header), "fiu").tolist() == [[0x3231, 0x3433]]


def tar_header(kind: bytes, size: bytes) -> bytes:
    member = tarfile.TarInfo("file")
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


NEGATIVE = b"\xff" * 10 + b"\xf0\x00"


@pytest.mark.parametrize(
    "blocks",
    [
        tar_header(b"0", NEGATIVE),
        tar_header(b"L", NEGATIVE),
        tar_header(b"x", NEGATIVE),
        tar_header(b"L", b"00000001000\0") + bytes(512),
        tar_header(b"x", b"77777777777\0") + bytes(512),
        (tar_header(b"L", b"00000000001\0") + b"a" + bytes(511)) * 5000,
    ],
    ids=["negative file", "negative name", "negative pax", "no member", "8 GB of pax", "nested"],
)
def test_an_archive_of_absurd_headers_is_refused(tmp_path, blocks):
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(gzip.compress(blocks + bytes(1024)))
    with pytest.raises(BadArchiveError):
        unpack(archive, tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_what_a_killed_attempt_unpacked_goes_with_the_next(tmp_path):
    (tmp_path / ".m.ab12cd3_").mkdir()
    (tmp_path / ".m.other.abcdefgh").mkdir()
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        (tmp_path / "file").write_text("x")
        tar.add(tmp_path / "file", "m/file")
    unpack(tmp_path / "a.tar.gz", tmp_path / "m")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [
        ".m.other.abcdefgh",
        "m",
    ]
