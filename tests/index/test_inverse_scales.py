"""Indexes and files of before 0.2, which has scales the right way up."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data

from index import ImageIndex, IndexSettings
from index.settings import StoreSettings

# Enough features for compact codes.
SETTINGS = IndexSettings(store=StoreSettings(max_features=1000))


@pytest.fixture
def former(folders, models, real_photos, tmp_path, monkeypatch) -> ImageIndex:
    """An index of a published export as former versions built it."""
    with ImageIndex.create(tmp_path / "i", str(folders["new"]), settings=SETTINGS) as images:
        images.use(models["new"])
        with monkeypatch.context() as patch:
            patch.setattr("delg.inference.saved_model.invert_scales", lambda scales: scales)
            patch.setattr("index.storage.segment_writer.SCALES_MARK", ("something", "else"))
            images.add(real_photos)
    images = ImageIndex.open(tmp_path / "i")
    images.use(models["new"])
    return images


def scales_of(images: ImageIndex, image_id: str = "cat.jpg") -> np.ndarray:
    return np.unique(images.features(image_id).local.scales)


def assert_half_size_is_verified(images: ImageIndex) -> None:
    half = cv2.resize(skimage.data.chelsea(), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    hit = images.query(half)[0]
    assert hit.id == "cat.jpg" and hit.verified and hit.inliers >= 80


def test_an_index_of_an_export_from_before_is_read_right_added_to_and_mended(
    former, real_photos, astronaut, tmp_path
) -> None:
    levels = former.extractor.settings.extraction.scales
    np.testing.assert_allclose(scales_of(former), levels, rtol=0.03)
    assert_half_size_is_verified(former)
    assert "right way up" in " ".join(former.check().notes)
    cv2.imwrite(str(tmp_path / "new.png"), astronaut)
    assert former.add(tmp_path / "new.png").added == 1
    np.testing.assert_allclose(scales_of(former, "new.png"), levels, rtol=0.03)
    former.compact()
    assert former.check().notes == []
    np.testing.assert_allclose(scales_of(former), levels, rtol=0.03)
    assert_half_size_is_verified(former)
