"""Boxes of a published detector take the place of those that stand out."""

import numpy as np
import pytest
from dots import DotModel, dots, model_folder
from PIL import Image

from delg.errors import ModelError
from index import ImageIndex, IndexSettings

WHITE = (60.0, 30.0, 40.0, 50.0)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    pytest.importorskip("tensorflow")
    from detector_export import write_detector

    return write_detector(tmp_path_factory.mktemp("exports") / "frcnn")


def photo(seed: int) -> np.ndarray:
    pixels = dots(seed, 40, (200, 300)).pixels()
    x, y, width, height = map(int, WHITE)
    pixels[y : y + height, x : x + width] = np.where(
        np.indices((height, width)).sum(axis=0)[..., None] % 7 == 0, 255, 128
    )
    pixels[y : y + height : height - 1, x : x + width : width - 1] = 255
    return pixels


def new_index(path, folder, detector, **regions) -> ImageIndex:
    values = {"store": {"regions": 2}, "regions": {"detector": str(detector), **regions}}
    images = ImageIndex.create(path, str(folder), settings=IndexSettings.model_validate(values))
    images.use(DotModel(folder))
    return images


def test_its_boxes_are_stored_and_searched(tmp_path, detector):
    images = new_index(tmp_path / "my.index", model_folder(tmp_path / "model"), detector)
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo(1)).save(tmp_path / "photos" / "1.png")
    images.add(tmp_path / "photos")
    # By score, in pixels; the photo as a whole has a lower score than published.
    first, second = (region.box for region in images.features("1.png").regions)
    assert first == WHITE and second == pytest.approx((0, 0, 40, 60), abs=1)
    result = images.query(photo(2), k=1)
    assert WHITE in [region.box for region in result.regions]
    # Boxes of one's own come first.
    own = images.query(photo(2), k=1, regions=[(0, 0, 50, 20)])
    assert WHITE not in [region.box for region in own.regions if not region.ranks]


def test_what_cannot_be_a_detector_is_named(tmp_path, detector):
    from detector_export import write_detector

    folder = model_folder(tmp_path / "model")
    missing = new_index(tmp_path / "one.index", folder, tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"regions\.detector: .*nothing: no SavedModel"):
        missing.query(photo(1))
    other = write_detector(tmp_path / "other", "boxes")
    strange = new_index(tmp_path / "two.index", folder, other)
    with pytest.raises(ModelError, match="no tensors called input_images and detection_boxes"):
        strange.query(photo(1))
