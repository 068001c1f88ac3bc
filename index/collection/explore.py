"""What exploring a collection needs, computed once and stored beside the catalog: where each photo
lies on a map of all by similarity, and when and where it was taken.

Date and place come from the metadata (``date``, ``latitude`` and ``longitude``, or as these are
often called), otherwise from the photo's EXIF. The file is derived: it may be deleted, and photos
that were added since are not in it.
"""

from __future__ import annotations

import contextlib
import math
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from delg.errors import DelgError, UsageError
from delg.files import atomic_write
from delg.paths import presence
from delg.remote_path import is_url
from delg.types import FloatArray, Progress
from index.storage.catalog_tables import ImageRow
from index.storage.store import Store

FILE = "explore.npz"
Layout = Literal["auto", "umap", "pca"]
# Stands for a date that is not known.
NO_DATE = np.iinfo(np.int64).min
_DATE_KEYS = ("date", "taken", "datetime", "created", "year")
_LATITUDE_KEYS, _LONGITUDE_KEYS = ("latitude", "lat"), ("longitude", "lon", "lng", "long")
_DATE_FORMATS = (
    "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y:%m:%d %H:%M:%S", "%Y-%m-%d", "%Y-%m", "%Y",
)  # fmt: skip
# Tags of EXIF.
_EXIF, _GPS, _TAKEN, _CHANGED = 0x8769, 0x8825, 0x9003, 0x0132
# Photos that the directions of a PCA are found from.
_SAMPLE = 50_000
# Share of the photos on each side of the map that may lie beyond its edge.
_TAIL = 0.002
# Photos below which there are too few neighbours for UMAP.
_MIN_UMAP = 20


@dataclass(frozen=True, eq=False)
class Exploration:
    """What is known of N photos.

    Attributes:
        rows: int64 (N,), row numbers, ascending.
        places: float32 (N, 2), (x, y) on the map of similarity, 0 to 1.
        coordinates: float32 (N, 2), (latitude, longitude) in degrees; NaN where not known.
        dates: int64 (N,), seconds since 1970, by the camera's clock; ``NO_DATE`` where not
            known.
        layout: "umap" or "pca".
    """

    rows: NDArray[np.int64]
    places: FloatArray
    coordinates: FloatArray
    dates: NDArray[np.int64]
    layout: str

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def located(self) -> NDArray[np.intp]:
        """Positions of the photos whose coordinates are known."""
        return np.flatnonzero(np.isfinite(self.coordinates).all(1))

    def position(self, row: int) -> int | None:
        """Position of a photo."""
        place = int(np.searchsorted(self.rows, row))
        return place if place < len(self.rows) and self.rows[place] == row else None

    def date(self, row: int) -> datetime | None:
        """When a photo was taken."""
        position = self.position(row)
        if position is None or self.dates[position] == NO_DATE:
            return None
        return datetime.fromtimestamp(int(self.dates[position]), timezone.utc)

    def save(self, folder: Path) -> None:
        """Write it into the folder of an index.

        Raises:
            DelgError: it cannot be written.
        """
        with atomic_write(folder / FILE) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file, rows=self.rows, places=self.places, coordinates=self.coordinates,
                dates=self.dates, layout=np.array(self.layout),
            )  # fmt: skip

    @classmethod
    def load(cls, folder: Path) -> Exploration | None:
        """From the folder of an index; None if it was never computed.

        Raises:
            DelgError: it is damaged.
        """
        path = folder / FILE
        try:
            with np.load(path, allow_pickle=False) as values:
                read = cls(
                    values["rows"].astype(np.int64), values["places"].astype(np.float32),
                    values["coordinates"].astype(np.float32), values["dates"].astype(np.int64),
                    str(values["layout"]),
                )  # fmt: skip
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, MemoryError) as error:
            raise DelgError(
                f"{path}: damaged ({error}); delete it, or run delg index explore"
            ) from None
        count = len(read.rows)
        shapes = (read.places.shape, read.coordinates.shape, read.dates.shape)
        if shapes != ((count, 2), (count, 2), (count,)) or not np.isfinite(read.places).all():
            raise DelgError(f"{path}: damaged; delete it, or run delg index explore")
        return read


def explore(
    store: Store,
    layout: Layout = "auto",
    read_photos: bool = True,
    progress: Progress | None = None,
) -> Exploration:
    """Compute it for all photos that can be found; dates and coordinates of photos that were known
    before are kept.

    Args:
        layout: "umap" needs umap-learn, which "auto" uses if it is installed.
        read_photos: read the EXIF of photos that are not known yet.
        progress: called with the photos done, all, and 0.

    Raises:
        UsageError: the layout needs a package that is not installed.
    """
    rows = store.searchable()
    coordinates = np.full((len(rows), 2), np.nan, np.float32)
    dates = np.full(len(rows), NO_DATE, np.int64)
    before = _load_or_none(store.folder)
    for position, row in enumerate(rows):
        image = store.catalog.by_row(int(row))
        known = before.position(int(row)) if before else None
        date, latitude, longitude = NO_DATE, math.nan, math.nan
        if before is not None and known is not None:
            date = int(before.dates[known])
            latitude, longitude = map(float, before.coordinates[known])
        elif read_photos:
            date, latitude, longitude = read_exif(image.path)
        recorded = date_of(image.metadata)
        dates[position] = date if recorded == NO_DATE else recorded
        place = coordinates_of(image.metadata)
        coordinates[position] = place if place is not None else (latitude, longitude)
        if progress is not None:
            progress(position + 1, len(rows), 0)
    places, name = _lay_out(store.global_descriptors(rows), layout)
    return Exploration(rows, places, coordinates, dates, name)


