"""One ``.npz`` archive of NumPy arrays, named ``<image id>/<what>``.

``numpy.load(path)["castle.jpg/keypoints"]`` and the like: ``global_descriptor`` (D,),
``keypoints`` (N, 2) in (x, y), ``descriptors`` (N, d), ``scales`` and ``scores`` (N,), all
float32, and ``size`` int64 (2,), width and height. The archive's comment names the model and its
fingerprint. It is written photo by photo, so that memory does not grow with it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from delg.delf_files import FeatureFileError
from delg.files import atomic_write
from delg.limits import LimitError, read_array
from delg.plain_values import parse_json
from delg.types import Failure, ImageFeatures
from index.formats.parsed import (
    NAMES,
    BadFeaturesError,
    FeatureSource,
    ParsedFeatures,
    parse_features,
)
from index.formats.writing import write_each

_SUFFIX = ".npy"
# Bytes of an id, which leave room for the names of arrays in an archive's entries.
_MAX_NAME = 65_000


def write(
    path: Path,
    features: Iterable[tuple[str, ImageFeatures]],
    source: FeatureSource,
    failed: list[Failure] | None = None,
) -> int:
    """Write one archive; returns the number of photos. See :func:`index.formats.writer`."""
    with (
        atomic_write(path) as temporary,
        zipfile.ZipFile(temporary, "w", allowZip64=True) as archive,
    ):
        archive.comment = json.dumps(vars(source)).encode()

        def write_one(image_id: str, image: ImageFeatures) -> None:
            arrays = {
                "global_descriptor": image.global_descriptor,
                "keypoints": image.local.keypoints,
                "descriptors": image.local.descriptors,
                "scales": image.local.scales,
                "scores": image.local.scores,
                "size": np.array([image.width, image.height], np.int64),
            }
            if "\0" in image_id or len(image_id.encode()) > _MAX_NAME:
                raise ValueError("it holds a null character or is too long")
            for name, values in arrays.items():
                with archive.open(f"{image_id}/{name}{_SUFFIX}", "w") as entry:
                    np.lib.format.write_array(entry, np.asarray(values), allow_pickle=False)

        return write_each(features, write_one, failed)


def read(
    paths: Sequence[Path], count: Callable[[int], None] = lambda total: None
) -> tuple[FeatureSource, Iterator[ParsedFeatures | Failure]]:
    """See :func:`index.formats.read`."""
    with _open_archive(paths[0]) as archive:
        try:
            comment = parse_json(archive.comment)
            source = FeatureSource(str(comment["model"]), str(comment["fingerprint"]))
        except (ValueError, KeyError, TypeError):
            source = FeatureSource()
    return source, _photos(paths, count)


def _open_archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except Exception as error:  # Damaged archives raise all sorts of errors.
        raise FeatureFileError(f"{path}: not a readable .npz archive ({error})") from None


def _photos(
    paths: Sequence[Path], count: Callable[[int], None]
) -> Iterator[ParsedFeatures | Failure]:
    with ExitStack() as stack:
        photos: dict[str, dict[str, tuple[zipfile.ZipFile, zipfile.ZipInfo]]] = {}
        for path in paths:
            archive = stack.enter_context(_open_archive(path))
            for entry in archive.infolist():
                image_id, _, name = entry.filename.removesuffix(_SUFFIX).rpartition("/")
                if image_id and name in (*NAMES, "size"):
                    photos.setdefault(image_id, {})[name] = archive, entry
        count(len(photos))
        for image_id, entries in photos.items():
            try:
                arrays = {name: _read_array(name, *entry) for name, entry in entries.items()}
                yield parse_features(image_id, arrays, arrays.get("size"))
            except BadFeaturesError as error:
                yield Failure(image_id, str(error))


def _read_array(name: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """One array; no more is read than its header says and the limit allows."""
    try:
        with archive.open(entry) as file:
            return read_array(file, "fiu")
    except LimitError as error:
        raise BadFeaturesError(f"{name} {error}") from None
    except Exception as error:
        raise BadFeaturesError(f"{name} cannot be read ({error})") from None
