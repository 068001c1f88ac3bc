"""Maps of a collection: layout, dates and coordinates."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from dots import dots
from PIL import Image

from delg.errors import DelgError
from index.collection.explore import (
    FILE,
    NO_DATE,
    Exploration,
    coordinates_of,
    date_of,
    read_date,
    read_exif,
)


def write_photo(path, taken: str, latitude=None, longitude=None) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = taken
    if latitude is not None:
        exif.get_ifd(0x8825).update({1: "N", 2: latitude, 3: "W", 4: longitude})
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(dots(len(path.name)).pixels()).save(path, exif=exif)


def test_dates_and_places_come_from_metadata_or_exif(make_index, tmp_path):
    folder = tmp_path / "photos"
    write_photo(folder / "a.jpg", "2009:07:14 10:30:00", (48, 51, 30), (2, 17, 40.5))
    write_photo(folder / "bb.jpg", "not a date")
    write_photo(folder / "ccc.jpg", "2010:01:01 00:00:00", (48, 0, 0), (200, 0, 0))
    (tmp_path / "l.csv").write_text("id,label,Year,Lat,lng\nbb.jpg,x,1889,-33.9,151.2\n")
    images = make_index()
    images.add(folder, str(tmp_path / "l.csv"))
    assert images.exploration() is None
    images.explore("pca")
    found = images.exploration()
    rows = {image.id: image.row for image in images.by_rows(found.rows.tolist())}
    assert found.date(rows["a.jpg"]).isoformat() == "2009-07-14T10:30:00+00:00"
    assert found.date(rows["bb.jpg"]).year == 1889 and found.date(rows["ccc.jpg"]).year == 2010
    where = dict(zip(found.rows.tolist(), found.coordinates.tolist(), strict=True))
    assert where[rows["a.jpg"]] == pytest.approx([48.858333, -2.294583], abs=1e-5)
    assert where[rows["bb.jpg"]] == pytest.approx([-33.9, 151.2], abs=1e-5)
    assert math.isnan(where[rows["ccc.jpg"]][0]) and len(found.located) == 2
    assert found.position(10**9) is None and found.date(10**9) is None
    # A photo that is gone keeps what was read of it.
    (folder / "a.jpg").unlink()
    again = images.explore("pca")
    assert again.date(rows["a.jpg"]) == found.date(rows["a.jpg"])


@pytest.mark.parametrize("count", [0, 1, 2, 30])
def test_places_lie_on_the_map(make_index, tmp_path, count):
    images = make_index()
    for number in range(count):
        dots(number).save(tmp_path / "photos" / f"{number}.png")
    if count:
        images.add(tmp_path / "photos")
    found = images.explore("pca", read_photos=False)
    assert found.places.shape == (count, 2) and found.layout == "pca"
    assert ((found.places >= 0) & (found.places <= 1)).all()
    if count == 30:
        assert np.ptp(found.places, axis=0).max() > 0.9


@pytest.mark.parametrize("damage", ["cut", "shape", "pickle"])
def test_a_damaged_map_is_named(tmp_path, damage):
    places = np.zeros((3, 2), np.float32)
    good = Exploration(np.arange(3), places, places, np.zeros(3, np.int64), "pca")
    good.save(tmp_path)
    path = tmp_path / FILE
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    else:
        arrays = dict(np.load(path))
        arrays["places"] = arrays["places"][:2] if damage == "shape" else np.array([{}], object)
        np.savez(path, **arrays)
    with pytest.raises(DelgError, match=FILE):
        Exploration.load(tmp_path)


# As umap-learn does: TensorFlow is imported where it can be.
_UMAP = """
try:
    import tensorflow
    raise SystemExit("imported TensorFlow")
except ImportError:
    pass
class UMAP:
    def __init__(self, **settings): assert settings["metric"] == "cosine"
    def fit_transform(self, vectors): return vectors[:, :2]
"""
_LAY_OUT = """
import sys, numpy as np
from index.collection.explore import _lay_out
points, name = _lay_out(np.eye(40, 64, dtype="f4"), "auto")
assert name == "umap" and points.shape == (40, 2) and "tensorflow" not in sys.modules
"""


def test_umap_is_used_without_tensorflow(tmp_path):
    (tmp_path / "umap.py").write_text(_UMAP)
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    command = [sys.executable, "-c", _LAY_OUT]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": paths})


def test_texts_that_are_no_date_or_place():
    assert read_date("31.3.1889") == read_date("") == NO_DATE
    assert date_of({"DATE": "x", "year": "1900"}) == read_date("1900-01-01")
    assert coordinates_of({"lat": "91", "lon": "0"}) is None
    assert coordinates_of({"lat": "0", "lon": "0"}) is None is coordinates_of({"lat": "1"})
    assert coordinates_of({"lat": "nan", "lon": "1"}) is None
    assert read_exif("")[0] == read_exif("/nowhere.jpg")[0] == NO_DATE
