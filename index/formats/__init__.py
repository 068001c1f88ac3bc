"""Feature files of this engine and of its neighbours, one module a layout.

| name | what | layout |
|---|---|---|
| delg | a folder, two files a photo | :mod:`index.formats.delg` |
| hloc | one HDF5 file, also this engine's own | :mod:`index.formats.hloc` |
| colmap | a folder of HDF5 files, one for each kind of value | :mod:`index.formats.colmap` |
| npz | one archive of NumPy arrays | :mod:`index.formats.npz` |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

from delg.errors import UsageError
from delg.types import Failure, ImageFeatures
from index.formats.parsed import FeatureSource, ParsedFeatures

FORMATS = ("delg", "hloc", "colmap", "npz", "hdf5")
Features = Iterable[tuple[str, ImageFeatures]]
_MODULES = {name: f"index.formats.{name}" for name in ("delg", "hloc", "colmap", "npz")}


def writer(kind: str) -> Callable[[Path, Features, FeatureSource], int]:
    """The function that writes that format; it returns how many photos it wrote.

    Raises:
        UsageError: there is no such format.
    """
    if kind == "hdf5":
        from index.formats.feature_file import write_features

        return lambda path, features, origin: write_features(
            path, features, origin.model, origin.fingerprint
        )
    _check(kind)
    return import_module(_MODULES[kind]).write


def read(
    paths: Sequence[Path], kind: str | None = None
) -> tuple[FeatureSource, Iterator[ParsedFeatures | Failure]]:
    """What the files say of their model, and the features of each photo, by id.

    Args:
        paths: files or folders of one format; photos with the same id in several are put together,
            so that local and global features may come from different files.
        kind: the format; None looks at the first path.

    Raises:
        UsageError: a path does not exist, or its format cannot be told.
        FeatureFileError: a file as a whole cannot be read.
    """
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
    kind = kind or _kind_of(paths[0])
    # This engine's own HDF5 differs from hloc's in attributes that the reader sees.
    kind = "hloc" if kind == "hdf5" else kind
    _check(kind)
    return import_module(_MODULES[kind]).read(paths)


def _check(kind: str) -> None:
    if kind not in _MODULES:
        raise UsageError(f"no format is called {kind!r}; there are {', '.join(FORMATS)}")


def _kind_of(path: Path) -> str:
    if path.is_dir():
        files = ("keypoints.h5", "global_descriptors.h5")
        return "colmap" if any((path / name).exists() for name in files) else "delg"
    kind = {".npz": "npz", ".h5": "hloc", ".hdf5": "hloc"}.get(path.suffix.lower())
    if path.suffix.lower() in (".delg_global", ".delg_local", ".delf"):
        kind = "delg"
    if kind is None:
        raise UsageError(f"{path}: its name does not tell the format; give --format")
    return kind
