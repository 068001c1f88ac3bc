"""hloc's feature files: HDF5, a group a photo, named by its path below the photos' folder.

    keypoints          (N, 2), (x, y), pixels of the original photo, (0, 0) at the centre of the
                       top-left pixel
    descriptors        (d, N): a column a feature
    scores, scales     (N,)
    image_size         width, height
    global_descriptor  (D,)

hloc keeps the last in a file of its own; here one file serves for both, as it looks only for what
it needs. Reading takes any number of files. This engine's own layout
(:mod:`index.formats.feature_file`)
has its sizes in attributes and a row a feature; such groups are read as what they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np

from delg.types import Failure, ImageFeatures
from index.formats.feature_file import new_file
from index.formats.hdf5 import child, find, opened, text, walk
from index.formats.parsed import NAMES, BadFeaturesError, FeatureSource, ParsedFeatures, checked


def write(path: Path, features: Iterable[tuple[str, ImageFeatures]], origin: FeatureSource) -> int:
    """Write one file; returns how many photos. See :func:`index.formats.writer`."""
    count = 0
    with new_file(path) as (file, check):
        file.attrs.update(model=origin.model, fingerprint=origin.fingerprint)
        for image_id, one in features:
            check()
            group = file.create_group(image_id)
            group["keypoints"] = one.local.keypoints
            group["descriptors"] = np.ascontiguousarray(one.local.descriptors.T)
            group["scores"] = one.local.scores
            group["scales"] = one.local.scales
            group["image_size"] = np.array([one.width, one.height], np.int64)
            group["global_descriptor"] = one.global_descriptor
            count += 1
    return count


def read(paths: Sequence[Path]) -> tuple[FeatureSource, Iterator[ParsedFeatures | Failure]]:
    """See :func:`index.formats.read`."""
    with opened(paths[0]) as file:
        origin = FeatureSource(text(file.attrs, "model"), text(file.attrs, "fingerprint"))
    return origin, _photos(paths)


def _photos(paths: Sequence[Path]) -> Iterator[ParsedFeatures | Failure]:
    with ExitStack() as stack:
        files = [stack.enter_context(opened(path)) for path in paths]
        seen: dict[str, None] = {}
        for file in files:
            seen |= dict.fromkeys(
                name
                for name, item in walk(file)
                if isinstance(item, h5py.Group) and any(known in item for known in NAMES)
            )
        for image_id in seen:
            groups = [find(file, image_id) for file in files]
            try:
                yield _photo(image_id, [one for one in groups if isinstance(one, h5py.Group)])
            except (BadFeaturesError, OSError, RuntimeError, KeyError, ValueError) as error:
                yield Failure(image_id, str(error))


def _photo(image_id: str, groups: Sequence[h5py.Group]) -> ParsedFeatures:
    arrays: dict[str, np.ndarray] = {}
    size: object = None
    for group in groups:
        own = "width" in group.attrs
        for name in NAMES:
            values = child(group, name)
            if values is None:
                continue
            columns = name == "descriptors" and not own and values.ndim == 2
            arrays[name] = values.T if columns else values
        if size is None:
            size = (
                (group.attrs["width"], group.attrs.get("height"))
                if own
                else child(group, "image_size")
            )
    return checked(image_id, arrays, size)
