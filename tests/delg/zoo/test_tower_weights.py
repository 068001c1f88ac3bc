"""Weights of vision transformers, read from files of tiny ones.

Hugging Face's models made them (CLIP, SigLIP, DINOv2 with registers), and torch.nn one as OpenAI's
CLIP is, with TorchScript in float16. ``tests/data/vit/outputs.npz`` holds what those gave: tokens
after the last block, for ``image``, a photo of 24 × 24 pixels where they were made for 16 × 16, and
for ``openai_image`` of that size.
"""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from safetensors.numpy import load_file, save_file

from delg.errors import ModelError
from delg.settings import TowerSettings
from delg.zoo import tower_weights
from delg.zoo.tower_weights import read_tower_weights

DATA = Path(__file__).parents[2] / "data" / "vit"
TINY = {
    "weights": "tiny", "patch": 4, "grid": 4, "width": 16, "depth": 2, "heads": 2, "hidden": 24,
    "adapted_dim": 8, "dim": 8, "input": {"mean": (10, 20, 30), "std": (50, 60, 70)},
}  # fmt: skip
_NO_CLIP = {"patch_bias": True, "pre_norm": False, "final_norm": True, "epsilon": 1e-6}
FAMILIES = {
    "clip": {"activation": "quick_gelu"},
    "siglip2": {**_NO_CLIP, "activation": "gelu_tanh", "class_token": False},
    "dinov2_registers": {
        **_NO_CLIP, "activation": "gelu", "layer_scale": True, "hidden": 32, "registers": 3,
    },
}  # fmt: skip


def spec(family: str = "clip", side: int = 16) -> TowerSettings:
    return TowerSettings.model_validate({**TINY, **FAMILIES[family], "side": side})


def same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> bool:
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("file", "family", "image", "expected"),
    [
        ("clip.safetensors", "clip", "image", "clip"),
        ("clip.pt", "clip", "image", "clip"),
        ("siglip2.safetensors", "siglip2", "image", "siglip2"),
        # Theirs interpolates positions with antialiasing, so only its own size is compared.
        ("dinov2_registers.safetensors", "dinov2_registers", "openai_image", "dinov2_registers"),
        ("openai.pt", "clip", "openai_image", "openai"),
    ],
)
def test_the_tokens_are_those_of_other_implementations(file, family, image, expected):
    from delg.network.vit import ViT

    outputs = np.load(DATA / "outputs.npz")
    pixels = outputs[image]
    tower = spec(family, len(pixels))
    model = ViT(tower)
    model.load(read_tower_weights(DATA / file, tower), file)
    tokens = np.asarray(model.tokens(pixels[None]))[0]
    np.testing.assert_allclose(tokens, outputs[expected], atol=1e-4)
    pooled = np.asarray(model(pixels[None]))[0]
    halves = [tokens[model.prefix :].mean(axis=0)]
    halves = [tokens[0], *halves] if tower.class_token else halves
    units = np.concatenate([half / np.linalg.norm(half) for half in halves])
    np.testing.assert_allclose(pooled, units, atol=1e-5)


def test_other_names_of_the_same_weights(tmp_path):
    plain = load_file(DATA / "clip.safetensors")
    expected = read_tower_weights(DATA / "clip.safetensors", spec())
    text = {"text_model.embeddings.position_ids": np.zeros((1, 7), np.int64),
            "logit_scale": np.ones(1, np.float32)}  # fmt: skip
    whole = {f"vision_model.{name}": value for name, value in plain.items()}
    save_file(whole | text, tmp_path / "hub.safetensors")
    assert same(read_tower_weights(tmp_path / "hub.safetensors", spec()), expected)

    dino = spec("dinov2_registers")
    tensors = load_file(DATA / "dinov2_registers.safetensors")
    expected = read_tower_weights(DATA / "dinov2_registers.safetensors", dino)
    older = {
        name.replace("attention.q_proj", "attention.attention.query")
        .replace("attention.k_proj", "attention.attention.key")
        .replace("attention.v_proj", "attention.attention.value")
        .replace("attention.o_proj", "attention.output.dense"): value
        for name, value in tensors.items()
    }
    save_file(older, tmp_path / "older.safetensors")
    assert same(read_tower_weights(tmp_path / "older.safetensors", dino), expected)


