from __future__ import annotations

import io
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from delg import Extractor, Failure, ImageError, ImageFeatures, load_model
from delg.inference.backend import LevelOutput
from delg.settings import ExtractionSettings, ImageSettings, ModelSettings

SMALL = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)


class Fake:
    """A network that notes its calls; what it says depends on the level's mean and size alone."""

    description = "fake"
    parallel_images = 2

    def __init__(self, seconds: float = 0) -> None:
        self.calls: list[tuple[tuple[int, int], bool]] = []
        self.seconds = seconds
        self.lock = threading.Lock()

    def run(
        self,
        pixels: np.ndarray,
        with_local: bool = True,
        with_global: bool = True,
        all_cores: bool = True,
    ) -> LevelOutput:
        time.sleep(self.seconds)
        height, width = pixels.shape[:2]
        with self.lock:
            self.calls.append(((width, height), with_global))
        columns, rows = width // 16, height // 16
        ys, xs = np.mgrid[:rows, :columns].reshape(2, -1)
        angle = np.float32(width)
        return LevelOutput(
            descriptors=np.eye(4, dtype=np.float32)[(xs + ys) % 4],
            scores=(pixels.mean() + (xs * 7 + ys * 13) % 29).astype(np.float32),
            centres=np.stack([xs * 16 + 8, ys * 16 + 8], axis=1).astype(np.float32),
            global_descriptor=np.array([np.cos(angle), np.sin(angle), 0], np.float32)
            if with_global
            else None,
            grid=(rows, columns),
        )


