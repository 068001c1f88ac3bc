"""TFRecords in the schema of the published DELG training code, read and written.

A record is a ``tf.train.Example`` with ``image/encoded`` (JPEG bytes), ``image/id``,
``image/filename``, ``image/format``, ``image/height``, ``image/width``, ``image/channels``,
``image/colorspace`` and, in training files, ``image/class/label`` (a class number from 0).
"""

from __future__ import annotations

import glob
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import tensorflow as tf

from delg.errors import DelgError, UsageError
from delg.files import atomic_write, write_text
from delg.images.decode import ImageError, decode
from delg.training.items import Item, Record
from delg.types import Failure

# Around a record lie its length (8 bytes) with a checksum (4), and a checksum behind it (4).
_HEAD, _TAIL = 12, 4
_QUALITY = 95


def _records(path: Path) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of every record of a file."""
    with path.open("rb") as file:
        while head := file.read(_HEAD):
            if len(head) < _HEAD:
                raise DelgError(f"{path}: ends in the middle of a record; write it again")
            (length,) = struct.unpack("<Q", head[:8])
            offset = file.tell()
            # A damaged length must not be trusted: it could need any amount of memory.
            if offset + length + _TAIL > path.stat().st_size:
                raise DelgError(f"{path}: ends in the middle of a record; write it again")
            yield offset, file.read(length)
            file.seek(_TAIL, 1)


def _parse(data: bytes, origin: str) -> tf.train.Example:
    try:
        return tf.train.Example.FromString(data)
    except Exception:  # Protobuf's decoders have no common error.
        raise DelgError(f"{origin}: a record is no tf.train.Example") from None


def list_records(patterns: Sequence[str]) -> list[Item]:
    """Every image of the files; the label is the class number as text.

    Raises:
        UsageError: a pattern matches no file.
        DelgError: a file is damaged or of another schema.
    """
    items = []
    for pattern in patterns:
        paths = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
        if not paths:
            raise UsageError(f"data.tfrecords: no file matches {pattern}")
        for path in map(Path, paths):
            for offset, data in _records(path):
                feature = _parse(data, str(path)).features.feature
                if not feature["image/encoded"].bytes_list.value:
                    raise DelgError(f"{path}: a record has no image/encoded")
                names = feature["image/id"].bytes_list.value
                labels = feature["image/class/label"].int64_list.value
                name = names[0].decode() if names and names[0] else f"{path.name}@{offset}"
                label = str(labels[0]) if labels else None
                items.append(Item(name, Record(path, offset, len(data)), label))
    return items


def read_image(record: Record) -> bytes:
    """The encoded image of a record.

    Raises:
        ImageError: the file has changed or cannot be read.
    """
    try:
        with record.file.open("rb") as file:
            file.seek(record.offset)
            example = _parse(file.read(record.length), str(record.file))
        return bytes(example.features.feature["image/encoded"].bytes_list.value[0])
    except (OSError, IndexError, DelgError) as error:
        raise ImageError(f"cannot be read from its TFRecord: {error}") from None


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _number(value: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def _example(item: Item, label: int | None) -> bytes:
    source = read_image(item.source) if isinstance(item.source, Record) else item.source
    pixels = decode(source)
    coded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
    feature = {
        "image/encoded": _bytes(coded.tobytes()),
        "image/id": _bytes(item.id.encode()),
        "image/filename": _bytes(item.id.encode()),
        "image/format": _bytes(b"JPEG"),
        "image/colorspace": _bytes(b"RGB"),
        "image/height": _number(pixels.shape[0]),
        "image/width": _number(pixels.shape[1]),
        "image/channels": _number(3),
    }
    if label is not None:
        feature["image/class/label"] = _number(label)
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def write_tfrecords(
    items: Sequence[Item], folder: Path, name: str, shards: int
) -> tuple[int, list[Failure]]:
    """Write ``<name>-00000-of-00008`` and so on, photos dealt out in turn as upright JPEG.

    Classes are numbered from 0 in the order of their names; ``<name>_labels.csv`` tells which is
    which. Each file appears complete or not at all.

    Returns:
        How many photos were written, and those that could not be read.
    """
    labels = sorted({item.label for item in items if item.label is not None})
    numbers = {label: number for number, label in enumerate(labels)}
    failures, written = [], 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table = "".join(f"{number},{label}\n" for label, number in numbers.items())
        write_text(folder / f"{name}_labels.csv", "class,label\n" + table)
        for shard in range(shards):
            path = folder / f"{name}-{shard:05d}-of-{shards:05d}"
            with atomic_write(path) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
                for item in items[shard::shards]:
                    try:
                        label = None if item.label is None else numbers[item.label]
                        writer.write(_example(item, label))
                        written += 1
                    except ImageError as error:
                        failures.append(Failure(item.id, str(error)))
    except OSError as error:
        raise DelgError(f"{folder}: cannot be written: {os.strerror(error.errno or 0)}") from None
    return written, failures