def test_weights_quantised_in_onnx_are_read_as_what_they_stand_for(tmp_path):
    plain = load_file(DATA / "clip.safetensors")
    expected = read_tower_weights(DATA / "clip.safetensors", spec())
    constants, nodes = {}, []
    for number, (name, value) in enumerate(plain.items()):
        name = f"vision_model.{name}"
        if value.ndim != 2 or "embedding" in name:
            constants[name] = value
            continue
        stem, scale = f"onnx::MatMul_{number}", np.abs(value).max(axis=1) / 127
        quantised = np.rint(value.T / scale)
        constants[f"{stem}_quantized"] = quantised.astype(np.int8)
        constants[f"{stem}_scale"] = scale.astype(np.float32)
        constants[f"{stem}_zero_point"] = np.zeros(len(scale), np.int8)
        ours = tower_weights._rename(
            name.removeprefix("vision_model."), (quantised * scale.astype(np.float32)).T
        )
        expected |= {key: part.astype(np.float32) for key, part in ours.items()}
        path = "/" + name.removesuffix(".weight").replace(".layers.", ".layers#").replace(
            ".", "/"
        ).replace("layers#", "layers.")
        nodes.append(
            helper.make_node(
                "MatMulInteger", ["x", f"{stem}_quantized"], [stem], f"{path}/MatMul_quant"
            )
        )
    graph = helper.make_graph(
        nodes, "g", [], [],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph), tmp_path / "tower.onnx")
    weights = read_tower_weights(tmp_path / "tower.onnx", spec())
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6, err_msg=name)


class Call:
    """Pickled, it asks for a call."""

    def __init__(self, function, *arguments) -> None:
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


def torch_file(path: Path, description: bytes, storage: bytes = bytes(64), **how) -> Path:
    with zipfile.ZipFile(path, "w", **how) as archive:
        archive.writestr("x/data.pkl", description)
        archive.writestr("x/data/0", storage)
    return path


def tensor(shape: bytes, strides: bytes, count: int = 16, offset: int = 0) -> bytes:
    """A pickle {"t": tensor} over storage 0."""
    return (
        b"\x80\x02}X\x01\x00\x00\x00tctorch._utils\n_rebuild_tensor_v2\n("
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + f"I{count}\n".encode()
        + b"tQ"
        + f"I{offset}\n".encode()
        + shape + strides + b"\x89}tRs."
    )  # fmt: skip


HOSTILE = {
    "calls": (pickle.dumps({"t": Call(os.mkdir, "marker")}), "posix.mkdir"),
    "builtins": (pickle.dumps({"t": Call(eval, "1")}), "builtins.eval"),
    "memo": (b"\x80\x02r\xff\xff\xff\x7f.", "memory"),
    "instance": (b"(S'marker'\nios\nmkdir\n.", "INST"),
    "beyond": (tensor(b"(I99\nt", b"(I1\nt"), "beyond its data"),
    "backwards": (tensor(b"(I4\nt", b"(I-1\nt"), "not described"),
    "offset": (tensor(b"(I4\nt", b"(I1\nt", offset=-3), "not described"),
    "longer": (tensor(b"(I4\nt", b"(I1\nt", count=10**9), "not as long"),
    "cut": (tensor(b"(I4\nt", b"(I1\nt")[:-9], "not a readable"),
    "no tower": (tensor(b"(I4\nt", b"(I1\nt"), "no vision transformer"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_files_that_mean_harm_are_refused_and_nothing_is_run(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    data, message = HOSTILE[kind]
    with pytest.raises(ModelError, match=message):
        read_tower_weights(torch_file(tmp_path / "x.pt", data), spec())
    assert not (tmp_path / "marker").exists()


def test_other_files_are_refused_with_their_name(tmp_path, monkeypatch):
    path = tmp_path / "x.pt"
    for content, message in (
        (pickle.dumps([1]), "a bare pickle"),
        (b"no weights at all", "neither PyTorch's"),
        (b"", "no vision transformer|neither"),
        (b"\x10" + bytes(7) + b"{}", "safetensors"),
    ):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=message):
            read_tower_weights(path, spec())
    with pytest.raises(ModelError, match="no such file"):
        read_tower_weights(tmp_path / "nowhere", spec())
    torch_file(path, pickle.dumps({}), bytes(1 << 20), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelError, match="compressed"):
        read_tower_weights(path, spec())
    monkeypatch.setattr(tower_weights, "MAX_BYTES", 10)
    with pytest.raises(ModelError, match="larger than"):
        read_tower_weights(path, spec())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_are_errors_that_name_them(tmp_path_factory, data):
    original = (DATA / "clip.pt").read_bytes()
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(damaged[: data.draw(st.sampled_from([len(damaged), len(damaged) // 2]))])
    try:
        read_tower_weights(path, spec())
    except ModelError as error:
        assert str(path) in str(error)


def test_weights_that_do_not_fit_the_settings_are_named(tmp_path):
    from delg.network.vit import ViT

    weights = read_tower_weights(DATA / "clip.safetensors", spec())
    with pytest.raises(ModelError, match="missing block2/"):
        ViT(spec().model_copy(update={"depth": 3})).load(weights, "clip")
    with pytest.raises(ModelError, match=r"positions is \(17, 16\), the settings need \(26, 16\)"):
        ViT(spec().model_copy(update={"grid": 5})).load(weights, "clip")
