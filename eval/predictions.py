"""What the engine predicted: rankings and labels, and their file.

``predictions.npz`` holds plain arrays (no pickles). ``ids``: every image id once. For each list of
rankings ``<list>`` (see :class:`Predictions`): ``<list>/queries``; ``<list>/offsets``, int64
(queries + 1); and one after another, query by query, ``<list>/images`` (int32, places in ``ids``),
``<list>/scores`` (float32), ``<list>/inliers`` (int32) and ``<list>/verified`` (bool). Where labels
were predicted, ``labels/queries``, ``labels/labels`` and ``labels/scores``.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from delg.errors import UsageError
from delg.files import atomic_write
from delg.limits import MAX_RECORD_BYTES, read_array
from index.results import Ranking

FILE = "predictions.npz"
_ARRAYS = ("scores", "inliers", "probabilities", "verified")
_LABELS = "labels"
# Kinds of the arrays (NumPy's letters), by the last part of their names.
_KINDS = {"ids": "U", "queries": "U", "labels": "U", "offsets": "i", "images": "i"}
_KINDS |= {"scores": "f", "inliers": "i", "probabilities": "f", "verified": "b"}
# What NumPy and zipfile raise over files of another kind, and over damaged ones.
_DAMAGE = (
    *(ValueError, LookupError, TypeError, AttributeError, EOFError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class Predictions:
    """Rankings and labels predicted for the queries of a benchmark.

    Attributes:
        rankings: name of a list -> query id -> its ranking. Revisited Oxford/Paris has one list
            per difficulty, as each is re-ranked without the images that it ignores; the others
            have one, "all".
        labels: query id -> (label, score), or None where nothing was recognised.
    """

    rankings: Mapping[str, Mapping[str, Ranking]]
    labels: Mapping[str, tuple[str, float] | None] = field(default_factory=dict)


def plain_ranking(ids: tuple[str, ...]) -> Ranking:
    """A ranking of which only the order is known: scores fall from 0 in steps of 1."""
    count = len(ids)
    return Ranking(
        ids,
        -np.arange(count, dtype=np.float32),
        np.zeros(count, np.int32),
        np.full(count, np.nan, np.float32),
        np.zeros(count, bool),
    )


def truncate(ranking: Ranking, length: int) -> Ranking:
    """The first ``length`` of a ranking."""
    return Ranking(
        ranking.ids[:length],
        *(getattr(ranking, name)[:length] for name in _ARRAYS),
    )


def save_predictions(folder: Path, predictions: Predictions) -> None:
    """Write ``predictions.npz``; the file appears complete or not at all.

    Raises:
        DelgError: it cannot be written.
    """
    numbers: dict[str, int] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, by_query in predictions.rankings.items():
        rankings = list(by_query.values())
        images = [numbers.setdefault(image, len(numbers)) for r in rankings for image in r.ids]
        arrays[f"{name}/queries"] = _texts(list(by_query))
        arrays[f"{name}/offsets"] = np.cumsum([0, *(len(r.ids) for r in rankings)], dtype=np.int64)
        arrays[f"{name}/images"] = np.array(images, np.int32)
        for part, kind in zip(_ARRAYS, (np.float32, np.int32, np.float32, bool), strict=True):
            parts = [getattr(r, part) for r in rankings]
            arrays[f"{name}/{part}"] = np.concatenate([np.zeros(0, kind), *parts]).astype(kind)
    arrays["ids"] = _texts(list(numbers))
    labelled = {query: pair for query, pair in predictions.labels.items() if pair is not None}
    if predictions.labels:
        arrays[f"{_LABELS}/queries"] = _texts(list(labelled))
        arrays[f"{_LABELS}/labels"] = _texts([label for label, _ in labelled.values()])
        arrays[f"{_LABELS}/scores"] = np.array([score for _, score in labelled.values()], float)
    path = folder / FILE
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _texts(values: list[str]) -> np.ndarray:
    return np.array(values, str) if values else np.zeros(0, "U1")


def load_predictions(folder: Path) -> Predictions:
    """Read what :func:`save_predictions` wrote.

    Raises:
        UsageError: there is no such file, or it is damaged.
    """
    path = folder / FILE
    try:
        arrays = {}
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    name = entry.filename.removesuffix(".npy")
                    arrays[name] = read_array(file, "Uifb", MAX_RECORD_BYTES)
        return _unpack(arrays)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    except _DAMAGE as error:
        raise UsageError(f"{path}: not a file of predictions, or damaged ({error})") from None


def _unpack(arrays: dict[str, np.ndarray]) -> Predictions:
    for name, array in arrays.items():
        if array.ndim != 1 or array.dtype.kind != _KINDS[name.rpartition("/")[2]]:
            raise ValueError(f"{name!r} is of another kind")
    ids = arrays["ids"].astype(object)
    rankings: dict[str, dict[str, Ranking]] = {}
    for name in [key.removesuffix("/offsets") for key in list(arrays) if key.endswith("/offsets")]:
        offsets = arrays[f"{name}/offsets"]
        numbers = arrays[f"{name}/images"]
        # Runs of before 0.2 have no probabilities.
        arrays.setdefault(f"{name}/probabilities", np.full(len(numbers), np.nan, np.float32))
        parts = [arrays[f"{name}/{part}"] for part in _ARRAYS]
        if any(len(part) != len(numbers) for part in parts):
            raise ValueError(f"the arrays of {name!r} differ in length")
        if offsets[0] != 0 or offsets[-1] != len(numbers) or (np.diff(offsets) < 0).any():
            raise ValueError(f"the offsets of {name!r} do not fit")
        if (numbers < 0).any():
            raise ValueError(f"an image of {name!r} is unknown")
        images = ids[numbers]
        rankings[name] = {
            str(query): Ranking(tuple(images[start:end]), *(part[start:end] for part in parts))
            for query, start, end in zip(
                arrays[f"{name}/queries"], offsets[:-1], offsets[1:], strict=True
            )
        }
    if f"{_LABELS}/queries" not in arrays:
        return Predictions(rankings)
    labels = zip(
        *(arrays[f"{_LABELS}/{part}"].tolist() for part in ("queries", _LABELS, "scores")),
        strict=True,
    )
    return Predictions(rankings, {query: (label, value) for query, label, value in labels})
