"""Where keypoints lie: under warps of the photo, EXIF, quarter turns and boxes."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from delg import Extractor, ImageError, ImageFeatures
from delg.images.geometry import rotate_back
from delg.inference.backend import LevelOutput
from delg.settings import ExtractionSettings, ModelSettings

STRIDE, OFFSET = 16, 15


class Brightness:
    """A network whose cells score the brightness of the pixel at their centre."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def run(
        self,
        pixels: np.ndarray,
        with_local: bool = True,
        with_global: bool = True,
        all_cores: bool = True,
    ) -> LevelOutput:
        height, width = pixels.shape[:2]
        self.sizes.append((width, height))
        cells = [
            (x, y) for y in range(OFFSET, height, STRIDE) for x in range(OFFSET, width, STRIDE)
        ]
        scores = [pixels[y, x].mean() for x, y in cells]
        return LevelOutput(
            descriptors=np.ones((len(cells), 1), np.float32),
            scores=np.array(scores, np.float32),
            centres=np.array(cells, np.float32),
            global_descriptor=np.ones(1, np.float32) if with_global else None,
            grid=(len(range(OFFSET, height, STRIDE)), len(range(OFFSET, width, STRIDE))),
        )


def bright(**extraction: object) -> Extractor:
    settings = ModelSettings(
        name="brightness",
        global_head={"dim": 1},
        local_head={"dim": 1},
        extraction=ExtractionSettings(**{"max_features": 5000, **extraction}),
    )
    return Extractor(Brightness(), settings, "0" * 16)


def with_square(width: int, height: int, centre: tuple[int, int], half: int = 24) -> np.ndarray:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[centre[1] - half : centre[1] + half + 1, centre[0] - half : centre[0] + half + 1] = 255
    return pixels


def bright_keypoints(features: ImageFeatures) -> np.ndarray:
    """Keypoints that say: here it is bright."""
    return features.local.keypoints[features.local.scores > 127]


# A bright square is found where it is, to the pixel.


@pytest.mark.parametrize("scale", [0.5, 0.7071, 1.0, 1.4142, 2.0])
@pytest.mark.parametrize("centre", [(100, 300), (420, 70), (250, 170)])
def test_at_every_scale_bright_keypoints_lie_on_the_bright_square(
    scale: float, centre: tuple[int, int]
) -> None:
    photo = with_square(500, 380, centre)
    points = bright_keypoints(bright(longest_side=512, scales=[scale]).extract(photo))
    assert len(points) >= 1
    assert np.abs(points - centre).max() <= 24 + 1.5 / scale
    # Cells are spaced evenly over the square, so their mean is off by half a spacing at most.
    assert np.abs(points.mean(axis=0) - centre).max() <= STRIDE / scale / 2 + 1


@pytest.mark.parametrize("turns", [-1, 0, 1, 2, 3, 4, 5])
def test_keypoints_of_a_turned_photo_are_in_the_upright_photos_pixels(turns: int) -> None:
    photo = with_square(500, 380, (120, 300))
    features = bright(longest_side=512).extract(photo, turns=turns)
    points = bright_keypoints(features)
    assert len(points) > 10
    assert np.abs(points - (120, 300)).max() <= 24 + 4
    assert (features.width, features.height) == (500, 380)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_keypoints_of_a_box_are_in_the_whole_photos_pixels(turns: int) -> None:
    photo = with_square(500, 380, (380, 90))
    box = (300, 20, 170, 240)
    features = bright(longest_side=512).extract(photo, box=box, turns=turns)
    points = bright_keypoints(features)
    assert len(points) > 10
    assert np.abs(points - (380, 90)).max() <= 24 + 4
    result = features.local.keypoints
    assert (result <= (469, 259)).all()
    assert (result.min(axis=0) >= (300, 20)).all()
    assert (features.width, features.height) == (500, 380)


# Boxes.


