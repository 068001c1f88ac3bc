"""Learn what joins the global descriptors of two towers from labelled photos.

The same photos give the same projection. Which photos of a label are taken is decided by a hash of
their names, so that more per label only add to those of fewer. What the second tower gives takes
most of the time and can be kept, for when only the first changes.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from delg.errors import ModelError, UsageError
from delg.extraction.two_towers import TowerProjection, squeeze
from delg.files import atomic_write
from delg.images.decode import ImageError, decode
from delg.images.scan import Photo, scan
from delg.inference.tower import Tower
from delg.limits import LimitError, read_array
from delg.network.weights import read_weights
from delg.paths import exists
from delg.types import Failure, FloatArray, Progress
from delg.zoo.registry import ModelFiles, base_of_tower, load_network
from delg.zoo.tower_file import has_tower, load_tower

# Photos after which what the second tower gave is kept.
_KEEP_EVERY = 20
MIN_PHOTOS, MIN_LABELS = 200, 10


@dataclass(frozen=True, eq=False)
class FittedTowers:
    """A projection, and how many photos and labels it was learnt from."""

    projection: TowerProjection
    photos: int
    labels: int


def fit_towers(
    files: ModelFiles,
    sources: list[Path],
    per_label: int,
    kept: Path | None = None,
    progress: Progress | None = None,
) -> FittedTowers:
    """Learn the projection of a model.

    Args:
        files: of a model with a second tower, which was pulled.
        sources: folders of labelled photos; the label is the photo's folder.
        per_label: photos of each label, at most.
        kept: ``.npz`` file to keep the second tower's output in, and to take it from.
        progress: called as ``progress(done, total, failed)`` after every photo.

    Raises:
        UsageError: there are too few photos, or a source does not exist.
        ModelError: the model has no second tower, or it was not pulled.
    """
    spec = files.settings.tower
    if spec is None:
        raise ModelError(f"{files.settings.name} has no second tower")
    if not has_tower(spec):
        raise ModelError(files.missing())
    chosen = _choose(sources, per_label)
    values = read_weights(files.weights)
    first = replace(files, settings=files.settings.model_copy(update={"tower": None}))
    extractor = load_network(first, values)
    pooled = _pool_all(load_tower(spec), chosen, kept, progress)
    paths = {name: photo.path for name, photo in chosen.items() if name in pooled}
    names, descriptors = [], []
    for name, result in zip(paths, extractor.extract_many(paths.values()), strict=True):
        if not isinstance(result, Failure):
            names.append(name)
            descriptors.append(result.global_descriptor)
    labels, numbers = np.unique([_label(name) for name in names], return_inverse=True)
    if len(names) < MIN_PHOTOS or len(labels) < MIN_LABELS:
        raise UsageError(
            f"there are {len(names)} photos of {len(labels)} labels that can be read; it takes "
            f"{MIN_PHOTOS} or more of {MIN_LABELS} labels or more, and thousands are better"
        )
    projection = TowerProjection.fit(
        np.stack(descriptors),
        np.stack([pooled[name] for name in names]),
        numbers.astype(np.int64),
        spec,
        base_of_tower(files, values),
    )
    return FittedTowers(projection, len(names), len(labels))


def _label(name: str) -> str:
    return name.rsplit("/", 1)[0]


def _choose(sources: list[Path], per_label: int) -> dict[str, Photo]:
    """Photos by name, which begins with the source's: at most so many of each label, of labels that
    have two."""
    by_label: dict[str, dict[str, Photo]] = {}
    for source in sources:
        for photo in scan([source]).photos:
            name = f"{source.absolute().name}/{photo.id}"
            if "/" in photo.id:
                by_label.setdefault(_label(name), {})[name] = photo
    chosen: dict[str, Photo] = {}
    for _, photos in sorted(by_label.items()):
        if len(photos) > 1:
            names = sorted(photos, key=lambda name: hashlib.sha256(name.encode()).digest())
            chosen |= {name: photos[name] for name in names[:per_label]}
    return chosen


def _pool_all(
    tower: Tower, photos: dict[str, Photo], kept: Path | None, progress: Progress | None
) -> dict[str, FloatArray]:
    """What the tower gives for each photo that can be read, by name."""
    pooled = _read_kept(kept, tower.digest) if kept is not None and exists(kept) else {}
    missing = {name: photo for name, photo in photos.items() if name not in pooled}
    done, failed = len(photos) - len(missing), 0
    for name, result in _pool(tower, missing):
        done += 1
        if result is None:
            failed += 1
        else:
            # Rounded as it is kept, so that a second run learns the same.
            pooled[name] = result.astype(np.float16).astype(np.float32)
        if progress:
            progress(done, len(photos), failed)
        if kept is not None and (done % _KEEP_EVERY == 0 or done == len(photos)):
            _keep(kept, tower.digest, pooled)
    return {name: pooled[name] for name in photos if name in pooled}


def _pool(tower: Tower, photos: dict[str, Photo]) -> Iterator[tuple[str, FloatArray | None]]:
    def run(photo: Photo) -> FloatArray | None:
        try:
            return tower.run(squeeze(decode(photo.path), tower.side), all_cores=False)
        except ImageError:
            return None

    threads = os.cpu_count() or 1
    pending: deque[tuple[str, Future[FloatArray | None]]] = deque()
    with ThreadPoolExecutor(threads) as executor:
        for name, photo in photos.items():
            pending.append((name, executor.submit(run, photo)))
            if len(pending) > 2 * threads:
                first, future = pending.popleft()
                yield first, future.result()
        for first, future in pending:
            yield first, future.result()


def _keep(path: Path, digest: str, pooled: dict[str, FloatArray]) -> None:
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        features = np.stack(list(pooled.values())).astype(np.float16)
        np.savez(file, digest=digest, names=np.array(list(pooled)), features=features)


def _read_kept(path: Path, digest: str) -> dict[str, FloatArray]:
    """What is kept, if it is of that tower.

    Raises:
        UsageError: it cannot be read, or is of another tower.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {}
            for name in ("digest", "names", "features"):
                with archive.open(f"{name}.npy") as file:
                    parts[name] = read_array(file, "fU")
    except (OSError, KeyError, ValueError, EOFError, LimitError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: cannot be read ({error}); remove it") from None
    if str(parts["digest"]) != digest or len(parts["names"]) != len(parts["features"]):
        raise UsageError(f"{path}: is of another tower; name another file")
    features = parts["features"].astype(np.float32)
    return dict(zip(parts["names"].tolist(), features, strict=True))
