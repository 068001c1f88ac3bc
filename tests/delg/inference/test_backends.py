"""One contract for everything that runs a network; Keras says what is right."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import skimage.data

from delg import load_model
from delg.errors import ModelError
from delg.extraction.match_kernel import aggregated_dim
from delg.images.pyramid import level
from delg.inference.backend import Backend
from delg.inference.export_onnx import check_against_keras, export_network
from delg.inference.onnx_runtime import OnnxRuntimeBackend
from delg.inference.quantize import quantize_network
from delg.network.delg_model import Delg

PIXELS = np.random.default_rng(1).integers(0, 256, (96, 160, 3)).astype(np.uint8)
LEARNED = {
    "backbone": "lite_short",
    "global_head": {"dim": 16, "gem_p": 2.5},
    "local_head": {"dim": 8, "attention_hidden": 12},
    "input": {"mean": [100, 120, 140], "std": [50, 60, 70], "channel_order": "bgr"},
}
FITTED = {
    "backbone": "lite_short",
    "global_head": {"dim": 16, "normalize_pooled": True},
    "local_head": {"dim": 8, "attention": "norm"},
}
LOCAL_ONLY = {
    "backbone": "lite_short",
    "local_only": True,
    "global_head": {"dim": aggregated_dim(8)},
    "local_head": {"dim": 8, "attention": "norm"},
}
POOLED = {"backbone": "resnet_short", "block3_strides": True, "global_head": {"dim": 16}}
CASES = {
    "everything learned": (LEARNED, "float32"),
    "local features alone": (LOCAL_ONLY, "float32"),
    "as published, pooled": (POOLED, "float32"),
    "fitted, quantised": (FITTED, "int8"),
}


@dataclass(frozen=True)
class Case:
    model: Delg
    backend: Backend
    quantized: bool


def photo_levels() -> list[np.ndarray]:
    photos = [skimage.data.coffee(), skimage.data.chelsea(), skimage.data.astronaut()]
    return [level(photo, scale, 256).pixels for photo in photos for scale in (0.7, 1)]


@pytest.fixture(scope="module", params=CASES)
def case(make_model: Callable[..., Delg], request: pytest.FixtureRequest) -> Case:
    values, precision = CASES[request.param]
    model = make_model(**values, precision=precision)
    if precision == "int8":
        network = quantize_network(model, photo_levels(), "digest")
    else:
        network = export_network(model, "digest")
    return Case(model, OnnxRuntimeBackend(network, "test.onnx"), precision == "int8")


def test_it_gives_what_keras_gives(case: Case) -> None:
    pixels = photo_levels()[0]
    truth = {name: np.asarray(value)[0] for name, value in case.model(pixels[None]).items()}
    output = case.backend.run(pixels)
    rows, columns = truth["attention"].shape
    assert output.grid == (rows, columns)
    pairs = {
        "local_descriptors": output.descriptors.reshape(rows, columns, -1),
        "attention": output.scores.reshape(rows, columns) / truth["attention"].max(),
    }
    truth["attention"] = truth["attention"] / truth["attention"].max()
    if case.model.settings.has_global:
        pairs["global_descriptor"] = output.global_descriptor
    else:
        assert output.global_descriptor is None
    for name, values in pairs.items():
        assert values.dtype == np.float32
        if name == "attention":
            np.testing.assert_allclose(values, truth[name], atol=0.1 if case.quantized else 1e-4)
            continue
        np.testing.assert_allclose(np.linalg.norm(values, axis=-1), 1, atol=1e-5)
        cosines = (values * truth[name]).sum(axis=-1)
        assert cosines.mean() > (0.95 if case.quantized else 1 - 1e-6)
        if not case.quantized:
            np.testing.assert_allclose(values, truth[name], atol=1e-4)


def test_centres_go_row_by_row_in_x_y_order(case: Case) -> None:
    output, stride, offset = case.backend.run(PIXELS), case.model.stride, case.model.offset
    rows, columns = output.grid
    expected = [
        (x * stride + offset, y * stride + offset) for y in range(rows) for x in range(columns)
    ]
    np.testing.assert_array_equal(output.centres, np.float32(expected))


def test_unwanted_outputs_are_left_out_and_change_nothing(case: Case) -> None:
    everything = case.backend.run(PIXELS)
    local = case.backend.run(PIXELS, with_global=False)
    assert local.global_descriptor is None
    np.testing.assert_array_equal(local.descriptors, everything.descriptors)
    np.testing.assert_array_equal(local.scores, everything.scores)
    rest = case.backend.run(PIXELS, with_local=False)
    assert rest.grid == (0, 0) and rest.centres.shape == (0, 2)
    assert rest.descriptors.shape == (0, case.model.settings.local_head.dim)
    np.testing.assert_array_equal(rest.global_descriptor, everything.global_descriptor)


def test_the_number_of_cores_changes_nothing(case: Case) -> None:
    alone, together = (case.backend.run(PIXELS, all_cores=cores) for cores in (True, False))
    np.testing.assert_allclose(together.descriptors, alone.descriptors, atol=1e-5)
    np.testing.assert_allclose(together.scores, alone.scores, rtol=1e-5)


@pytest.fixture(scope="module")
def small_network(make_small: Callable[..., Delg]) -> bytes:
    return export_network(make_small(), "digest")


def test_scores_and_descriptors_belong_to_the_same_cells(small_network: bytes) -> None:
    """A patch changes only the cells that can see it: those below it, not their mirror image."""
    grey = np.full((512, 320, 3), 128, np.uint8)
    patched = grey.copy()
    patched[384:416, 96:128] = 255
    backend = OnnxRuntimeBackend(small_network, "small.onnx")
    before, after = (backend.run(pixels, with_global=False) for pixels in (grey, patched))
    change = np.abs(before.descriptors - after.descriptors).max(axis=1)
    assert change.max() > 1e-3
    # Half of the receptive field of 107 pixels, which begins half a cell later than the cell, and
    # half of the patch.
    reached = np.abs(before.centres[change > 1e-5] - (111.5, 399.5)).max()
    assert reached <= 107 / 2 + 15 / 2 + 32 / 2
    scored = np.abs(before.scores - after.scores)
    middle = (before.centres * scored[:, None]).sum(axis=0) / scored.sum()
    assert np.abs(middle - (111.5, 399.5)).max() < 48


def nodes_run(network: bytes, tmp_path: Path, **wanted: bool) -> int:
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    conditions = {name: np.array(value) for name, value in wanted.items()}
    session.run(None, {"image": PIXELS[None], **conditions})
    return Path(session.end_profiling()).read_text().count('"op_name" : "Conv"')


def test_what_only_an_unwanted_output_needs_is_not_run(small_network, tmp_path) -> None:
    network = small_network
    everything = nodes_run(network, tmp_path, with_local=True, with_global=True)
    local = nodes_run(network, tmp_path, with_local=True, with_global=False)
    neither = nodes_run(network, tmp_path, with_local=False, with_global=False)
    # The deep half has 10 convolutions, the local head three.
    assert everything - local == 10
    assert local - neither == 3


def test_a_network_that_differs_from_keras_is_refused(small_network, make_small) -> None:
    check_against_keras(small_network, make_small())
    with pytest.raises(ModelError, match=r"test: descriptors in ONNX Runtime is .* off Keras"):
        check_against_keras(small_network, make_small(seed=1))


def test_what_int8_cannot_read_is_refused(make_small, make_model) -> None:
    with pytest.raises(ModelError, match=r"int8 needs input.channel_order: rgb, one whole"):
        quantize_network(make_model(**LEARNED), photo_levels(), "digest")
    with pytest.raises(ModelError, match="needs photos"):
        quantize_network(make_small(), [], "digest")


@pytest.mark.parametrize("damage", [b"", b"not a network", None])
def test_a_damaged_file_is_named(damage: bytes | None) -> None:
    if damage is None:
        damage = (Path(onnxruntime.__file__).parent / "datasets" / "sigmoid.onnx").read_bytes()
    with pytest.raises(ModelError, match=r"broken\.onnx: "):
        OnnxRuntimeBackend(damage, "broken.onnx")


# The features of the default model are the same everywhere.


def first_features(photo: np.ndarray) -> dict[str, np.ndarray]:
    features = load_model().extract(photo)
    return {
        "global_descriptor": features.global_descriptor,
        "keypoints": features.local.keypoints[:200],
        "descriptors": features.local.descriptors[:200],
    }


def assert_equal_features(result: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert result["global_descriptor"] @ expected["global_descriptor"] >= 0.9999
    rows = {tuple(point): row for row, point in enumerate(expected["keypoints"].round(1).tolist())}
    matches = [
        (result["descriptors"][row] @ expected["descriptors"][rows[tuple(point)]])
        for row, point in enumerate(result["keypoints"].round(1).tolist())
        if tuple(point) in rows
    ]
    assert len(matches) >= 190
    assert min(matches) >= 0.999


def test_features_of_packaged_photos_stay_what_they_are(data: Path, coffee, astronaut) -> None:
    golden = np.load(data / "delg_lite_features.npz")
    for name, photo in (("coffee", coffee), ("astronaut", astronaut)):
        expected = {key.split("/")[1]: golden[key] for key in golden.files if key.startswith(name)}
        assert_equal_features(first_features(photo), expected)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="needs Debian's qemu-user")
def test_an_older_processor_gives_the_same_features(tmp_path: Path, coffee: np.ndarray) -> None:
    np.save(tmp_path / "photo.npy", coffee)
    code = (
        "import sys, numpy as np; from delg import load_model\n"
        "f = load_model().extract(np.load(sys.argv[1]))\n"
        "np.savez(sys.argv[2], global_descriptor=f.global_descriptor,"
        " keypoints=f.local.keypoints[:200], descriptors=f.local.descriptors[:200])"
    )
    command = ["qemu-x86_64", "-cpu", "Haswell", sys.executable, "-c", code]
    out = tmp_path / "features.npz"
    subprocess.run([*command, tmp_path / "photo.npy", out], check=True, capture_output=True)
    assert_equal_features(dict(np.load(out)), first_features(coffee))


def test_extraction_does_not_load_tensorflow() -> None:
    code = (
        "import sys, numpy as np; from delg import load_model;"
        "load_model().extract(np.zeros((64, 64, 3), np.uint8));"
        "assert not {'tensorflow', 'keras', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