def fake(
    seconds: float = 0, images: ImageSettings | None = None, **extraction: object
) -> Extractor:
    settings = ModelSettings(
        name="fake",
        global_head={"dim": 3},
        local_head={"dim": 4},
        extraction=ExtractionSettings(**extraction),
    )
    return Extractor(Fake(seconds), settings, "f" * 16, images)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def assert_same(found: ImageFeatures, expected: ImageFeatures, tolerance: float = 0) -> None:
    assert isinstance(found, ImageFeatures)
    assert (found.width, found.height) == (expected.width, expected.height)
    assert len(found.local) == len(expected.local)
    pairs = [(found.global_descriptor, expected.global_descriptor)]
    pairs += zip(vars(found.local).values(), vars(expected.local).values(), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def assert_sound(features: ImageFeatures, width: int, height: int) -> None:
    """What is promised of every photo's features."""
    local = features.local
    assert (features.width, features.height) == (width, height)
    for array in (features.global_descriptor, *vars(local).values()):
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
    assert np.linalg.norm(features.global_descriptor) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(np.linalg.norm(local.descriptors, axis=1), 1, atol=1e-4)
    assert (local.keypoints >= 0).all()
    assert (local.keypoints <= (width - 1, height - 1)).all()
    assert (np.diff(local.scores) <= 0).all()


# One photo.


def test_weights_of_scales_decide_which_level_the_best_come_from() -> None:
    photo = np.zeros((320, 320, 3), np.uint8)
    spec = {"longest_side": 320, "scales": (0.5, 1.0), "max_features": 40}
    even = fake(**spec).extract(photo).local
    coarse = fake(**spec, scale_weights=(100.0, 1.0)).extract(photo).local
    assert (even.scales == 1).sum() > (even.scales == 0.5).sum() > 0
    assert (coarse.scales == 0.5).sum() > (coarse.scales == 1).sum()
    assert coarse.scores.max() == pytest.approx(100 * even.scores.max())
    with pytest.raises(ValueError, match="one number per scale"):
        fake(**spec, scale_weights=(1.0,))


def test_features_are_sound(lite: Extractor, coffee: np.ndarray) -> None:
    features = lite.extract(coffee)
    assert_sound(features, 600, 400)
    assert features.global_descriptor.shape == (lite.global_dim,)
    assert features.local.descriptors.shape == (1000, lite.local_dim)
    assert set(features.local.scales) <= set(np.float32(lite.settings.extraction.scales))


def test_extraction_repeats(lite: Extractor, astronaut: np.ndarray) -> None:
    assert_same(lite.extract(astronaut), lite.extract(astronaut))


def test_path_text_bytes_and_pixels_agree(
    lite: Extractor, coffee: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(coffee))
    expected = lite.extract(coffee)
    for source in (path, str(path), path.read_bytes()):
        assert_same(lite.extract(source), expected)


def test_the_photo_given_is_left_alone(lite: Extractor, coffee: np.ndarray) -> None:
    before = coffee.copy()
    lite.extract(coffee, box=(10, 10, 100, 100), turns=1)
    assert (coffee == before).all()


def test_the_same_photo_is_nearest_to_itself(lite: Extractor) -> None:
    photos = [
        skimage.data.coffee(),
        skimage.data.astronaut(),
        skimage.data.chelsea(),
        skimage.data.rocket(),
        skimage.data.stereo_motorcycle()[0],
    ]
    originals = np.stack([lite.extract(photo).global_descriptor for photo in photos])
    changed = []
    for photo in photos:
        height, width = photo.shape[:2]
        crop = np.ascontiguousarray(photo[height // 12 :, : -width // 12])
        stream = io.BytesIO()
        Image.fromarray(crop).resize((width // 2, height // 2)).save(stream, "JPEG", quality=60)
        changed.append(lite.extract(stream.getvalue()).global_descriptor)
    similarity = np.stack(changed) @ originals.T
    assert (similarity.argmax(axis=1) == np.arange(len(photos))).all()
    others = similarity[~np.eye(len(photos), dtype=bool)]
    assert np.diag(similarity).min() > others.max() + 0.2


@pytest.mark.parametrize("size", [(10, 10), (10, 13), (37, 11), (33, 32)])
def test_tiny_photos(lite: Extractor, size: tuple[int, int]) -> None:
    width, height = size
    photo = np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8)
    assert_sound(lite.extract(photo), width, height)
    turned = lite.extract(photo, turns=1)
    assert_sound(turned, width, height)


@pytest.mark.parametrize("size", [(3000, 12), (12, 3000), (1500, 40)])
def test_extreme_aspect_ratios(lite: Extractor, size: tuple[int, int]) -> None:
    width, height = size
    photo = np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8)
    features = lite.extract(photo)
    assert_sound(features, width, height)
    assert len(features.local) > 20
    # The keypoints go all along the photo.
    assert np.ptp(features.local.keypoints, axis=0).max() > 0.8 * max(size)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_photos(lite: Extractor, value: int) -> None:
    assert_sound(lite.extract(np.full((120, 90, 3), value, np.uint8)), 90, 120)


def test_a_box_of_one_pixel(lite: Extractor, coffee: np.ndarray) -> None:
    features = lite.extract(coffee, box=(100, 50, 1, 1))
    assert_sound(features, 600, 400)
    assert (features.local.keypoints == (100, 50)).all()


def test_what_cannot_be_decoded_is_an_image_error(lite: Extractor, tmp_path: Path) -> None:
    for source in (b"", b"no photo", tmp_path, tmp_path / "gone.jpg", np.zeros((5, 5), np.uint8)):
        with pytest.raises(ImageError):
            lite.extract(source)


def test_limits_of_images_are_kept() -> None:
    extractor = fake(images=ImageSettings(max_pixels=1000))
    with pytest.raises(ImageError, match="oversized"):
        extractor.extract(SMALL)
    (failure,) = extractor.extract_many([SMALL])
    assert "oversized" in failure.reason


# Scales, selection.


def test_the_deep_half_runs_at_global_scales_only() -> None:
    extractor = fake(longest_side=256, enlarge=True, scales=[0.5, 1, 2], global_scales=[1, 0.25])
    extractor.extract(np.zeros((128, 256, 3), np.uint8))
    assert sorted(extractor._backend.calls) == [
        ((64, 32), True),
        ((128, 64), False),
        ((256, 128), True),
        ((512, 256), False),
    ]


def test_scales_for_the_global_descriptor_alone_give_no_keypoints() -> None:
    extractor = fake(longest_side=256, scales=[1], global_scales=[2, 0.5])
    features = extractor.extract(np.zeros((128, 256, 3), np.uint8))
    assert set(features.local.scales) == {1}
    assert len(features.local) == 16 * 8


def test_the_global_descriptor_is_the_unit_sum_over_scales() -> None:
    extractor = fake(longest_side=256, enlarge=True, scales=[1], global_scales=[0.5, 1, 2])
    found = extractor.extract(np.zeros((128, 256, 3), np.uint8)).global_descriptor
    total = sum(np.array([np.cos(w), np.sin(w), 0]) for w in (128, 256, 512))
    np.testing.assert_allclose(found, total / np.linalg.norm(total), rtol=1e-5)
    assert found.dtype == np.float32


@pytest.mark.parametrize("count", [0, 1, 17, 100, 10_000])
def test_max_features_keeps_the_best_over_all_scales(count: int) -> None:
    spec = {"longest_side": 256, "enlarge": True, "scales": [0.5, 1, 1.5], "global_scales": [1]}
    everything = fake(max_features=10_000, **spec).extract(SMALL).local
    few = fake(max_features=count, **spec).extract(SMALL).local
    assert len(few) == min(count, len(everything))
    assert few.keypoints.shape == (len(few), 2)
    assert few.descriptors.shape == (len(few), 4)
    assert (np.diff(few.scores) <= 0).all()
    np.testing.assert_array_equal(few.scores, np.sort(everything.scores)[::-1][:count])


def test_min_score_drops_the_rest() -> None:
    everything = fake(longest_side=256).extract(SMALL).local
    middle = float(np.median(everything.scores))
    some = fake(longest_side=256, min_score=middle).extract(SMALL).local
    assert 0 < len(some) < len(everything)
    assert len(some) == (everything.scores >= middle).sum()
    none = fake(longest_side=256, min_score=1e9).extract(SMALL)
    assert len(none.local) == 0
    assert none.local.descriptors.shape == (0, 4)
    assert np.linalg.norm(none.global_descriptor) == pytest.approx(1)


def test_max_features_of_the_real_network(lite: Extractor, coffee: np.ndarray) -> None:
    extraction = lite.settings.extraction.model_copy(update={"max_features": 30})
    few, complete = load_model(extraction=extraction).extract(coffee), lite.extract(coffee)
    np.testing.assert_array_equal(few.local.keypoints, complete.local.keypoints[:30])
    np.testing.assert_array_equal(few.global_descriptor, complete.global_descriptor)


# Many photos.


def test_extract_many_equals_extract(
    lite: Extractor, coffee: np.ndarray, astronaut: np.ndarray
) -> None:
    sources = [coffee, encoded(astronaut), astronaut[:300], coffee[:, :250]]
    many = list(lite.extract_many(sources))
    assert len(many) == len(sources)
    for found, source in zip(many, sources, strict=True):
        assert_same(found, lite.extract(source), 1e-5)


@pytest.mark.parametrize("threads", [None, 1, 4])
def test_order_is_kept_and_failures_stand_in_their_place(
    tmp_path: Path, threads: int | None
) -> None:
    sources: list[object] = []
    for number in range(12):
        # Large photos take longer; the next ones must not overtake them.
        side = 600 if number % 3 == 0 else 40
        path = tmp_path / f"{number}.png"
        path.write_bytes(encoded(np.full((side, side + number, 3), number, np.uint8)))
        sources.append(path)
    sources[4], sources[7] = tmp_path / "gone.png", b"not a photo"
    (tmp_path / "9.png").write_bytes((tmp_path / "9.png").read_bytes()[:60])
    outcomes = list(fake().extract_many(sources, threads=threads))
    assert [n for n, each in enumerate(outcomes) if isinstance(each, Failure)] == [4, 7, 9]
    assert outcomes[4] == Failure(str(tmp_path / "gone.png"), "no such file")
    assert outcomes[7].path == "<memory>"
    assert outcomes[9].path == str(tmp_path / "9.png")
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, ImageFeatures):
            assert outcome.width - outcome.height == number


def counted(limit: int, taken: list[int]) -> Iterator[np.ndarray]:
    for number in range(limit):
        taken.append(number)
        yield SMALL


@pytest.mark.timeout(60)
@pytest.mark.parametrize("threads", [1, 3])
def test_sources_are_read_only_a_little_ahead(threads: int) -> None:
    taken: list[int] = []
    given = 0
    for _ in fake().extract_many(counted(60, taken), threads=threads):
        given += 1
        assert len(taken) - given <= threads + 4
    assert given == len(taken) == 60


@pytest.mark.timeout(60)
def test_a_stream_without_end_can_be_left(lite: Extractor) -> None:
    outcomes = lite.extract_many(itertools.repeat(SMALL))
    assert isinstance(next(outcomes), ImageFeatures)
    assert isinstance(next(outcomes), ImageFeatures)
    outcomes.close()
    assert list(outcomes) == []


@pytest.mark.timeout(60)
def test_leaving_early_does_not_work_off_the_rest() -> None:
    extractor = fake(seconds=0.1, scales=[1.0], global_scales=[1.0])
    outcomes = extractor.extract_many(counted(1000, []), threads=8)
    next(outcomes)
    outcomes.close()
    done = len(extractor._backend.calls)
    time.sleep(0.3)
    assert len(extractor._backend.calls) == done <= 6


@pytest.mark.timeout(60)
def test_nothing_is_read_before_the_first_is_asked_for() -> None:
    taken: list[int] = []
    outcomes = fake().extract_many(counted(5, taken))
    assert taken == []
    outcomes.close()


def test_no_photos() -> None:
    assert list(fake().extract_many([])) == []


@pytest.mark.timeout(60)
def test_an_error_of_the_source_reaches_the_caller() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield SMALL
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        list(fake().extract_many(broken()))


@pytest.mark.timeout(60)
def test_an_error_of_the_network_is_not_taken_for_a_bad_photo() -> None:
    extractor = fake()

    def fail(*_: object, **__: object) -> LevelOutput:
        raise ValueError("a fault of ours")

    extractor.backend.run = fail
    with pytest.raises(ValueError, match="a fault of ours"):
        list(extractor.extract_many([SMALL] * 30))


def test_threads_may_share_one_extractor(lite: Extractor, coffee: np.ndarray) -> None:
    expected = lite.extract(coffee)
    results: list[ImageFeatures] = []
    threads = [
        threading.Thread(target=lambda: results.append(lite.extract(coffee))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    for result in results:
        assert_same(result, expected, 1e-5)


def test_border_cells_give_no_local_features() -> None:
    pixels = np.zeros((128, 160, 3), np.uint8)
    only = {"longest_side": 160, "scales": (1.0,), "global_scales": (1.0,)}
    everything = fake(**only).extract(pixels).local.keypoints
    inner = fake(**only, border_cells=1).extract(pixels).local.keypoints
    assert (len(everything), len(inner)) == (8 * 10, 6 * 8)
    np.testing.assert_array_equal(inner.min(axis=0), [24, 24])
    np.testing.assert_array_equal(inner.max(axis=0), [136, 104])


def test_a_border_never_takes_more_than_half_of_a_narrow_photo() -> None:
    pixels = np.zeros((32, 160, 3), np.uint8)
    only = {"longest_side": 160, "scales": (1.0,), "global_scales": (1.0,)}
    assert len(fake(**only, border_cells=9).extract(pixels).local) == 2 * 6
