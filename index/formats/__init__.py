"""Feature files of this engine and of other tools, one module per layout.

| name | files | layout |
|---|---|---|
| delg | a folder, two files per photo | :mod:`index.formats.delg` |
| hloc | one HDF5 file, also this engine's own | :mod:`index.formats.hloc` |
| colmap | a folder of HDF5 files, one per kind of value | :mod:`index.formats.colmap` |
| npz | one archive of NumPy arrays | :mod:`index.formats.npz` |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

from delg.errors import UsageError
from delg.paths import exists, is_folder
from delg.types import Failure, ImageFeatures
from index.formats.parsed import FeatureSource, ParsedFeatures

FORMATS = ("delg", "hloc", "colmap", "npz", "hdf5")
Features = Iterable[tuple[str, ImageFeatures]]
_SUFFIXES = {
    ".npz": "npz",
    ".h5": "hloc",
    ".hdf5": "hloc",
    ".delg_global": "delg",
    ".delg_local": "delg",
    ".delf": "delg",
}
_MODULES = {name: f"index.formats.{name}" for name in ("delg", "hloc", "colmap", "npz")}


def writer(format_name: str) -> Callable[..., int]:
    """The function that writes that format, and returns the number of photos; it takes a path, the
    features, the model that made them, and a list for photos that cannot be written, see
    :func:`index.formats.writing.write_each`.

    Raises:
        UsageError: there is no such format.
    """
    if format_name == "hdf5":
        from index.formats.feature_file import write_features

        return lambda path, features, source, failed=None: write_features(
            path, features, source.model, source.fingerprint, failed
        )
    _check(format_name)
    return import_module(_MODULES[format_name]).write


def read(
    paths: Sequence[Path],
    format_name: str | None = None,
    count: Callable[[int], None] = lambda total: None,
) -> tuple[FeatureSource, Iterator[ParsedFeatures | Failure]]:
    """The model that the files name, and the features of each photo.

    Args:
        paths: files or folders of one format; photos with the same id in several are put together,
            so that local and global features may come from different files.
        format_name: of ``FORMATS``; None goes by the first path.
        count: called with the number of photos before the first one is given.

    Raises:
        UsageError: a path does not exist, or does not show its format.
        FeatureFileError: a file as a whole cannot be read.
    """
    for path in paths:
        if not exists(path):
            raise UsageError(f"{path}: no such file or folder")
    format_name = format_name or _format_of(paths[0])
    # The reader tells this engine's own HDF5 from hloc's by its attributes.
    format_name = "hloc" if format_name == "hdf5" else format_name
    _check(format_name)
    return import_module(_MODULES[format_name]).read(paths, count)


def _check(format_name: str) -> None:
    if format_name not in _MODULES:
        raise UsageError(f"no format is called {format_name!r}; there are {', '.join(FORMATS)}")


def _format_of(path: Path) -> str:
    if is_folder(path):
        files = ("keypoints.h5", "global_descriptors.h5")
        return "colmap" if any(exists(path / name) for name in files) else "delg"
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise UsageError(f"{path}: its name does not tell the format; give --format")
    return _SUFFIXES[suffix]
