"""Features for COLMAP as its HDF5 import scripts take them: one file per kind of value.

    keypoints.h5           (N, 2), (x, y), pixels, (0.5, 0.5) at the centre of the top-left pixel
    descriptors.h5         (N, d)
    scores.h5, scales.h5   (N,)
    global_descriptors.h5  (D,), which COLMAP has no use for

In each file a photo is one dataset, named by its path below the photos' folder; ``/`` in a path
makes groups, which some scripts do not enter. The attributes ``width`` and ``height`` of the
keypoints are this engine's addition. Of keypoints with more than two columns the first two count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np

from delg.errors import DelgError
from delg.paths import exists
from delg.types import Failure, ImageFeatures
from index.formats.feature_file import new_file
from index.formats.hdf5 import find, open_hdf5, read_array, read_text, walk
from index.formats.parsed import BadFeaturesError, FeatureSource, ParsedFeatures, parse_features
from index.formats.writing import new_dataset, write_each

_FILES = {
    "keypoints": "keypoints.h5",
    "descriptors": "descriptors.h5",
    "scores": "scores.h5",
    "scales": "scales.h5",
    "global_descriptor": "global_descriptors.h5",
}
# COLMAP counts from the corner of the top-left pixel, this engine from its centre.
_CORNER = np.float32(0.5)


def write(
    path: Path,
    features: Iterable[tuple[str, ImageFeatures]],
    source: FeatureSource,
    failed: list[Failure] | None = None,
) -> int:
    """Write a folder; returns the number of photos. See :func:`index.formats.writer`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DelgError(f"{path}: cannot be made: {error.strerror}") from None
    with ExitStack() as stack:
        files, checks = {}, []
        for kind, name in _FILES.items():
            files[kind], check = stack.enter_context(new_file(path / name))
            files[kind].attrs.update(model=source.model, fingerprint=source.fingerprint)
            checks.append(check)

        def write_one(image_id: str, image: ImageFeatures) -> None:
            for check in checks:
                check()
            arrays = {
                "keypoints": image.local.keypoints + _CORNER,
                "descriptors": image.local.descriptors,
                "scores": image.local.scores,
                "scales": image.local.scales,
                "global_descriptor": image.global_descriptor,
            }
            # The first of them says whether the name can be one.
            for kind, values in arrays.items():
                new_dataset(files[kind], image_id, values)
            files["keypoints"][image_id].attrs.update(width=image.width, height=image.height)

        return write_each(features, write_one, failed)


def read(
    paths: Sequence[Path], count: Callable[[int], None] = lambda total: None
) -> tuple[FeatureSource, Iterator[ParsedFeatures | Failure]]:
    """See :func:`index.formats.read`."""
    for path in paths:
        for name in _FILES.values():
            if exists(path / name):
                with open_hdf5(path / name) as file:
                    source = FeatureSource(
                        read_text(file.attrs, "model"), read_text(file.attrs, "fingerprint")
                    )
                return source, _photos(paths, count)
    raise DelgError(f"{paths[0]}: holds none of {', '.join(_FILES.values())}")


def _photos(
    paths: Sequence[Path], count: Callable[[int], None]
) -> Iterator[ParsedFeatures | Failure]:
    with ExitStack() as stack:
        files = [
            (kind, stack.enter_context(open_hdf5(path / name)))
            for path in paths
            for kind, name in _FILES.items()
            if exists(path / name)
        ]
        ids: dict[str, None] = {}
        for kind, file in files:
            if kind in ("keypoints", "global_descriptor"):
                names = (name for name, item in walk(file) if isinstance(item, h5py.Dataset))
                ids |= dict.fromkeys(names)
        count(len(ids))
        for image_id in ids:
            try:
                yield _photo(image_id, files)
            except (BadFeaturesError, OSError, RuntimeError, KeyError, ValueError) as error:
                yield Failure(image_id, str(error))


def _photo(image_id: str, files: Sequence[tuple[str, h5py.File]]) -> ParsedFeatures:
    arrays: dict[str, np.ndarray] = {}
    size: object = None
    for kind, file in files:
        dataset = find(file, image_id)
        if dataset is None:
            continue
        arrays[kind] = read_array(kind, dataset)
        if kind == "keypoints":
            arrays[kind] = arrays[kind].astype(np.float32) - _CORNER
            if "width" in dataset.attrs:
                size = dataset.attrs["width"], dataset.attrs.get("height")
    return parse_features(image_id, arrays, size)
