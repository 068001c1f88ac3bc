"""Our models in other runtimes give what Keras gives."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from delg import load_model
from delg.errors import DelgError, ModelError, UsageError
from delg.network.weights import save_weights
from delg.zoo.registry import find_model

KINDS = {"onnx": "m.onnx", "litert": "m.tflite"}


@pytest.fixture(scope="module")
def small_folder(make_small, tmp_path_factory) -> Path:
    """A small model with learned attention and random weights, as a folder."""
    folder = tmp_path_factory.mktemp("small")
    network = make_small()
    (folder / "settings.yaml").write_text(
        yaml.safe_dump(network.settings.model_dump(mode="json", exclude={"export"}))
    )
    save_weights(network, folder / "weights.h5", "float32")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_gives_what_keras_gives(kind: str, small_folder: Path, tmp_path: Path) -> None:
    from delg.zoo.export import OUTPUTS, export_model

    deviations = export_model(find_model(str(small_folder)), tmp_path / KINDS[kind], kind)
    assert deviations.keys() == set(OUTPUTS)
    assert all(0 <= value < 1e-3 for value in deviations.values())
    assert [path.name for path in tmp_path.iterdir()] == [KINDS[kind]]


def test_local_features_alone_are_exported_where_the_format_lets_them(make_model, tmp_path) -> None:
    from delg.zoo.export import OUTPUTS, export_model

    network = make_model(
        backbone="lite_short",
        local_only=True,
        global_head={"dim": 36},
        local_head={"dim": 8, "attention_hidden": 12},
    )
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "settings.yaml").write_text(
        yaml.safe_dump(network.settings.model_dump(mode="json", exclude={"export"}))
    )
    save_weights(network, tmp_path / "m" / "weights.h5", "float32")
    files = find_model(str(tmp_path / "m"))
    deviations = export_model(files, tmp_path / "m.tflite", "litert")
    assert deviations.keys() == set(OUTPUTS) - {"global_descriptor"}
    with pytest.raises(ModelError, match="has no global descriptor"):
        export_model(files, tmp_path / "s", "savedmodel")


def test_a_saved_model_gives_what_keras_gives_and_is_a_model_by_its_path(
    small_folder, tmp_path, coffee
) -> None:
    import tensorflow as tf

    from delg.zoo.export import OUTPUTS, export_model

    deviations = export_model(find_model(str(small_folder)), tmp_path / "m", "savedmodel")
    assert deviations.keys() == set(OUTPUTS)
    assert all(0 <= value < 1e-3 for value in deviations.values())
    # As the published exports give them: 1 / scale of the level.
    raw = tf.saved_model.load(str(tmp_path / "m")).signatures["serving_default"](
        input_image=tf.constant(coffee),
        input_scales=tf.constant([1.0, 0.5]),
        input_max_feature_num=tf.constant(10_000),
        input_abs_thres=tf.constant(-np.inf, tf.float32),
        input_global_scales_ind=tf.constant([0]),
    )
    assert set(raw["scales"].numpy().tolist()) == {1, 2}
    # A multiple of 32 in both sides and one scale, so that nothing is resized on the way.
    photo = np.ascontiguousarray(coffee[:384, :576])
    spec = find_model(str(small_folder)).settings.extraction.model_copy(
        update={"scales": (1.0,), "global_scales": (1.0,), "longest_side": 576}
    )
    ours = load_model(str(small_folder), extraction=spec)
    theirs = load_model(str(tmp_path / "m"), extraction=spec)
    assert (theirs.name, theirs.global_dim, theirs.local_dim) == ("test", 16, 8)
    expected, result = ours.extract(photo), theirs.extract(photo)
    np.testing.assert_allclose(result.global_descriptor, expected.global_descriptor, atol=1e-4)
    np.testing.assert_allclose(result.local.scores, expected.local.scores, rtol=1e-3)
    np.testing.assert_allclose(
        result.local.keypoints[:20], expected.local.keypoints[:20], atol=1e-2
    )


def test_weights_of_scales_become_part_of_a_saved_model(small_folder, tmp_path, coffee) -> None:
    from delg.zoo.export import export_model

    folder = tmp_path / "weighted"
    shutil.copytree(small_folder, folder)
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    settings["extraction"] |= {
        "scales": [0.5, 0.7071, 1.0],
        "global_scales": [1.0],
        "scale_weights": [9.0, 3.0, 2.0],
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    assert export_model(find_model(str(folder)), tmp_path / "m", "savedmodel")["attention"] < 1e-3
    expected = load_model(str(folder)).extract(coffee).local
    result = load_model(str(tmp_path / "m")).extract(coffee).local
    share = [(part.scales == 0.5).mean() for part in (expected, result)]
    assert share[0] > 0.2 and abs(share[0] - share[1]) < 0.05


def test_an_export_that_differs_is_not_written(small_folder, tmp_path, monkeypatch) -> None:
    from delg.zoo import export as module

    def write_wrong(model, out):
        out.write_bytes(b"wrong")
        return lambda image: {
            name: np.asarray(value) * 1.01 for name, value in model(image).items()
        }

    monkeypatch.setattr(module, "_litert", write_wrong)
    with pytest.raises(DelgError, match=r"test: global_descriptor as litert is .* off Keras"):
        module.export_model(find_model(str(small_folder)), tmp_path / "m.tflite", "litert")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_refused(small_folder, tmp_path) -> None:
    from delg.zoo.export import export_model

    with pytest.raises(UsageError, match="no format is called 'coreml'"):
        export_model(find_model(), tmp_path / "m", "coreml")
    (tmp_path / "taken").write_text("")
    with pytest.raises(UsageError, match="taken: exists"):
        export_model(find_model(), tmp_path / "taken", "onnx")
    with pytest.raises(ModelError, match="sift is not one network alone"):
        export_model(find_model("sift"), tmp_path / "m", "litert")
    with pytest.raises(ModelError, match="delg-r50-gldv2 is a SavedModel already"):
        export_model(find_model("delg-r50-gldv2"), tmp_path / "m", "litert")
    with pytest.raises(ModelError, match="delg-r50 has no weights"):
        export_model(find_model("delg-r50"), tmp_path / "m", "litert")
