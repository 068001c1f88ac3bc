from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from delg import Extractor
from delg.errors import DelgError, ModelError, UsageError
from delg.paths import exists
from delg.settings import ExtractionSettings
from delg.zoo.registry import (
    DEFAULT_MODEL,
    SETTINGS_FILE,
    WEIGHTS_FILE,
    find_model,
    load_model,
    shipped_models,
)

SHIPPED_BYTES = {"delg-lite": 28_500_000, "delg-lite-clip": 8_200_000}


def weight_file(path: Path, value: float = 1.0) -> Path:
    with h5py.File(path, "w") as file:
        file["layer/kernel"] = np.full((2, 3), value, np.float32)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder laid out as a model; its weights fit nothing."""
    weight_file(tmp_path / WEIGHTS_FILE)
    return described(tmp_path, name="mine", backbone="efficientnet_lite0")


def described(folder: Path, **values: object) -> Path:
    (folder / SETTINGS_FILE).write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder


# Finding.


def test_the_default_model_comes_first() -> None:
    assert shipped_models()[0] == DEFAULT_MODEL == "delg-lite"
    assert {"delg-lite", "delg-r50", "delg-r101", "sift"} <= set(shipped_models())


def test_the_default_model_ships_with_weights_and_stays_small() -> None:
    files = find_model()
    assert files.settings.name == DEFAULT_MODEL
    assert files.has_weights
    models = Path(__import__("delg").__file__).parent / "models"
    for folder in models.iterdir():
        size = sum(file.stat().st_size for file in folder.glob("*"))
        assert size <= SHIPPED_BYTES.get(folder.name, 2_000_000), folder


def test_an_unknown_name_is_told_what_there_is() -> None:
    for find in (find_model, load_model):
        with pytest.raises(ModelError) as caught:
            find("delg-light")
        assert "'delg-light'" in str(caught.value)
        assert all(name in str(caught.value) for name in shipped_models())


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=SETTINGS_FILE):
        find_model(str(tmp_path))


def test_a_folder_is_a_model(folder: Path) -> None:
    files = find_model(str(folder))
    assert files.settings.name == "mine"
    assert files.weights == folder / WEIGHTS_FILE
    assert files.has_weights
    assert len(files.fingerprint) == 16
    assert find_model(folder).fingerprint == files.fingerprint


def test_a_misspelt_key_is_named_with_its_file(folder: Path) -> None:
    described(folder, name="mine", extraction={"max_featurs": 3})
    with pytest.raises(UsageError, match=rf"{SETTINGS_FILE}.*extraction\.max_featurs"):
        find_model(str(folder))


@pytest.mark.parametrize("name", ["delg-r50", "delg-r101"])
def test_models_that_ship_without_weights_say_so(name: str) -> None:
    files = find_model(name)
    assert not files.has_weights
    with pytest.raises(ModelError, match=rf"{name} has no weights.*{WEIGHTS_FILE}"):
        load_model(name)
    with pytest.raises(ModelError, match=WEIGHTS_FILE):
        _ = files.fingerprint


def test_missing_weights_are_named_by_their_path(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.h5"):
        load_model("delg-lite", weights=tmp_path / "gone.h5")


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    path = weight_file(tmp_path / "other.h5")
    with pytest.raises(ModelError, match=r"other\.h5.* layer/kernel"):
        load_model("delg-lite", weights=path)


def test_a_file_that_is_no_weight_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    path.write_text("hello")
    with pytest.raises(ModelError, match=r"other\.h5"):
        load_model("delg-lite", weights=str(path))


def test_an_unknown_backbone_is_named(folder: Path) -> None:
    described(folder, name="mine", backbone="resnet51")
    with pytest.raises(ModelError, match="resnet51"):
        load_model(str(folder))


def test_its_errors_are_the_users_to_mend() -> None:
    assert issubclass(ModelError, DelgError)
    assert issubclass(UsageError, DelgError)


# Fingerprint.


def test_the_fingerprint_repeats() -> None:
    assert find_model().fingerprint == find_model().fingerprint
    assert len(find_model().fingerprint) == 16
    int(find_model().fingerprint, 16)


def test_the_fingerprint_does_not_see_names(folder: Path) -> None:
    first = find_model(str(folder)).fingerprint
    described(folder, name="yours", description="other words", backbone="efficientnet_lite0")
    assert find_model(str(folder)).fingerprint == first


def test_the_fingerprint_does_not_see_defaults_spelt_out(folder: Path) -> None:
    first = find_model(str(folder)).fingerprint
    described(
        folder,
        name="mine",
        backbone="efficientnet_lite0",
        block3_strides=False,
        global_head={"dim": 2048},
    )
    assert find_model(str(folder)).fingerprint == first


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "efficientnet_lite1"},
        {"global_head": {"dim": 7}},
        {"global_head": {"gem_p": 2.5}},
        {"global_head": {"normalize_pooled": True}},
        {"local_head": {"kind": "sift"}},
        {"local_head": {"attention": "norm"}},
        {"input": {"mean": [127, 127, 127]}},
        {"input": {"channel_order": "bgr"}},
        {"extraction": {"scales": [1.0]}},
        {"extraction": {"longest_side": 512}},
        {"extraction": {"max_features": 999}},
        {"extraction": {"min_score": 0.5}},
    ],
    ids=str,
)
def test_the_fingerprint_sees_architecture_and_extraction(
    folder: Path, change: dict[str, object]
) -> None:
    first = find_model(str(folder)).fingerprint
    described(folder, **{"name": "mine", "backbone": "efficientnet_lite0", **change})
    assert find_model(str(folder)).fingerprint != first


def test_the_fingerprint_sees_the_weights(folder: Path, tmp_path: Path) -> None:
    first = find_model(str(folder)).fingerprint
    assert find_model(str(folder), weight_file(tmp_path / "same.h5")).fingerprint == first
    assert find_model(str(folder), weight_file(tmp_path / "b.h5", 2)).fingerprint != first


def test_the_fingerprint_sees_extraction_given_by_the_caller(folder: Path) -> None:
    files = find_model(str(folder))
    spec = files.settings.extraction
    same = find_model(str(folder), extraction=ExtractionSettings(**spec.model_dump()))
    assert same.fingerprint == files.fingerprint
    fewer = find_model(str(folder), extraction=spec.model_copy(update={"max_features": 10}))
    assert fewer.settings.extraction.max_features == 10
    assert fewer.fingerprint != files.fingerprint


def test_shipped_models_have_fingerprints_of_their_own() -> None:
    assert find_model("delg-lite").fingerprint != find_model("sift").fingerprint


# What models were before.


@pytest.mark.parametrize(
    ("name", "in_float32", "by_norm"),
    [
        ("delg-lite", "a3c0d59393402c4c", "cdcbf51a84e05730"),
        ("sift", "12f61b67d09a3e4d", "3d23e31bac21ca4f"),
    ],
)
def test_indexes_of_before_find_their_model_by_its_fingerprint(
    name: str, in_float32: str, by_norm: str
) -> None:
    files, old = find_model(name), find_model(name, fingerprint=in_float32)
    assert files.settings.precision == "int8" and old.settings.precision == "float32"
    assert old.comparable == {old.fingerprint, in_float32}
    selecting = find_model(name, fingerprint=by_norm)
    assert selecting.settings.precision == "int8" and selecting.settings.aggregate is None
    assert selecting.comparable == {selecting.fingerprint, by_norm}
    for known in (files.fingerprint, "0" * 16):
        assert find_model(name, fingerprint=known).fingerprint == files.fingerprint


def test_the_default_model_was_its_network_alone() -> None:
    files = find_model()
    before = find_model(fingerprint="ea1dcb5a1172e3e7")
    assert before.fingerprint == "ea1dcb5a1172e3e7" and before.settings.aggregate is None
    assert files.comparable == {files.fingerprint} and files.settings.aggregate is not None
    assert before.learnt_for_indexes == files.learnt_for_indexes


def test_two_towers_share_the_calibration_of_their_local_features() -> None:
    files = find_model("delg-lite-clip")
    assert files.calibration == find_model().calibration and exists(files.calibration)
    assert (
        not exists(files.own_calibration)
        and files.own_calibration.parent.name == files.settings.name
    )


def test_the_fingerprint_of_a_quantised_model_sees_its_network(tmp_path: Path) -> None:
    shutil.copytree(find_model().weights.parent, tmp_path / "copy")
    files = find_model(str(tmp_path / "copy"))
    assert files.fingerprint == find_model().fingerprint
    files.network.write_bytes(files.network.read_bytes() + b"x")
    assert find_model(str(tmp_path / "copy")).fingerprint != files.fingerprint


def test_other_weights_run_in_float32(tmp_path: Path) -> None:
    copy = shutil.copyfile(find_model().weights, tmp_path / "w.h5")
    files = find_model(weights=copy)
    assert files.settings.precision == "float32"
    assert files.fingerprint == find_model().network_alone().in_float32().fingerprint
    # What was learnt for the weights counts where it lies beside them.
    shutil.copy(find_model().aggregate, tmp_path)
    assert find_model(weights=copy).fingerprint == find_model().in_float32().fingerprint


# Loading.


def test_the_default_model_loads(lite: Extractor) -> None:
    files = find_model()
    assert lite.name == "delg-lite"
    assert lite.settings == files.settings
    assert lite.fingerprint == files.fingerprint
    assert lite.global_dim == files.settings.global_dim == 1536
    assert lite.local_dim == files.settings.local_head.dim


def test_a_copy_in_a_folder_gives_the_same_features(
    lite: Extractor, coffee: np.ndarray, tmp_path: Path
) -> None:
    shutil.copytree(find_model().weights.parent, tmp_path / "copy")
    extraction = lite.settings.extraction.model_copy(update={"max_features": 20})
    copy = load_model(str(tmp_path / "copy"), extraction=extraction)
    assert copy.fingerprint != lite.fingerprint
    result, expected = copy.extract(coffee), lite.extract(coffee)
    np.testing.assert_allclose(result.global_descriptor, expected.global_descriptor, atol=1e-5)
    np.testing.assert_allclose(result.local.keypoints, expected.local.keypoints[:20], atol=1e-3)


# What is imported when.


def modules_after(statements: str) -> set[str]:
    code = f"{statements}\nimport sys\nsys.stdout.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_delg_and_finding_models_is_cheap() -> None:
    heavy = {"tensorflow", "keras", "torch", "cv2", "skimage", "sklearn"}
    assert not heavy & modules_after("import delg")
    looked_up = modules_after(
        "from delg import load_model, DelgError, ModelError, UsageError, ImageError, Failure\n"
        "from delg.zoo.registry import find_model, shipped_models\n"
        "find_model().fingerprint, shipped_models()"
    )
    assert "delg.zoo.registry" in looked_up
    assert not {"tensorflow", "keras"} & looked_up
