"""Google Landmarks v2 (arXiv 2004.01804): its CSV files and the tree of its images.

``train.csv`` has a line ``id,url,landmark_id`` for each image; ``train_clean.csv`` a line
``landmark_id,images`` for each landmark, images separated by spaces. Image ``0123456789abcdef``
lies at ``0/1/2/0123456789abcdef.jpg``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from delg.errors import UsageError
from delg.paths import is_folder
from delg.training.items import Item


def image_path(images: Path, image_id: str) -> Path:
    """Where an image lies in the tree."""
    return images / image_id[0] / image_id[1] / image_id[2] / f"{image_id}.jpg"


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    """Image id and landmark id of every line."""
    # One landmark of the clean set has a line longer than the csv module expects.
    csv.field_size_limit(1 << 27)
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        fields = set(reader.fieldnames or ())
        if {"id", "landmark_id"} <= fields:
            for row in reader:
                yield row["id"], row["landmark_id"]
        elif {"landmark_id", "images"} <= fields:
            for row in reader:
                for image_id in row["images"].split():
                    yield image_id, row["landmark_id"]
        else:
            raise UsageError(
                f"{path}: expected the columns id,url,landmark_id (train.csv) or "
                f"landmark_id,images (train_clean.csv), found {','.join(sorted(fields)) or 'none'}"
            )


def read_gldv2(path: Path, images: Path) -> list[Item]:
    """The images of ``train.csv`` or ``train_clean.csv``, labelled by landmark id as text.

    Files are not looked for here: a missing image is a failure when it is read.

    Raises:
        UsageError: a file is missing or has other columns.
    """
    if not is_folder(images):
        raise UsageError(f"{images}: no such folder (data.gldv2.images)")
    items = []
    try:
        for image_id, landmark in _rows(path):
            if len(image_id) < 3 or not image_id.isalnum() or not (landmark or "").isdigit():
                raise UsageError(f"{path}: not an image and a landmark: {image_id!r}, {landmark!r}")
            items.append(Item(image_id, image_path(images, image_id), landmark))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    return items
