"""A photo is verified against smaller copies of itself, by every kind of model."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from delg import Extractor, load_model
from delg.zoo.registry import find_model
from index import ImageIndex, IndexSettings
from index.verification.matchable import MatchableFeatures
from index.verification.pair import verify_features
from index.verification.reverify import QueryPhoto, reverify_warped

SIZES = (1.0, 0.77, 0.67, 0.5, 0.4)
PUBLISHED = ("new", "old", "delf")
# Three times the 20 that verify.
MIN_INLIERS = 60


def resized(photo: np.ndarray, size: float) -> np.ndarray:
    height, width = photo.shape[:2]
    return cv2.resize(
        photo, (round(width * size), round(height * size)), interpolation=cv2.INTER_AREA
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Extractor:
    """The default model as the SavedModel that this package writes."""
    from delg.zoo.export import export_model

    folder = tmp_path_factory.mktemp("exported") / "lite"
    export_model(find_model("delg-lite"), folder, "savedmodel")
    return load_model(str(folder))


@pytest.fixture(scope="module")
def reduced() -> Extractor:
    """A model that sees large photos reduced and small ones at their own size."""
    spec = find_model("delg-lite").settings.extraction
    small = spec.model_copy(update={"longest_side": 256, "enlarge": False})
    return load_model("delg-lite", extraction=small)


@pytest.mark.parametrize("kind", ["delg-lite", "sift", *PUBLISHED, "exported", "reduced"])
def test_smaller_copies_of_a_photo_are_verified(
    kind, models, exported, reduced, lite, coffee, astronaut
) -> None:
    others = {"delg-lite": lite, "exported": exported, "reduced": reduced}
    model = models.get(kind) or others.get(kind) or load_model(kind)
    settings = IndexSettings().of_model(model.settings)
    for photo in (coffee, astronaut):
        stored = model.extract(photo)
        for size in SIZES:
            result = verify_features(model.extract(resized(photo, size)), stored, settings)
            assert result.verified and result.inliers >= MIN_INLIERS, (size, result.inliers)
            np.testing.assert_allclose(result.transform[:2, :2] * size, np.eye(2), atol=0.1)


def test_smaller_copies_are_verified_against_files_of_the_published_tools(
    folders, models, astronaut, tmp_path: Path
) -> None:
    from saved_models import published_files

    published_files(folders["new"], astronaut, tmp_path / "astronaut")
    with ImageIndex.create(tmp_path / "my.index", str(folders["new"])) as images:
        images.use(models["new"])
        assert images.import_from([tmp_path / "astronaut.delg_local"]).added == 1
        for size in SIZES:
            [hit] = images.query(resized(astronaut, size))
            assert hit.verified and hit.inliers >= MIN_INLIERS, (size, hit.inliers)


@pytest.mark.parametrize("kind", ["delg-lite", "new"])
def test_a_smaller_copy_is_verified_when_it_is_warped_to_the_photo(
    kind, models, lite, coffee
) -> None:
    model = models.get(kind, lite)
    settings = IndexSettings().of_model(model.settings)
    query, stored = resized(coffee, 0.4), MatchableFeatures.of(model.extract(coffee))
    again = reverify_warped(QueryPhoto(model, query), stored, np.diag([2.5, 2.5, 1]), 0.5, settings)
    assert again.verification.inliers >= MIN_INLIERS
