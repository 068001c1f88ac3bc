"""Indexes and files of before 0.2, which has scales the right way up."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import skimage.data

from delg import load_model
from delg.types import invert_scales
from index import ImageIndex, IndexSettings
from index.formats import writer
from index.formats.parsed import FeatureSource
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


@pytest.mark.parametrize("kind", ["delg", "npz"])
@pytest.mark.parametrize("is_former", [True, False])
def test_files_from_before_are_read_right_into_an_index_of_their_model(
    kind, is_former, lite, coffee, tmp_path, caplog
) -> None:
    features = lite.extract(coffee)
    written = features
    if is_former:
        local = replace(features.local, scales=invert_scales(features.local.scales))
        written = replace(features, local=local)
    out = tmp_path / {"delg": "out", "npz": "out.npz"}[kind]
    writer(kind)(out, [("coffee.png", written)], FeatureSource("delg-lite", lite.fingerprint))
    with ImageIndex.create(tmp_path / "i") as images:
        assert images.import_from([out]).added == 1
        [image_id] = images.ids()
        stored = images.features(image_id).local.scales
    np.testing.assert_allclose(np.unique(stored), lite.settings.extraction.scales, rtol=0.03)
    assert ("upside down" in caplog.text) == is_former


def test_a_saved_model_that_gives_pyramid_scales_is_noticed(
    folders, models, coffee, monkeypatch
) -> None:
    from delg.inference import saved_model

    def load_former(folder, settings):
        call = saved_model_call(folder, settings)

        def former(inputs):
            outputs = call(inputs)
            return {**outputs, "scales": 1 / outputs["scales"]}

        return former

    saved_model_call = saved_model.load_export
    monkeypatch.setattr(saved_model, "load_export", load_former)
    result = load_model(str(folders["new"])).extract(coffee).local
    np.testing.assert_allclose(result.scales, models["new"].extract(coffee).local.scales, rtol=1e-6)