def _load_or_none(folder: Path) -> Exploration | None:
    try:
        return Exploration.load(folder)
    except DelgError:
        return None


def _lay_out(vectors: FloatArray, layout: Layout) -> tuple[FloatArray, str]:
    """Places of photos by their global descriptors (N, D), and the layout that was used."""
    if layout == "umap" or (layout == "auto" and len(vectors) >= _MIN_UMAP):
        try:
            with _without_tensorflow():
                from umap import UMAP
        except ImportError:
            if layout == "umap":
                raise UsageError(
                    "--layout umap: needs umap-learn: pip install 'delg-retrieval[explore]'"
                ) from None
        else:
            neighbours = min(15, max(2, len(vectors) - 1))
            reducer = UMAP(n_neighbors=neighbours, metric="cosine", random_state=0, n_jobs=1)
            return _fit(np.asarray(reducer.fit_transform(vectors), np.float32)), "umap"
    return _fit(_principal(vectors)), "pca"


@contextmanager
def _without_tensorflow() -> Iterator[None]:
    """umap-learn imports TensorFlow where it can, for a class that is not needed here."""
    if "tensorflow" in sys.modules:
        yield
        return
    sys.modules["tensorflow"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["tensorflow"]


def _principal(vectors: FloatArray) -> FloatArray:
    """The two principal components."""
    if len(vectors) < 3:
        return np.zeros((len(vectors), 2), np.float32) + np.arange(len(vectors))[:, None]
    sample = vectors[np.linspace(0, len(vectors) - 1, min(len(vectors), _SAMPLE)).astype(int)]
    mean = sample.mean(0)
    values, axes = np.linalg.eigh(np.cov((sample - mean).T))
    projected: FloatArray = ((vectors - mean) @ axes[:, np.argsort(-values)[:2]]).astype(np.float32)
    return projected


def _fit(points: FloatArray) -> FloatArray:
    """Points moved and scaled to lie within 0 and 1; few lie at the edge."""
    if not len(points):
        return points.reshape(0, 2)
    low, high = np.quantile(points, _TAIL, axis=0), np.quantile(points, 1 - _TAIL, axis=0)
    scale = float(max((high - low).max(), 1e-9))
    fitted = 0.5 + 0.94 * (points - (low + high) / 2) / scale
    return np.clip(np.nan_to_num(fitted, nan=0.5), 0, 1).astype(np.float32)


def date_of(metadata: Mapping[str, str]) -> int:
    """Seconds since 1970 of a date in the metadata; ``NO_DATE`` if there is none."""
    lower = {key.lower(): value for key, value in metadata.items()}
    return next(
        (d for key in _DATE_KEYS if (d := read_date(lower.get(key, ""))) != NO_DATE), NO_DATE
    )


def read_date(text: str) -> int:
    """Seconds since 1970 of a date as text, such as 1889, 1889-03-31 or as EXIF writes it."""
    for pattern in _DATE_FORMATS:
        with contextlib.suppress(ValueError, OverflowError):
            date = datetime.strptime(text.strip()[:19], pattern)
            return int(date.replace(tzinfo=timezone.utc).timestamp())
    return NO_DATE


def coordinates_of(metadata: Mapping[str, str]) -> tuple[float, float] | None:
    """Latitude and longitude in the metadata, in degrees."""
    lower = {key.lower(): value for key, value in metadata.items()}
    values = []
    for keys in (_LATITUDE_KEYS, _LONGITUDE_KEYS):
        text = next((lower[key] for key in keys if lower.get(key)), "")
        try:
            values.append(float(text))
        except ValueError:
            return None
    return _valid(values[0], values[1])


def _valid(latitude: float, longitude: float) -> tuple[float, float] | None:
    fits = abs(latitude) <= 90 and abs(longitude) <= 180
    # Cameras without a fix write zeros.
    return (latitude, longitude) if fits and (latitude or longitude) else None


def read_exif(path: str) -> tuple[int, float, float]:
    """Date, latitude and longitude of a photo's EXIF; ``NO_DATE`` and NaN where there is none."""
    if not path or is_url(path) or presence(path).kind != "file":
        return NO_DATE, math.nan, math.nan
    try:
        with Image.open(path) as photo:
            exif = photo.getexif()
            taken = exif.get_ifd(_EXIF).get(_TAKEN) or exif.get(_CHANGED) or ""
            gps = exif.get_ifd(_GPS)
    except Exception:  # Damaged EXIF raises all sorts of errors.
        return NO_DATE, math.nan, math.nan
    place = _gps_place(gps) or (math.nan, math.nan)
    return read_date(str(taken)), *place


def _gps_place(gps: Mapping[int, Any]) -> tuple[float, float] | None:
    try:
        values = []
        for reference, value, negative in ((1, 2, "S"), (3, 4, "W")):
            degrees, minutes, seconds = (float(part) for part in gps[value])
            number = degrees + minutes / 60 + seconds / 3600
            values.append(-number if str(gps.get(reference, "")).upper() == negative else number)
        return _valid(values[0], values[1])
    except (KeyError, ValueError, TypeError, ZeroDivisionError):
        return None


def describe_exploration(exploration: Exploration, image: ImageRow) -> dict[str, str]:
    """When and where an image was taken, in words; empty where neither is known."""
    facts = {}
    if (date := exploration.date(image.row)) is not None:
        facts["Taken"] = date.strftime("%Y-%m-%d %H:%M")
    position = exploration.position(image.row)
    if position is not None and np.isfinite(exploration.coordinates[position]).all():
        latitude, longitude = exploration.coordinates[position].tolist()
        facts["Coordinates"] = f"{latitude:.4f}, {longitude:.4f}"
    return facts
