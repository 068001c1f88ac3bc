"""Features out of an index and into another, and searches with features alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dots import contents, dots

from delg.errors import DelgError, ModelError, UsageError
from delg.extraction.match_kernel import MAX_WIDTH, aggregate, aggregated_dim
from delg.settings import parse
from delg.types import LocalFeatures
from index import ImageIndex, IndexSettings
from index.feature_spec import FeatureSpec
from index.formats import FORMATS
from index.formats.exchange import as_image_features, read_spec
from index.formats.parsed import ParsedFeatures

OUT = {"delg": "out", "hloc": "out.h5", "colmap": "out", "npz": "out.npz", "hdf5": "out.hdf5"}
EXACT = parse(IndexSettings, {"store": {"local_codec": "float32"}}, "test")


@pytest.fixture
def filled(make_index, photos):
    """An index of the 12 photos that keeps descriptors exactly."""
    images = make_index(store={"local_codec": "float32"})
    images.add(photos)
    return images


def imported(folder: Path, sources: list[Path], photos: Path | None = None, name: str = "theirs"):
    images = ImageIndex.create_for_features(folder, read_spec(sources, None, name), EXACT)
    return images, images.import_from(sources, photos=[photos] if photos else [])


@pytest.mark.parametrize("kind", FORMATS)
def test_an_index_comes_back_out_of_its_own_export(kind, filled, photos, tmp_path) -> None:
    out = tmp_path / OUT[kind]
    assert filled.export(out, kind) == 12
    numbers: list[tuple[int, int, int]] = []
    spec = read_spec([out], None, "theirs")
    images = ImageIndex.create_for_features(tmp_path / "i", spec, EXACT)
    report = images.import_from([out], None, [photos], lambda *now: numbers.append(now))
    # From the first photo on it is known how many there are.
    assert numbers == [(number, 12, 0) for number in range(1, 13)]
    assert (report.added, report.with_photo, report.guessed, report.failed) == (12, 12, 0, [])
    assert images.check().problems == []
    before, after = contents(filled.path), contents(images.path)
    assert before.keys() == after.keys()
    for image_id in before:
        assert before[image_id][:6] == after[image_id][:6]
        for a, b in zip(before[image_id][6:], after[image_id][6:], strict=True):
            np.testing.assert_allclose(
                np.frombuffer(a, np.float32), np.frombuffer(b, np.float32), atol=1e-4
            )


@pytest.mark.parametrize("kind", ["delg", "hloc"])
def test_an_index_of_features_answers_features_as_the_first_answers_photos(
    kind, filled, model, photos, tmp_path
) -> None:
    filled.export(tmp_path / OUT[kind], kind)
    images, _ = imported(tmp_path / "i", [tmp_path / OUT[kind]], photos)
    images = ImageIndex.open(images.path)
    query = dots(3).moved([[0.9, 0, 8], [0, 0.9, 4], [0, 0, 1]], (160, 120)).pixels()
    expected = filled.query(query, orientations="1")
    result = images.query_features(model.extract(query))
    assert [hit.id for hit in result] == [hit.id for hit in expected]
    assert result[0].id == "003.png"
    assert result[0].verified
    assert result[0].inliers == expected[0].inliers
    assert result[0].path == str(photos.absolute() / "003.png")
    assert (result.width, result.height, result.model) == (160, 120, "theirs")


def test_without_the_photos_the_furthest_keypoint_tells_the_size(filled, tmp_path) -> None:
    filled.export(tmp_path / "out", "delg")
    images, report = imported(tmp_path / "i", [tmp_path / "out"])
    assert (report.added, report.guessed, report.with_photo) == (12, 12, 0)
    assert images.ids()[0] == "000"
    hit = images.query_features(next(iter(_features(filled).values())))[0]
    assert (hit.id, hit.path) == ("000", "")
    # A landscape photo stays one.
    assert 120 < hit.width <= 160
    assert 80 < hit.height <= 120
    assert images.vanished() == []


def _features(images: ImageIndex):
    catalog = images._store.catalog
    return {row.id: images._store.features(row) for row in catalog.images("ok")}


def test_an_index_of_features_cannot_be_asked_with_photos(filled, photos, tmp_path) -> None:
    filled.export(tmp_path / "f.h5", "hloc")
    images, _ = imported(tmp_path / "i", [tmp_path / "f.h5"])
    with pytest.raises(ModelError, match=r"features of 'theirs', made elsewhere"):
        images.query(photos / "000.png")
    with pytest.raises(ModelError, match="made elsewhere"):
        images.add(photos)


def test_features_of_another_width_are_refused(filled, model, tmp_path) -> None:
    filled.export(tmp_path / "f.h5", "hloc")
    kind = FeatureSpec("theirs", filled.feature_spec.global_dim + 1, 32, False)
    images = ImageIndex.create_for_features(tmp_path / "i", kind)
    report = images.import_from([tmp_path / "f.h5"])
    assert report.added == 0
    assert {entry.reason for entry in report.failed} == {"a global descriptor of width 64, not 65"}
    with pytest.raises(UsageError, match=r"65 and 32 numbers.*have 64 and 32"):
        images.query_features(model.extract(dots(1).pixels()))


def test_the_fingerprint_is_the_name_and_the_widths(tmp_path: Path) -> None:
    kind = FeatureSpec("a", 8, 4, False)
    same = [FeatureSpec("a", 8, 4, False)]
    others = [
        FeatureSpec("b", 8, 4, False),
        FeatureSpec("a", 9, 4, False),
        FeatureSpec("a", 8, 4, True),
    ]
    # As indexes on disk have it.
    assert kind.fingerprint == "6951be74ab098e71"
    assert {entry.fingerprint for entry in same} == {kind.fingerprint}
    assert len({entry.fingerprint for entry in others} | {kind.fingerprint}) == 4
    images = ImageIndex.create_for_features(tmp_path / "i", kind)
    assert images.fingerprint == kind.fingerprint
    assert ImageIndex.open(tmp_path / "i").feature_spec == kind


def test_importing_again_replaces_and_adds(filled, tmp_path) -> None:
    filled.export(tmp_path / "f.npz", "npz")
    images, _ = imported(tmp_path / "i", [tmp_path / "f.npz"])
    assert images.import_from([tmp_path / "f.npz"]).added == 12
    assert len(images) == 12
    assert images.check().problems == []


def test_photos_can_be_added_beside_imported_features_of_the_same_model(
    filled, make_index, photos, tmp_path
) -> None:
    filled.export(tmp_path / "out", "delg")
    images = make_index("second.index", store={"local_codec": "float32"})
    images.import_from([tmp_path / "out"], photos=[photos])
    report = images.add(photos)
    assert (report.added, report.updated, report.unchanged) == (0, 0, 12)
    without = make_index("third.index")
    filled.export(tmp_path / "f.h5", "hloc")
    without.import_from([tmp_path / "f.h5"])
    assert without.vanished() == []
    report = without.add(photos)
    assert (report.updated, report.failed) == (12, [])


def test_one_bad_photo_does_not_keep_the_others_out(filled, photos, tmp_path) -> None:
    filled.export(tmp_path / "out", "delg")
    (tmp_path / "out" / "004.delg_local").write_bytes(b"\x0a\x7f")
    _, report = imported(tmp_path / "i", [tmp_path / "out"], photos)
    assert report.added == 11
    assert [entry.path for entry in report.failed] == ["004"]
    assert "cut short" in report.failed[0].reason


def test_files_without_usable_features_are_refused_with_the_first_reason(tmp_path) -> None:
    (tmp_path / "x.delf").write_bytes(b"\x0a\x7f")
    with pytest.raises(DelgError, match=r"no features can be used: x: .*cut short"):
        read_spec([tmp_path], None, "theirs")


# Local features alone.


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("dim", [3, 40, 64, 128])
def test_an_aggregate_has_unit_length_and_the_width_promised(dim: int) -> None:
    descriptor = aggregate(unit(np.random.default_rng(0).normal(size=(30, dim))))
    assert descriptor is not None
    assert descriptor.shape == (aggregated_dim(dim),)
    assert descriptor.shape[0] <= MAX_WIDTH * (MAX_WIDTH + 1) // 2
    assert np.linalg.norm(descriptor) == pytest.approx(1, abs=1e-5)


def test_an_aggregate_does_not_depend_on_the_order_of_features() -> None:
    features = unit(np.random.default_rng(0).normal(size=(30, 40)))
    np.testing.assert_allclose(aggregate(features), aggregate(features[::-1]), atol=1e-5)
    assert aggregate(features[:0]) is None


def test_photos_that_share_features_have_similar_aggregates() -> None:
    rng = np.random.default_rng(0)
    features = [unit(rng.normal(size=(60, 40))) for _ in range(20)]
    query = unit(np.concatenate([features[7][:30], rng.normal(size=(30, 40))]))
    similarities = [aggregate(entry) @ aggregate(query) for entry in features]
    assert int(np.argmax(similarities)) == 7


def test_local_features_alone_are_found_by_their_aggregate(filled, model, tmp_path) -> None:
    filled.export(tmp_path / "out", "delg")
    for path in list((tmp_path / "out").glob("*")):
        if path.suffix == ".delg_global":
            path.unlink()
        else:
            path.rename(path.with_suffix(".delf"))
    images, report = imported(tmp_path / "i", [tmp_path / "out"], name="DELF")
    assert report.added == 12
    assert images.feature_spec == FeatureSpec("DELF", aggregated_dim(32), 32, True)
    query = ParsedFeatures("q", None, model.extract(dots(5).pixels()).local, (160, 120))
    result = images.query_features(as_image_features(query, images.feature_spec))
    assert result[0].id == "005"
    assert result[0].verified


def test_global_features_alone_are_searched_without_verification(filled, model, tmp_path) -> None:
    filled.export(tmp_path / "out", "delg")
    for path in (tmp_path / "out").glob("*.delg_local"):
        path.unlink()
    images, report = imported(tmp_path / "i", [tmp_path / "out"], name="global only")
    assert report.added == 12
    assert images.feature_spec.local_dim == 0
    query = replace(model.extract(dots(5).pixels()), local=LocalFeatures.empty(0))
    result = images.query_features(query)
    assert (result[0].id, result[0].verified) == ("005", False)