def sizes(photo: np.ndarray, box: tuple[float, ...] | None = None, **spec: object) -> list[object]:
    extractor = bright(scales=[1.0], global_scales=[1.0], **spec)
    extractor.extract(photo, box=box)
    return extractor.backend.sizes


def test_the_size_limit_shrinks_with_the_box() -> None:
    photo = np.zeros((400, 600, 3), np.uint8)
    assert sizes(photo, longest_side=512) == [(512, 352)]
    assert sizes(photo, (0, 0, 600, 400), longest_side=512) == [(512, 352)]
    # Half the photo's longest side: half the limit.
    assert sizes(photo, (0, 0, 300, 200), longest_side=512) == [(256, 160)]
    assert sizes(photo, (300, 0, 110, 400), longest_side=512) == [(96, 352)]


def test_photos_are_enlarged_only_when_asked() -> None:
    photo = np.zeros((96, 160, 3), np.uint8)
    assert sizes(photo, longest_side=640) == [(160, 96)]
    assert sizes(photo, longest_side=640, enlarge=True) == [(640, 384)]
    assert sizes(photo, (0, 0, 64, 96), longest_side=640) == [(64, 96)]
    assert sizes(photo, (0, 0, 80, 48), longest_side=640, enlarge=True) == [(320, 192)]


@pytest.mark.parametrize(
    "box",
    [
        (600, 10, 50, 50),
        (10, 400, 50, 50),
        (-50, 10, 50, 50),
        (10, -60, 50, 50),
        (10, 10, 0, 50),
        (10, 10, 50, 0),
        (10, 10, -5, 50),
        (10, 10, 0.2, 50),
        (float("nan"), 10, 50, 50),
        (10, 10, float("inf"), 50),
        (10, float("-inf"), 50, 50),
    ],
)
def test_boxes_without_area_in_the_photo_are_refused(box: tuple[float, ...]) -> None:
    photo = np.zeros((400, 600, 3), np.uint8)
    with pytest.raises(ImageError, match=r"box.*(600×400|finite)"):
        bright().extract(photo, box=box)


# The real network.


def single_scale(lite: Extractor, *scales: float) -> Extractor:
    extraction = lite.settings.extraction.model_copy(
        update={"scales": scales, "scale_weights": None}
    )
    settings = lite.settings.model_copy(update={"extraction": extraction})
    return Extractor(lite.backend, settings, lite.fingerprint)


