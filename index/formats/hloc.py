"""hloc's feature files: HDF5, one group per photo, named by its path below the photos' folder.

    keypoints          (N, 2), (x, y), pixels of the original photo, (0, 0) at the centre of the
                       top-left pixel
    descriptors        (d, N): one column per feature
    scores, scales     (N,)
    image_size         width, height
    global_descriptor  (D,)

hloc keeps the last in a file of its own; here one file serves for both, as hloc looks only for what
it needs. Reading takes any number of files. This engine's own layout
(:mod:`index.formats.feature_file`) has the sizes in attributes and one row per feature; such groups
are recognised and read as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from delg.paths import name_forms, normal_form
from delg.types import Failure, ImageFeatures
from index.formats.feature_file import REGION_PREFIX, new_file
from index.formats.hdf5 import find, open_hdf5, read_child, read_text, walk
from index.formats.parsed import (
    NAMES,
    BadFeaturesError,
    FeatureSource,
    ParsedFeatures,
    parse_features,
    parse_regions,
)
from index.formats.writing import new_group, write_each


def write(
    path: Path,
    features: Iterable[tuple[str, ImageFeatures]],
    source: FeatureSource,
    failed: list[Failure] | None = None,
) -> int:
    """Write one file; returns the number of photos. See :func:`index.formats.writer`."""
    with new_file(path) as (file, check):
        file.attrs.update(model=source.model, fingerprint=source.fingerprint)

        def write_one(image_id: str, image: ImageFeatures) -> None:
            check()
            group = new_group(file, image_id)
            group["keypoints"] = image.local.keypoints
            group["descriptors"] = np.ascontiguousarray(image.local.descriptors.T)
            group["scores"] = image.local.scores
            group["scales"] = image.local.scales
            group["image_size"] = np.array([image.width, image.height], np.int64)
            group["global_descriptor"] = image.global_descriptor

        return write_each(features, write_one, failed)


def read(
    paths: Sequence[Path], count: Callable[[int], None] = lambda total: None
) -> tuple[FeatureSource, Iterator[ParsedFeatures | Failure]]:
    """See :func:`index.formats.read`."""
    with open_hdf5(paths[0]) as file:
        source = FeatureSource(read_text(file.attrs, "model"), read_text(file.attrs, "fingerprint"))
    return source, _photos(paths, count)


def _photos(
    paths: Sequence[Path], count: Callable[[int], None]
) -> Iterator[ParsedFeatures | Failure]:
    with ExitStack() as stack:
        files = [stack.enter_context(open_hdf5(path)) for path in paths]
        ids: dict[str, None] = {}
        for file in files:
            ids |= dict.fromkeys(
                normal_form(name)
                for name, item in walk(file)
                if isinstance(item, h5py.Group) and any(dataset in item for dataset in NAMES)
            )
        count(len(ids))
        for image_id in ids:
            groups = [find(file, form) for file in files for form in name_forms(image_id)]
            try:
                yield _photo(image_id, [group for group in groups if isinstance(group, h5py.Group)])
            except (BadFeaturesError, OSError, RuntimeError, KeyError, ValueError) as error:
                yield Failure(image_id, str(error))


def _photo(image_id: str, groups: Sequence[h5py.Group]) -> ParsedFeatures:
    arrays: dict[str, np.ndarray] = {}
    size: object = None
    for group in groups:
        is_own_layout = "width" in group.attrs
        for name in NAMES:
            values = read_child(group, name)
            if values is None:
                continue
            is_transposed = name == "descriptors" and not is_own_layout and values.ndim == 2
            arrays[name] = values.T if is_transposed else values
        if size is None:
            size = (
                (group.attrs["width"], group.attrs.get("height"))
                if is_own_layout
                else read_child(group, "image_size")
            )
    parsed = parse_features(image_id, arrays, size)
    regions = parse_regions(image_id, _region_arrays(groups))
    return replace(parsed, regions=regions) if regions else parsed


def _region_arrays(groups: Sequence[h5py.Group]) -> dict[str, np.ndarray]:
    """The arrays of a photo's parts, by name without prefix, where a group has any."""
    for group in groups:
        if f"{REGION_PREFIX}boxes" in group:
            names = [name for name in group if name.startswith(REGION_PREFIX)]
            arrays = {name[len(REGION_PREFIX) :]: read_child(group, name) for name in names}
            return {name: array for name, array in arrays.items() if array is not None}
    return {}
