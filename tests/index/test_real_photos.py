"""The engine from end to end, by the model that ships, on the demo's photos."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from delg import Extractor
from delg.extraction.regions import overlap_share
from delg.images.decode import decode
from eval.regions.composites import compose
from index import ImageIndex
from index.calibrate.surroundings import surround
from index.demo.photos import DemoQuery, make_gallery
from index.demo.run import DemoResult
from index.settings import IndexSettings
from index.storage.catalog_state import FILE as CATALOG
from index.verification.calibration import DEFAULT_CALIBRATION
from index.verification.geometric import transform_points
from index.verification.match_photos import match_photos
from index.verification.matchable import MatchableFeatures
from index.verification.pair import similarity_of, verify_features
from index.verification.reverify import QueryPhoto, reverify_warped


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, lite: Extractor) -> tuple[ImageIndex, list]:
    folder = tmp_path_factory.mktemp("demo")
    queries = make_gallery(folder)
    images = ImageIndex.create(folder / "i")
    images.use(lite)
    report = images.add(folder / "gallery")
    assert report.failed == []
    return images, queries


def query_of(queries: list[DemoQuery], start: str) -> DemoQuery:
    return next(query for query in queries if query.path.name.startswith(start))


def test_every_query_of_the_demo_has_the_right_result(demo: tuple) -> None:
    images, queries = demo
    wrong = [
        query.path.name
        for query in queries
        if not DemoResult(query, images.query(query.path)).is_right
    ]
    assert wrong == []


def test_the_same_query_repeats_identically(demo: tuple) -> None:
    images, queries = demo
    photo = query_of(queries, "astronaut-desk").path
    first, second = ([hit.as_json() for hit in images.query(photo)] for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("start", "degrees"), [("coins-turned-90", 90), ("camera-turned-180", 180)]
)
def test_rotated_photos_are_found_and_the_orientation_reported(
    demo: tuple, start: str, degrees: int
) -> None:
    images, queries = demo
    query = query_of(queries, start)
    result = images.query(query.path)
    assert result[0].id == query.expected and result[0].verified
    assert result.orientation in ((90, 270) if degrees == 90 else (180,))
    # Rotated by that much, the query is upright.
    upright = np.rot90(decode(query.path), result.orientation // 90)
    assert images.query(np.ascontiguousarray(upright)).orientation == 0
    assert images.query(query.path, orientations="1").orientation == 0


def test_global_only_has_no_inliers_and_ranks_by_similarity(demo: tuple) -> None:
    images, queries = demo
    hits = images.query(queries[0].path, k=99, rerank=0)
    assert len(hits) == len(images)
    assert all(hit.inliers == 0 and not hit.verified and hit.transform is None for hit in hits)
    similarities = [hit.similarity for hit in hits]
    assert similarities == sorted(similarities, reverse=True)
    assert all(hit.probability < 0.5 for hit in hits)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))


def test_order_of_hits(demo: tuple) -> None:
    images, queries = demo
    photo = query_of(queries, "cat-crop").path
    hits = list(images.query(photo, k=99))
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    verified = [hit.verified for hit in hits]
    assert verified == sorted(verified, reverse=True)
    # Without evidence, and without neighbours, similarity orders.
    with ImageIndex.open(images.path) as plain:
        plain.use(images.extractor)
        plain.configure({"neighbours": {"method": "none"}})
        hits = list(plain.query(photo, k=99))
    others = [hit.similarity for hit in hits if hit.inliers < DEFAULT_CALIBRATION.min_inliers]
    assert len(others) > 3 and others == sorted(others, reverse=True)


def test_the_transform_maps_query_pixels_to_the_hits(demo: tuple) -> None:
    images, _ = demo
    path = images.path.parent / "gallery" / "astronaut.jpg"
    pixels = decode(path)
    # A part of the photo, from (100, 60) on, enlarged by 1.5: x = 100 + x' / 1.5.
    part = cv2.resize(pixels[60:400, 100:460], None, fx=1.5, fy=1.5)
    hit = images.query(part)[0]
    assert hit.id == "astronaut.jpg" and hit.verified
    corners = np.array([[0, 0], [500, 0], [0, 450]])
    wanted = corners / 1.5 + [100, 60]
    assert np.abs(transform_points(hit.transform, corners) - wanted).max() < 12
    errors = np.linalg.norm(hit.query_points / 1.5 + [100, 60] - hit.points, axis=1)
    assert np.median(errors) < 8


def test_a_box_searches_for_its_part_only(demo: tuple) -> None:
    """Two photos side by side: the box decides which of them is found."""
    images, _ = demo
    gallery = images.path.parent / "gallery"
    left, right = (
        cv2.resize(decode(gallery / name), (500, 400)) for name in ("cat.jpg", "rocket.jpg")
    )
    both = np.hstack([left, right])
    for x, name in ((0, "cat.jpg"), (500, "rocket.jpg")):
        result = images.query(both, box=(x, 0, 500, 400))
        assert result[0].id == name and result[0].verified
        assert (result[0].query_points[:, 0] >= x - 1).all()
        assert (result[0].query_points[:, 0] <= x + 501).all()
        assert result.box == (x, 0, 500, 400)


def test_a_second_look_verifies_what_the_first_only_suggests(lite: Extractor) -> None:
    """A steep view: few inliers at first, many once the query is warped back."""
    import skimage.data

    photo = skimage.data.astronaut()
    corners = np.float32([[0, 0], [511, 0], [511, 511], [0, 511]])
    steep = np.float32([[60, 150], [600, 20], [560, 500], [120, 330]])
    view = cv2.warpPerspective(
        photo, cv2.getPerspectiveTransform(corners, steep), (640, 520), borderValue=(90, 120, 60)
    )
    settings = IndexSettings()
    query, other = lite.extract(view), lite.extract(photo)
    first = verify_features(query, other, settings)
    assert first.transform is not None
    again = reverify_warped(
        QueryPhoto(lite, view),
        MatchableFeatures.of(other),
        first.transform,
        similarity_of(query, other),
        settings,
    )
    assert again.verification.verified and again.verification.inliers > first.inliers
    matches = again.verification.matches
    mapped = cv2.perspectiveTransform(
        other.local.keypoints[matches[:, 1]][None], cv2.getPerspectiveTransform(corners, steep)
    )[0]
    errors = np.linalg.norm(again.query.local.keypoints[matches[:, 0]] - mapped, axis=1)
    assert np.median(errors) < 12


def test_different_photos_do_not_match(lite: Extractor) -> None:
    import skimage.data

    other = lite.extract(skimage.data.coffee())
    result = match_photos(lite, skimage.data.astronaut(), other, IndexSettings())
    assert not result.verification.verified


def test_a_picture_is_known_in_another_frame_and_its_frame_around_another_picture_is_not_it(
    lite: Extractor, tmp_path: Path
) -> None:
    import skimage.data

    photos = [
        getattr(skimage.data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")
    ]
    pictures = [cv2.resize(photo, (420, 420), interpolation=cv2.INTER_AREA) for photo in photos]
    astronaut, coffee, cat, rocket = (np.asarray(picture, np.uint8) for picture in pictures)

    def framed(picture: np.ndarray, kind: str, seed: int) -> np.ndarray:
        return surround(picture, kind, seed, photos[1:])

    for name, photo in (
        ("astronaut", framed(astronaut, "frame", 1)),
        ("cat", framed(cat, "screen", 3)),
    ):
        cv2.imwrite(str(tmp_path / f"{name}.png"), photo[..., ::-1])
    with ImageIndex.create(tmp_path / "i") as images:
        images.use(lite)
        images.add(tmp_path)
        same = images.query(framed(astronaut, "frame", 2))[0]
        assert same.id == "astronaut.png" and same.verified and same.probability > 0.9
        for other, name in (
            (framed(coffee, "frame", 1), "astronaut.png"),
            (framed(rocket, "screen", 3), "cat.png"),
        ):
            hit = next(hit for hit in images.query(other, orientations="1") if hit.id == name)
            # By the number of inliers alone it would be the same picture.
            assert hit.inliers >= 30 and not hit.verified and hit.probability < 0.5


def test_a_thing_in_a_small_part_of_a_photo_is_found_and_where(demo: tuple) -> None:
    images, _ = demo
    things = {name: decode(images.paths([name])[name]) for name in ("astronaut.jpg", "cat.jpg")}
    rng = np.random.default_rng(3)
    background = rng.integers(0, 256, (48, 64, 3), np.uint8)
    background = cv2.resize(background, (1024, 768), interpolation=cv2.INTER_CUBIC)
    photo = compose(background, list(things.values()), 0.03, rng)
    result = images.query(photo.pixels)
    answers = {result.hits_of(r)[0].id: r.box for r in result.regions if r.ranks}
    assert set(answers) == set(things)
    for name, truth in zip(things, photo.boxes, strict=True):
        assert overlap_share(answers[name], truth) > 0.7 < overlap_share(truth, answers[name])
    for hit in result[:2]:
        inside = transform_points(hit.transform, hit.query_points) - hit.points
        assert np.linalg.norm(inside, axis=1).max() < 0.1 * hit.width
    images.configure({"regions": {"enabled": False}})
    alone = {hit.id for hit in images.query(photo.pixels) if hit.verified}
    assert alone < set(things)
    images.configure({"regions": {"enabled": True}})


def test_a_blank_wall_is_said_to_be_too_plain_and_a_photo_is_not(demo: tuple, tmp_path) -> None:
    images, queries = demo
    rng = np.random.default_rng(0)
    wall = np.clip(np.linspace(120, 200, 480) + rng.normal(0, 3, (360, 480)), 0, 255)
    cv2.imwrite(str(tmp_path / "wall.png"), wall)
    with images.create_like(tmp_path / "i") as other:
        photo = query_of(queries, "astronaut-desk").path
        assert other.add([photo, tmp_path / "wall.png"]).failed == []
        [(plain, features)] = other.plain_photos().items()
        assert plain.endswith("wall.png") and features < 30
    [note] = images.query(tmp_path / "wall.png").notes
    assert note.startswith("few features: ")
    assert images.plain_photos() == {}


def test_an_index_from_before_attention_was_learnt_is_searched_added_to_and_compared(
    lite: Extractor, tmp_path: Path
) -> None:
    queries = make_gallery(tmp_path)
    photos = sorted((tmp_path / "gallery").iterdir())
    with ImageIndex.create(tmp_path / "old", fingerprint="ea1dcb5a1172e3e7") as old:
        assert old.extractor.fingerprint == "ea1dcb5a1172e3e7" != lite.fingerprint
        old.add(photos[:3])
        new = old.create_like(tmp_path / "new")
    with closing(sqlite3.connect(tmp_path / "old" / CATALOG)) as db, db:
        db.execute("UPDATE meta SET value = 'cdcbf51a84e05730' WHERE key = 'fingerprint'")
    with ImageIndex.open(tmp_path / "old") as old, new:
        assert old.add(photos[3:]).failed == []
        query = query_of(queries, "astronaut-desk")
        assert old.query(query.path)[0].id.endswith(query.expected)
        new.add(photos[:2])
        assert {(pair.a, pair.b) for pair in old.pairs(new)} == {
            (pair.b, pair.a) for pair in new.pairs(old)
        }
