"""The Met dataset: artworks of the Metropolitan Museum (Ypsilantis et al., arXiv 2202.01747).

From cmp.felk.cvut.cz/met: MET (397,121 studio photos of 224,408 exhibits), test_met, test_other and
test_noart, and the ground truth. Layout::

    MET/<exhibit>/<n>.jpg  test_met/….jpg  test_other/….jpg  test_noart/….jpg
    MET_database.json  mini_MET_database.json  testset.json  valset.json

The photos may lie below ``images/`` and the JSON files below ``ground_truth/``, as the authors'
code has them. The database is a list of ``{"id": exhibit, "path": "MET/…"}``; testset (19,319
queries) and valset (2,165) are lists of ``{"path": "test_…/…", "MET_id": exhibit}``, without
``MET_id`` where the photo shows no exhibit (other artworks, and no art at all).

Recognition: one exhibit and a score per query. GAP over all queries; GAP− and accuracy without
those that show no exhibit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from delg.errors import UsageError
from delg.paths import is_file, is_folder, normal_form
from delg.plain_values import MAX_DATA_BYTES, parse_json, read_text
from eval.benchmark import Benchmark, QueryPhoto, RecognitionTruth
from eval.datasets.photos import find_photos

_SPLITS = {"test": "testset.json", "val": "valset.json"}


def read_met(root: Path, split: str = "test", mini: bool = False) -> Benchmark:
    """Read the Met dataset.

    Args:
        root: the folder of the layout above. Ids are the paths of the JSON files.
        split: "test" or "val", the queries.
        mini: the smaller database of ``mini_MET_database.json`` (38,307 photos).

    Raises:
        UsageError: no such split, a file is malformed, or photos are missing.
    """
    root = Path(root)
    if split not in _SPLITS:
        raise UsageError(f"no split called {split!r}; there are {', '.join(_SPLITS)}")
    database_file = _find(root, "mini_" * mini + "MET_database.json")
    query_file = _find(root, _SPLITS[split])
    images = _images(root)

    labels: dict[str, str] = {}
    for path, exhibit in _entries(database_file, "id"):
        if exhibit is None:
            raise UsageError(f"{database_file}: {path!r} has no id")
        labels[path] = exhibit
    truth = {
        path: RecognitionTruth(frozenset(() if exhibit is None else (exhibit,)))
        for path, exhibit in _entries(query_file, "MET_id")
    }
    return Benchmark(
        name=f"Met {split}" + " (mini)" * mini,
        protocol="recognition",
        gallery=tuple(find_photos(images, list(labels), database_file)),
        queries=tuple(
            QueryPhoto(photo.id, photo.path)
            for photo in find_photos(images, list(truth), query_file)
        ),
        truth=truth,
        labels=labels,
    )


def _find(root: Path, name: str) -> Path:
    for path in (root / name, root / "ground_truth" / name):
        if is_file(path):
            return path
    raise UsageError(f"{root}: neither {name} nor ground_truth/{name} exists")


def _images(root: Path) -> Path:
    for folder in (root / "images", root):
        if is_folder(folder / "MET"):
            return folder
    raise UsageError(f"{root}: neither MET/ nor images/MET/, the database's photos, exists")


def _entries(path: Path, key: str) -> list[tuple[str, str | None]]:
    """Path and exhibit (None without one) of each entry; paths are unique."""
    try:
        data: Any = parse_json(read_text(path, MAX_DATA_BYTES))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path}: not a JSON file: {error}") from None
    if not isinstance(data, list) or not data:
        raise UsageError(f"{path}: must be a list with an entry for each photo")
    entries: dict[str, str | None] = {}
    for number, entry in enumerate(data):
        where = f"{path}, entry {number}"
        name = entry.get("path") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise UsageError(f"{where}: has no path")
        name = normal_form(name)
        if name in entries:
            raise UsageError(f"{where}: {name!r} has an entry already")
        exhibit = entry.get(key)
        if exhibit is not None and not str(exhibit).isdigit():
            raise UsageError(f"{where}: {key} {str(exhibit)[:40]!r} is no number")
        entries[name] = None if exhibit is None else str(exhibit)
    return list(entries.items())
