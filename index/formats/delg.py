"""Files of the published DELG and DELF tools in a folder: ``<photo>.delg_global``, ``.delg_local``.

A photo's files are named by its id without the suffix, as the published scripts name them; where
two photos differ in nothing else, the suffix stays. Photos of which only ``.delg_local`` or
``.delf`` exists have no global descriptor. The files do not say how large the photos are.
:mod:`delg.delf_files` has the bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from delg.delf_files import FeatureFileError, read_datum, read_local, write_datum, write_local
from delg.errors import DelgError, UsageError
from delg.images.decode import SUFFIXES
from delg.paths import is_folder, normal_form, presence
from delg.types import Failure, ImageFeatures
from index.formats.parsed import BadFeaturesError, FeatureSource, ParsedFeatures, parse_features
from index.formats.writing import write_each

GLOBAL, LOCAL, DELF = ".delg_global", ".delg_local", ".delf"


def without_suffix(image_id: str) -> str:
    """The id without the suffix of a photo's file, if it has one."""
    path = PurePosixPath(image_id)
    return str(path.with_suffix("")) if path.suffix.lower() in SUFFIXES else image_id


def write(
    path: Path,
    features: Iterable[tuple[str, ImageFeatures]],
    source: FeatureSource,
    failed: list[Failure] | None = None,
) -> int:
    """Write a folder; returns the number of photos. See :func:`index.formats.writer`."""
    names: set[str] = set()

    def write_one(image_id: str, image: ImageFeatures) -> None:
        name = without_suffix(image_id)
        name = image_id if name in names else name
        target = path / name
        if not target.resolve().is_relative_to(path.resolve()):
            raise UsageError(f"{image_id}: would be written outside {path}")
        if not target.name or presence(target.with_name(target.name + GLOBAL)).reason:
            raise UsageError(f"{image_id}: no file can have that name")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DelgError(f"{target.parent}: cannot be made: {error.strerror}") from None
        write_datum(target.with_name(target.name + GLOBAL), image.global_descriptor)
        write_local(target.with_name(target.name + LOCAL), image.local)
        names.add(name)

    return write_each(features, write_one, failed)


def read(
    paths: Sequence[Path], count: Callable[[int], None] = lambda total: None
) -> tuple[FeatureSource, Iterator[ParsedFeatures | Failure]]:
    """See :func:`index.formats.read`; a file stands for all files of its photo."""
    return FeatureSource(), _photos(paths, count)


def _photos(
    paths: Sequence[Path], count: Callable[[int], None]
) -> Iterator[ParsedFeatures | Failure]:
    photos: dict[str, dict[str, Path]] = {}
    closed: list[Failure] = []
    for path in paths:
        in_folder = is_folder(path)
        base = path if in_folder else path.parent
        for file in sorted(_files(base, in_folder, closed)):
            is_of_photo = in_folder or file.name.removesuffix(file.suffix) == path.stem
            if is_of_photo and file.suffix in (GLOBAL, LOCAL, DELF):
                name = normal_form(file.relative_to(base).as_posix()).removesuffix(file.suffix)
                photos.setdefault(name, {})[file.suffix] = file
    if not photos:
        raise FeatureFileError(
            f"{paths[0]}: holds no file that ends in {GLOBAL}, {LOCAL} or {DELF}"
        )
    count(len(closed) + len(photos))
    yield from closed
    for name, by_suffix in photos.items():
        try:
            yield _photo(name, by_suffix)
        except (BadFeaturesError, FeatureFileError) as error:
            yield Failure(name, str(error))


def _files(folder: Path, below: bool, closed: list[Failure]) -> Iterator[Path]:
    """The files in a folder, or also in those below it; what cannot be listed is a failure."""

    def unreadable(error: OSError) -> None:
        closed.append(Failure(str(error.filename), f"cannot be listed: {error.strerror}"))

    for here, folders, names in os.walk(folder, onerror=unreadable):
        if not below:
            folders.clear()
        yield from (Path(here, name) for name in names)


def _photo(name: str, files: dict[str, Path]) -> ParsedFeatures:
    arrays: dict[str, np.ndarray] = {}
    if GLOBAL in files:
        arrays["global_descriptor"] = read_datum(files[GLOBAL])
    local_file = files.get(LOCAL) or files.get(DELF)
    if local_file is not None:
        local = read_local(local_file)
        for kind in ("keypoints", "descriptors", "scales", "scores"):
            arrays[kind] = getattr(local, kind)
    return parse_features(name, arrays)
