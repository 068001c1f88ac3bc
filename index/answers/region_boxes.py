"""Boxes in photos, as a detector of one's own writes them into a file.

    CSV   image,x,y,width,height        one box per line; other columns are passed over
    JSON  {"image.jpg": [[x, y, width, height], …], …}

Boxes are in pixels of the upright photo. A photo is named as the query names it, or by its file
name alone.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from delg.errors import UsageError
from delg.images.geometry import parse_box
from delg.plain_values import csv_reader, parse_json, read_text
from delg.types import Box

_COLUMNS = ("x", "y", "width", "height")


class RegionBoxes:
    """The boxes of each photo.

    Args:
        boxes: by the photo's name.
    """

    def __init__(self, boxes: Mapping[str, Sequence[Box]]) -> None:
        self._boxes = boxes

    def of(self, photo: str) -> Sequence[Box] | None:
        """Those of a photo; None if the file says nothing of it."""
        known = self._boxes.get(photo)
        return known if known is not None else self._boxes.get(PurePath(photo).name)


def read_region_boxes(path: str | Path) -> RegionBoxes:
    """Read a file of boxes, JSON if its name ends so, else CSV.

    Raises:
        UsageError: it cannot be read, or holds something else; the message names the place.
    """
    path = Path(path)
    read = _read_json if path.suffix.lower() == ".json" else _read_csv
    boxes: dict[str, list[Box]] = {}
    try:
        for photo, where, values in read(path):
            boxes.setdefault(photo, []).extend([] if values is None else [_box(values, where)])
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (csv.Error, ValueError) as error:
        raise UsageError(f"{path}: no file of boxes: {error}") from None
    return RegionBoxes(boxes)


def _read_csv(path: Path) -> Iterator[tuple[str, str, Sequence[Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv_reader(file)
        missing = {"image", *_COLUMNS} - set(reader.fieldnames or ())
        if missing:
            raise UsageError(f"{path}: no column called {' or '.join(sorted(missing))}")
        for row in reader:
            values = [row[name] for name in _COLUMNS]
            yield row["image"] or "", f"{path}, line {reader.line_num}", values


def _read_json(path: Path) -> Iterator[tuple[str, str, Sequence[Any] | None]]:
    values = parse_json(read_text(path))
    if not isinstance(values, dict) or not all(isinstance(part, list) for part in values.values()):
        raise UsageError(f'{path}: expected {{"image.jpg": [[x, y, width, height], …], …}}')
    for photo, boxes in values.items():
        yield photo, str(path), None
        for number, box in enumerate(boxes, 1):
            yield photo, f"{path}: box {number} of {photo}", box


def _box(values: Any, where: str) -> Box:
    try:
        return parse_box(values)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
