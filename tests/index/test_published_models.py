"""The published kinds of SavedModels, from loading to a search through an index."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import yaml

from delg import load_model
from delg.errors import ModelError, UsageError
from delg.extraction.match_kernel import aggregate
from delg.images.decode import ImageError
from delg.settings import ExtractionSettings
from delg.zoo.cache import HOME_VARIABLE
from delg.zoo.registry import find_model
from index import ImageIndex, IndexSettings
from index.feature_spec import FeatureSpec
from index.verification.pair import verify_features

KINDS = ("new", "old", "delf")


def same_place(a, b) -> None:
    """Matched features of two extractions of one photo lie in the same places of it."""
    visited = verify_features(a, b, IndexSettings())
    assert visited.inliers > 0.8 * len(a.local)
    np.testing.assert_allclose(visited.transform, np.eye(3), atol=0.5)


@pytest.mark.parametrize("kind", ["new", "old"])
@pytest.mark.parametrize("portrait", [False, True])
def test_an_export_sees_what_the_network_sees_in_the_same_places(
    kind, portrait, models, coffee
) -> None:
    photo = coffee[:, :250] if portrait else coffee
    whole = load_model("delg-lite", extraction=models[kind].settings.extraction)
    lite = whole.network_alone
    result, expected = models[kind].extract(photo), lite.extract(photo)
    assert (result.width, result.height) == (expected.width, expected.height)
    assert result.global_descriptor @ expected.global_descriptor > 0.97
    assert np.linalg.norm(result.global_descriptor) == pytest.approx(1, abs=1e-4)
    same_place(result, expected)
    assert (np.diff(result.local.scores) <= 0).all()
    np.testing.assert_allclose(np.unique(result.local.scales), lite.settings.extraction.scales)


def test_both_ways_to_call_give_the_same(models, coffee) -> None:
    new, old = models["new"].extract(coffee), models["old"].extract(coffee)
    np.testing.assert_allclose(new.global_descriptor, old.global_descriptor, atol=1e-4)
    np.testing.assert_allclose(new.local.keypoints, old.local.keypoints, atol=0.1)
    np.testing.assert_allclose(new.local.scores, old.local.scores, rtol=1e-3)


def test_delf_has_projected_local_features_and_their_aggregate(models, lite, coffee) -> None:
    result = models["delf"].extract(coffee)
    assert result.local.descriptors.shape[1] == models["delf"].local_dim == 24
    np.testing.assert_allclose(np.linalg.norm(result.local.descriptors, axis=1), 1, atol=1e-5)
    expected = aggregate(result.local.descriptors)
    np.testing.assert_allclose(result.global_descriptor, expected, atol=1e-6)
    old = models["old"].extract(coffee)
    np.testing.assert_allclose(result.local.keypoints, old.local.keypoints, atol=0.1)


def test_a_turned_photo_and_a_box_give_keypoints_of_the_photo_as_it_came(models, coffee) -> None:
    model = models["old"]
    upright = model.extract(coffee)
    same_place(upright, model.extract(np.ascontiguousarray(coffee), turns=0))
    part = model.extract(coffee, box=(300, 100, 250, 200))
    x, y = part.local.keypoints.T
    assert x.min() >= 300
    assert x.max() <= 549
    assert y.min() >= 100
    assert y.max() <= 299
    turned = model.extract(np.rot90(coffee), turns=3)
    visited = verify_features(upright, turned, IndexSettings())
    # A quarter turn counter-clockwise takes (x, y) to (y, W - 1 - x).
    np.testing.assert_allclose(visited.transform, [[0, 1, 0], [-1, 0, 599], [0, 0, 1]], atol=3)


def test_extraction_settings_reach_the_model(folders, coffee) -> None:
    spec = ExtractionSettings(
        longest_side=256, scales=(0.5, 1.0), global_scales=(1.0,), max_features=20
    )
    model = load_model(str(folders["new"]), extraction=spec)
    result = model.extract(coffee)
    assert len(result.local) == 20
    assert set(result.local.scales.tolist()) <= {0.5, 1.0}
    strict = load_model(
        str(folders["new"]),
        extraction=spec.model_copy(update={"min_score": float(result.local.scores[4])}),
    )
    assert len(strict.extract(coffee).local) == 5
    none = load_model(str(folders["new"]), extraction=spec.model_copy(update={"max_features": 0}))
    assert len(none.extract(coffee).local) == 0
    assert len({one.fingerprint for one in (model, strict, none)}) == 3


def test_a_global_scale_outside_the_pyramid_is_refused(folders) -> None:
    spec = ExtractionSettings(scales=(1.0,), global_scales=(0.7,))
    with pytest.raises(ModelError, match=r"global_scales has 0\.7"):
        load_model(str(folders["new"]), extraction=spec)


def test_what_the_export_cannot_do_is_refused(folders, tmp_path) -> None:
    shutil.copytree(folders["new"], tmp_path / "m")
    values = yaml.safe_load((tmp_path / "m" / "settings.yaml").read_text())
    values["extraction"]["border_cells"] = 1
    (tmp_path / "m" / "settings.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ModelError, match="border_cells does nothing"):
        load_model(str(tmp_path / "m"))


def test_a_thin_photo_is_refused(models) -> None:
    with pytest.raises(ImageError, match="too thin"):
        models["old"].extract(np.zeros((20, 2000, 3), np.uint8))


# Through an index.


@pytest.mark.parametrize("kind", KINDS)
def test_index_and_query_go_through_an_export(kind, models, folders, real_photos, tmp_path) -> None:
    with ImageIndex.create(tmp_path / "i", str(folders[kind])) as images:
        images.use(models[kind])
        report = images.add(real_photos)
        assert (report.added, report.failed) == (6, [])
        assert images.check().problems == []
    reopened = ImageIndex.open(tmp_path / "i")
    reopened.use(models[kind])
    assert reopened.feature_spec.aggregated == (kind == "delf")
    cat = np.ascontiguousarray(skimage.data.chelsea()[20:, 30:430])
    hits = reopened.query(cat, k=3)
    assert hits[0].id == "cat.jpg"
    assert hits[0].verified
    assert hits[0].points[:, 0].max() < hits[0].width
    turned = reopened.query(np.rot90(cat), k=3)
    assert turned[0].id == "cat.jpg"
    # The index loads the model itself, too.
    assert ImageIndex.open(tmp_path / "i").extractor.fingerprint == models[kind].fingerprint


def test_a_photo_without_local_features_is_a_failure_of_delf(
    folders, real_photos, tmp_path
) -> None:
    settings = find_model(str(folders["delf"])).settings.extraction
    none = IndexSettings(extraction=settings.model_copy(update={"min_score": 1e9}))
    images = ImageIndex.create(tmp_path / "i", str(folders["delf"]), settings=none)
    report = images.add(real_photos / "cat.jpg")
    assert report.added == 0
    assert "no local features were found" in report.failed[0].reason


def test_delf_features_from_elsewhere_join_an_index_of_the_model(
    models, folders, real_photos, tmp_path
) -> None:
    from delg.delf_files import write_local

    images = ImageIndex.create(tmp_path / "i", str(folders["delf"]))
    images.use(models["delf"])
    write_local(tmp_path / "cat.delf", models["delf"].extract(real_photos / "cat.jpg").local)
    assert images.import_from([tmp_path / "cat.delf"], photos=[real_photos]).added == 1
    assert images.feature_spec == FeatureSpec("delf", 300, 24, True)
    assert images.query(real_photos / "cat.jpg")[0].similarity == pytest.approx(1, abs=1e-3)
    assert images.add(real_photos).unchanged == 1


# Names, folders and fingerprints.


def test_published_names_have_the_published_settings() -> None:
    spec = find_model("delg-r50-gldv2").settings
    assert spec.export is not None
    assert spec.export.archive == "r50delg_gldv2clean_20200914"
    assert (spec.global_head.dim, spec.local_head.dim) == (2048, 128)
    assert spec.extraction.min_score == 454.6
    assert len(spec.extraction.scales) == 7
    assert spec.extraction.global_scales == spec.extraction.scales[3:6]
    thresholds = {
        name: find_model(name).settings.extraction.min_score
        for name in ("delg-r101-gldv2", "delg-r50-gldv1", "delg-r101-gldv1", "delf-gldv1")
    }
    assert list(thresholds.values()) == [357.48, 175.0, 166.1, 100.0]
    delf = find_model("delf-gldv1").settings
    assert (delf.has_global, delf.local_head.dim, delf.global_head.dim) == (False, 40, 820)


def test_a_published_model_that_is_not_here_says_how_to_get_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    assert not find_model("delg-r50-gldv2").has_weights
    for ask in (load_model, lambda name: ImageIndex.create(tmp_path / "i", name)):
        with pytest.raises(ModelError, match="delg model pull delg-r50-gldv2"):
            ask("delg-r50-gldv2")


def test_a_published_model_is_found_in_the_cache_and_anywhere_by_its_own_name(
    folders, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    place = tmp_path / "models" / "r50delg_gldv2clean_20200914"
    shutil.copytree(folders["old"], place)
    (place / "settings.yaml").unlink()
    known = find_model("delg-r50-gldv2")
    assert known.has_weights
    assert find_model(str(place)).fingerprint == known.fingerprint
    assert find_model(str(place)).settings.extraction.min_score == 454.6
    # It is a toy, and says so as soon as it is used.
    with pytest.raises(ModelError, match=r"gives 112 numbers.*local_head\.dim: 128"):
        spec = ExtractionSettings(scales=(1.0,), global_scales=(1.0,))
        load_model("delg-r50-gldv2", extraction=spec).extract(skimage.data.coffee())


def test_the_fingerprint_sees_every_file_that_matters_and_no_place(folders, tmp_path) -> None:
    first = find_model(str(folders["delf"])).fingerprint
    copy = tmp_path / "copy"
    shutil.copytree(folders["delf"], copy)
    assert find_model(str(copy)).fingerprint == first
    for name in ("pca/mean.datum", "model/saved_model.pb"):
        before = (copy / name).read_bytes()
        (copy / name).write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        assert find_model(str(copy)).fingerprint != first
        (copy / name).write_bytes(before)
    (copy / "pca" / "mean.datum").unlink()
    with pytest.raises(ModelError, match=r"mean\.datum is missing"):
        load_model(str(copy))


@pytest.mark.parametrize("content", [b"", b"no model", bytes(100)])
def test_a_damaged_saved_model_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_model(str(tmp_path))


def test_a_saved_model_of_something_else_is_told_what_is_missing(folders, tmp_path) -> None:
    import tensorflow as tf

    tf.saved_model.save(tf.Module(), str(tmp_path / "m"))
    with pytest.raises(ModelError, match=r"no signature 'serving_default' and no tensors.*boxes"):
        load_model(str(tmp_path / "m"))
    # DELF without a word that it has no global head.
    with pytest.raises(ModelError, match=r"export\.has_global"):
        load_model(str(folders["delf"] / "model"))


def test_a_pca_that_does_not_fit_is_named(folders, tmp_path) -> None:
    from delg.delf_files import write_datum

    shutil.copytree(folders["delf"], tmp_path / "m")
    write_datum(tmp_path / "m" / "pca" / "mean.datum", np.zeros(5, np.float32))
    with pytest.raises(ModelError, match=r"pca_proj_mat\.datum: a matrix of shape \(112, 112\)"):
        load_model(str(tmp_path / "m"))


def test_a_model_needs_a_head(tmp_path) -> None:
    (tmp_path / "settings.yaml").write_text(
        yaml.safe_dump({"name": "x", "export": {"has_local": False, "has_global": False}})
    )
    with pytest.raises(UsageError, match="without any head"):
        find_model(str(tmp_path))


def test_one_head_of_a_model_can_be_used_alone(folders, coffee, tmp_path) -> None:
    shutil.copytree(folders["new"], tmp_path / "m")
    values = yaml.safe_load((tmp_path / "m" / "settings.yaml").read_text())
    values["export"]["has_local"] = False
    (tmp_path / "m" / "settings.yaml").write_text(yaml.safe_dump(values))
    result = load_model(str(tmp_path / "m")).extract(coffee)
    assert len(result.local) == 0
    assert result.global_descriptor.shape == (768,)
