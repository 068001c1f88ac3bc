"""Revisited Oxford and Paris, and the original Oxford5k and Paris6k.

Ground truth: ``gnd_roxford5k.pkl`` and ``gnd_rparis6k.pkl`` from cmp.felk.cvut.cz/revisitop
(Radenović et al., arXiv 1803.11285): 70 queries each over 4,993 and 6,322 photos. Photos:
robots.ox.ac.uk/~vgg/data/oxbuildings and …/parisbuildings. The pickle is a dict of

- ``imlist``, ``qimlist``: names of database and query photos, without suffix;
- ``gnd``: for each query ``bbx`` (x1, y1, x2, y2) and the database indices ``easy``, ``hard``,
  ``junk``; all of it in lists, numbers and text.

The photos may lie flat in the folder, below ``jpg/``, or in sub-folders, as Paris has them.

The original ground truth (Philbin et al., CVPR 2007 and 2008; 55 queries each) is a folder of four
text files per query: ``<query>_query.txt`` (name, perhaps after ``oxc1_``, x1, y1, x2, y2),
``_good.txt``, ``_ok.txt`` and ``_junk.txt`` (one name per line). It has one protocol: good and ok
are relevant, junk is ignored. So good and ok become "easy", junk stays junk and "hard" is empty:
easy and medium both give the classical measure, hard gives none. By convention, the query itself is
in the database and counts as relevant. The database is every photo in the folder; the twenty
damaged photos of Paris are never retrieved and do no harm.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delg.errors import UsageError
from delg.images.scan import Photo
from delg.paths import exists, is_folder, normal_form
from delg.plain_values import MAX_DATA_BYTES, read_text
from delg.remote_path import Location
from delg.types import Box
from eval.benchmark import Benchmark, QueryPhoto, RevisitedTruth
from eval.datasets.photos import list_photos, name_some, reject_missing
from eval.datasets.safe_pickle import load_plain_pickle

_LISTS = ("easy", "hard", "junk")
_OLD_LISTS = ("good", "ok", "junk")
_QUERY_SUFFIX = "_query.txt"


def read_revisited(gnd: Path, images: Path) -> Benchmark:
    """Read a ground truth and find its photos.

    Args:
        gnd: the official pickle, or a folder of the original text files.
        images: the folder of the photos. Ids are their names without suffix.

    Raises:
        UsageError: the ground truth is damaged or contradicts itself, or photos are missing.
    """
    gnd, images = Path(gnd), Path(images)
    if not exists(gnd):
        raise UsageError(f"{gnd}: no such file or folder")
    return _read_texts(gnd, images) if is_folder(gnd) else _read_pickle(gnd, images)


def _read_pickle(gnd: Path, images: Path) -> Benchmark:
    data = load_plain_pickle(gnd)
    if not isinstance(data, dict) or not {"imlist", "qimlist", "gnd"} <= set(data):
        raise UsageError(f"{gnd}: no ground truth: it needs imlist, qimlist and gnd")
    gallery_names, query_names = as_names(gnd, data, "imlist"), as_names(gnd, data, "qimlist")
    entries = data["gnd"]
    if not isinstance(entries, Sequence) or len(entries) != len(query_names):
        raise UsageError(f"{gnd}: gnd must be a list with an entry for each of qimlist")
    boxes, truth = {}, {}
    for name, entry in zip(query_names, entries, strict=True):
        where = f"{gnd}, query {name!r}"
        if not isinstance(entry, dict) or not {"bbx", *_LISTS} <= set(entry):
            raise UsageError(f"{where}: needs bbx, easy, hard and junk")
        boxes[name] = as_corner_box(entry["bbx"], where)
        lists = {
            key: as_indices(entry[key], len(gallery_names), f"{where}, {key}") for key in _LISTS
        }
        truth[name] = _truth(
            {key: [gallery_names[index] for index in lists[key]] for key in _LISTS}, where
        )
    photos = _PhotosByName(images)
    gallery = photos.look_up(gallery_names + query_names)[: len(gallery_names)]
    return Benchmark(
        name=gnd.stem.removeprefix("gnd_"),
        protocol="revisited",
        gallery=tuple(gallery),
        queries=tuple(QueryPhoto(name, photos.path(name), boxes[name]) for name in query_names),
        truth=truth,
        depth=None,
    )


def _read_texts(folder: Path, images: Path) -> Benchmark:
    names = sorted(
        path.name.removesuffix(_QUERY_SUFFIX) for path in folder.glob(f"*{_QUERY_SUFFIX}")
    )
    if not names:
        raise UsageError(f"{folder}: holds no ground truth: no file ends in {_QUERY_SUFFIX}")
    photo_of, boxes, truth = {}, {}, {}
    for name in names:
        photo_of[name], boxes[name] = _read_query(folder / f"{name}{_QUERY_SUFFIX}")
        lists = {key: _read_lines(folder / f"{name}_{key}.txt") for key in _OLD_LISTS}
        easy = lists["good"] + lists["ok"]
        truth[name] = _truth(
            {"easy": easy, "hard": [], "junk": lists["junk"]}, f"{folder}, query {name!r}"
        )
    photos = _PhotosByName(images)
    photos.look_up(
        sorted({*photo_of.values(), *(id_ for t in truth.values() for id_ in t.easy | t.junk)})
    )
    return Benchmark(
        name=f"{folder.name} (good and ok as easy)",
        protocol="revisited",
        gallery=photos.all(),
        queries=tuple(QueryPhoto(name, photos.path(photo_of[name]), boxes[name]) for name in names),
        truth=truth,
        depth=None,
    )


def _read_lines(path: Path) -> list[str]:
    try:
        lines = read_text(path, MAX_DATA_BYTES).splitlines()
    except FileNotFoundError:
        raise UsageError(f"{path}: missing; there must be four text files per query") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path}: not a text file: {error}") from None
    return [normal_form(line.strip()) for line in lines if line.strip()]


def _read_query(path: Path) -> tuple[str, Box]:
    words = " ".join(_read_lines(path)).split()
    if len(words) != 5:
        raise UsageError(f"{path}: needs a name and the four numbers of a box")
    try:
        corners = [float(word) for word in words[1:]]
    except ValueError:
        raise UsageError(f"{path}: its box is not four numbers") from None
    return words[0].removeprefix("oxc1_"), as_corner_box(corners, str(path))


def as_names(gnd: Path, data: Mapping[str, Any], key: str) -> list[str]:
    """A list of distinct names out of a ground truth."""
    names = data[key]
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"{gnd}: {key} must be a list of names")
    names = [normal_form(name) for name in names]
    if len(set(names)) < len(names):
        repeated = [name for name, count in Counter(names).items() if count > 1]
        raise UsageError(f"{gnd}: {key} names photos twice: {name_some(repeated)}")
    return names


def as_indices(values: Any, count: int, where: str) -> list[int]:
    """Distinct indices into ``count`` photos.

    Raises:
        UsageError: they are not; the message opens with ``where``.
    """
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError, RecursionError):
        array = np.zeros(1, object)
    if not array.size:
        return []
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UsageError(f"{where}: must be a list of whole numbers")
    if array.min() < 0 or array.max() >= count:
        wrong = array[(array < 0) | (array >= count)][0]
        raise UsageError(f"{where}: index {wrong} lies outside the {count:,} photos")
    if len(np.unique(array)) < len(array):
        raise UsageError(f"{where}: names a photo twice")
    return [int(index) for index in array]


def as_numbers(values: Any, where: str) -> list[float]:
    """The four numbers of a box.

    Raises:
        UsageError: they are not; the message opens with ``where``.
    """
    try:
        numbers = [float(value) for value in np.asarray(values, np.float64).ravel()]
    except (ValueError, TypeError, OverflowError, RecursionError):
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise UsageError(f"{where}: its box is not four numbers")
    return numbers


def as_corner_box(values: Any, where: str) -> Box:
    """(x1, y1, x2, y2) as (x, y, width, height).

    Raises:
        UsageError: it is no box; the message opens with ``where``.
    """
    left, top, right, bottom = as_numbers(values, where)
    if right <= left or bottom <= top:
        raise UsageError(f"{where}: its box is empty; it must be x1, y1, x2, y2")
    return left, top, right - left, bottom - top


def _truth(lists: Mapping[str, Sequence[str]], where: str) -> RevisitedTruth:
    sets = {key: frozenset(lists[key]) for key in _LISTS}
    for first, second in (("easy", "hard"), ("easy", "junk"), ("hard", "junk")):
        shared = sorted(sets[first] & sets[second])
        if shared:
            raise UsageError(f"{where}: {name_some(shared)} are in both {first} and {second}")
    return RevisitedTruth(**sets)


class _PhotosByName:
    """The photos below a folder by name without suffix."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[str, list[Location]] = {}
        for photo in list_photos(folder):
            self._paths.setdefault(normal_form(photo.path.stem), []).append(photo.path)

    def path(self, name: str) -> Location:
        paths = self._paths[name]
        if len(paths) > 1:
            raise UsageError(f"{name!r} is ambiguous: {paths[0]} and {paths[1]}")
        return paths[0]

    def look_up(self, names: Sequence[str]) -> list[Photo]:
        """Photos in the order of ``names``; a UsageError if any is missing or ambiguous."""
        reject_missing([name for name in names if name not in self._paths], names, self._folder)
        return self._photos(names)

    def all(self) -> tuple[Photo, ...]:
        return tuple(self._photos(sorted(self._paths)))

    def _photos(self, names: Iterable[str]) -> list[Photo]:
        return [Photo(name, self.path(name)) for name in names]