def mutual(a: ImageFeatures, b: ImageFeatures) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints of the mutual nearest neighbours of two photos."""
    similarity = a.local.descriptors @ b.local.descriptors.T
    forth, back = similarity.argmax(axis=1), similarity.argmax(axis=0)
    kept = np.flatnonzero(back[forth] == np.arange(len(forth)))
    return a.local.keypoints[kept], b.local.keypoints[forth[kept]]


WARPS = {
    "shift": (1.0, 0, 37, -21),
    "far": (0.6, 4, 10, 5),
    "further": (0.8, -8, 15, -10),
    "closer": (1.25, 6, -20, 12),
    "close": (1.5, -5, 9, -30),
}


def warped(photo: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The photo seen otherwise on a canvas of its own size, and the affine map there (2, 3)."""
    height, width = photo.shape[:2]
    zoom, degrees, dx, dy = WARPS[name]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, zoom)
    matrix[:, 2] += dx, dy
    pixels = cv2.warpAffine(photo, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
    return pixels, matrix


def errors(lite: Extractor, photo: np.ndarray, other: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """How far, in pixels, matched keypoints lie from where the map puts them (N, 2)."""
    here, there = mutual(lite.extract(photo), lite.extract(other))
    assert len(here) > 100
    return there - (here @ matrix[:, :2].T + matrix[:, 2])


@pytest.mark.parametrize("name", WARPS)
@pytest.mark.parametrize("photo", ["coffee", "astronaut"])
def test_matched_keypoints_follow_the_warp(
    lite: Extractor, request: pytest.FixtureRequest, photo: str, name: str
) -> None:
    pixels = request.getfixturevalue(photo)
    distances = np.linalg.norm(errors(lite, pixels, *warped(pixels, name)), axis=1)
    assert np.median(distances) < 12
    assert np.percentile(distances, 70) < 25


@pytest.mark.parametrize("scale", [0.7071, 1.0, 1.4142])
@pytest.mark.parametrize("name", ["further", "closer"])
def test_at_each_scale_the_error_is_a_fraction_of_a_cell(
    lite: Extractor, coffee: np.ndarray, name: str, scale: float
) -> None:
    distances = np.linalg.norm(
        errors(single_scale(lite, scale), coffee, *warped(coffee, name)), axis=1
    )
    cell = 16 / scale * 600 / lite.settings.extraction.longest_side
    assert np.median(distances) < 0.75 * cell


@pytest.mark.parametrize("size", [(462, 440), (330, 410), (900, 500)])
def test_matched_keypoints_follow_a_resize_that_stretches(
    lite: Extractor, coffee: np.ndarray, size: tuple[int, int]
) -> None:
    other = cv2.resize(coffee, size, interpolation=cv2.INTER_LINEAR)
    ratio = np.array(size) / (600, 400)
    matrix = np.column_stack([np.diag(ratio), ratio / 2 - 0.5])
    distances = np.linalg.norm(errors(lite, coffee, other, matrix) / ratio, axis=1)
    assert np.median(distances) < 12


def exif_png(pixels: np.ndarray, orientation: int) -> bytes:
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG", exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 1), (8, 3)])
def test_photos_turned_by_exif_give_the_keypoints_of_the_upright_one(
    lite: Extractor, coffee: np.ndarray, orientation: int, turns: int
) -> None:
    expected = lite.extract(coffee)
    result = lite.extract(exif_png(np.rot90(coffee, turns), orientation))
    assert (result.width, result.height) == (600, 400)
    np.testing.assert_array_equal(result.local.keypoints, expected.local.keypoints)
    np.testing.assert_array_equal(result.local.descriptors, expected.local.descriptors)
    np.testing.assert_array_equal(result.global_descriptor, expected.global_descriptor)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turns_are_those_of_rot90(lite: Extractor, coffee: np.ndarray, turns: int) -> None:
    turned = lite.extract(np.ascontiguousarray(np.rot90(coffee, turns)))
    result = lite.extract(coffee, turns=turns)
    expected = rotate_back(turned.local.keypoints, 600, 400, turns)
    np.testing.assert_allclose(result.local.keypoints, expected, atol=1e-3)
    np.testing.assert_allclose(result.global_descriptor, turned.global_descriptor, atol=1e-5)
    assert (result.width, result.height) == (600, 400)


@pytest.mark.parametrize("turns", [0, 1])
def test_keypoints_of_a_box_lie_inside_it(lite: Extractor, coffee: np.ndarray, turns: int) -> None:
    x, y, width, height = box = (170, 80, 260, 310)
    points = lite.extract(coffee, box=box, turns=turns).local.keypoints
    assert len(points) > 50
    assert (points >= (x, y)).all()
    assert (points <= (x + width - 1, y + height - 1)).all()


def test_a_box_over_the_whole_photo_changes_nothing(lite: Extractor, coffee: np.ndarray) -> None:
    complete, boxed = lite.extract(coffee), lite.extract(coffee, box=(0, 0, 600, 400))
    np.testing.assert_array_equal(boxed.local.keypoints, complete.local.keypoints)
    np.testing.assert_array_equal(boxed.global_descriptor, complete.global_descriptor)


def test_keypoints_of_a_box_match_those_of_the_whole_photo(
    lite: Extractor, coffee: np.ndarray
) -> None:
    here, there = mutual(lite.extract(coffee, box=(96, 96, 384, 256)), lite.extract(coffee))
    assert len(here) > 100
    assert np.median(np.linalg.norm(here - there, axis=1)) < 12
