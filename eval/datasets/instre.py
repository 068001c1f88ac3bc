"""INSTRE, small objects in clutter (Wang and Jiang, TOMM 2015), in the protocol of Iscen et al.

Photos from 123.57.42.89/instre: the folders ``INSTRE-S1``, ``INSTRE-S2`` and ``INSTRE-M``, with
paths such as ``INSTRE-S1/01a_canada_book/013.jpg``. Ground truth ``gnd_instre.mat`` from the
authors of "Efficient diffusion on region manifolds" (CVPR 2017, arXiv 1611.05113): five queries for
each of 250 classes, 1,250 in all, with a box each, against the 27,293 other photos. It holds

- ``imlist``, ``qimlist``: cells of paths;
- ``gnd``: a struct array of 1,250; its first field holds the relevant photos as indices from 1,
  its second the query's box.

The same as a pickle (a dict of ``imlist``, ``qimlist`` and ``gnd``, each entry with ``ok``, indices
from 0, and ``bbx``) is read too.

The measure is mAP over the whole ranking, by trapezoids as for the original Oxford and Paris. So
the truth is that of :mod:`eval.datasets.revisited` with all relevant photos "easy": easy and medium
are the measure, hard is none. Readers of the file disagree whether a box is (x1, y1, x2, y2) or (x,
y, width, height), so the boxes decide: of 1,250 boxes of the latter kind, some have a width below
x, which no corner has.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delg.errors import UsageError
from delg.paths import is_folder
from delg.types import Box
from eval.benchmark import Benchmark, QueryPhoto, RevisitedTruth
from eval.datasets.mat_file import read_mat
from eval.datasets.photos import find_photos
from eval.datasets.revisited import as_indices, as_names, as_numbers
from eval.datasets.safe_pickle import load_plain_pickle

_VARIABLES = ("imlist", "qimlist", "gnd")
_FOLDERS = ("INSTRE-S1", "INSTRE-S2", "INSTRE-M")


def read_instre(gnd: Path, images: Path) -> Benchmark:
    """Read the ground truth and find its photos.

    Args:
        gnd: ``gnd_instre.mat`` (up to version 7), or the same as a pickle.
        images: the folder that holds ``INSTRE-S1`` and the others. Ids are the paths of ``imlist``.

    Raises:
        UsageError: the ground truth is malformed, or photos are missing.
    """
    gnd, images = Path(gnd), Path(images)
    is_pickle = gnd.suffix == ".pkl"
    data = load_plain_pickle(gnd) if is_pickle else _load_mat(gnd)
    if not isinstance(data, dict) or not set(_VARIABLES) <= set(data):
        raise UsageError(f"{gnd}: no ground truth of INSTRE: it needs {', '.join(_VARIABLES)}")
    names, query_names = as_names(gnd, data, "imlist"), as_names(gnd, data, "qimlist")
    entries = data["gnd"]
    if not isinstance(entries, list) or len(entries) != len(query_names):
        raise UsageError(f"{gnd}: gnd must have an entry for each of qimlist")
    numbers, truth = [], {}
    for name, entry in zip(query_names, entries, strict=True):
        where = f"{gnd}, query {name!r}"
        if not isinstance(entry, dict) or not {"ok", "bbx"} <= set(entry):
            raise UsageError(f"{where}: needs ok and bbx")
        easy = frozenset(names[index] for index in as_indices(entry["ok"], len(names), where))
        truth[name] = RevisitedTruth(easy, frozenset(), frozenset())
        numbers.append(as_numbers(entry["bbx"], where))
    images = _base(images)
    return Benchmark(
        name="INSTRE",
        protocol="revisited",
        gallery=tuple(find_photos(images, names, gnd)),
        queries=tuple(
            QueryPhoto(photo.id, photo.path, box)
            for photo, box in zip(
                find_photos(images, query_names, gnd), _boxes(numbers, gnd), strict=True
            )
        ),
        truth=truth,
        depth=None,
    )


def _base(images: Path) -> Path:
    for folder in (images, images / "INSTRE_release", images / "images"):
        if any(is_folder(folder / name) for name in _FOLDERS):
            return folder
    raise UsageError(f"{images}: holds none of {', '.join(_FOLDERS)}")


def _boxes(numbers: Sequence[Sequence[float]], gnd: Path) -> list[Box]:
    """All four numbers as (x, y, width, height); corners, unless some cannot be."""
    boxes: list[Box] = []
    are_corners = all(right > left and bottom > top for left, top, right, bottom in numbers)
    for left, top, third, fourth in numbers:
        width, height = (third - left, fourth - top) if are_corners else (third, fourth)
        if width <= 0 or height <= 0:
            raise UsageError(f"{gnd}: the box of query {len(boxes)} is empty")
        boxes.append((left, top, width, height))
    return boxes


def _load_mat(gnd: Path) -> dict[str, Any]:
    """The variables as a pickle would hold them: indices from 0, fields by name."""
    data = read_mat(gnd, _VARIABLES)
    entries = data.get("gnd")
    if not isinstance(entries, list):
        return {}
    for number, entry in enumerate(entries):
        where = f"{gnd}, query {number}"
        if not isinstance(entry, dict) or len(entry) < 2:
            raise UsageError(f"{where}: needs the relevant photos and a box")
        relevant, box, *_ = entry.values()
        entries[number] = {"ok": _from_zero(relevant, where), "bbx": box}
    return data


def _from_zero(indices: Any, where: str) -> list[int]:
    # MATLAB counts from 1, and in floats unless the author chose otherwise.
    if not isinstance(indices, list) or not np.array_equal(indices, np.trunc(indices)):
        raise UsageError(f"{where}: its relevant photos must be whole numbers")
    return [int(index) - 1 for index in indices]
