"""Weights of vision transformers under one set of names, from the files they are published in.

Files: PyTorch (``.pt``, TorchScript or a dict of tensors), safetensors, and ONNX, float or with
dynamically quantised weights. Names: OpenAI's CLIP and OpenCLIP, Hugging Face's CLIP, SigLIP and
DINOv2, and DINOv2's own. Which of them a file has is told from its content.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from delg.errors import ModelError
from delg.limits import MIB
from delg.paths import is_file
from delg.settings import TowerSettings
from delg.zoo.torch_file import read_torch_file

# Larger than any file of a tower that a processor runs in reasonable time.
MAX_BYTES = 4096 * MIB
# In files of image and text towers, the image tower; the first that occurs.
_PREFIXES = ("vision_model.", "visual.")
_BLOCK = re.compile(r"(?:transformer\.resblocks|encoder\.layers?|blocks)\.(\d+)\.(.+)")
# Regular expressions of names, with what they are called here.
_OUTSIDE = {
    r"(?:embeddings\.)?(?:class_embedding|cls_token)": "class_token",
    r"positional_embedding|pos_embed|embeddings\.position_embeddings?(?:\.weight)?": "positions",
    r"(?:embeddings\.)?register_tokens": "registers",
    r"(?:conv1|patch_embed\.proj|embeddings\.patch_embeddings?(?:\.projection)?)": "patches",
    r"ln_pre|pre_layrnorm": "pre_norm",
    r"ln_post|post_layernorm|layernorm|norm": "final_norm",
}
_INSIDE = {
    r"ln_1|layer_norm1|norm1": "norm1",
    r"ln_2|layer_norm2|norm2": "norm2",
    r"attn\.(?:in_proj|qkv)": "joint",
    r"(?:self_attn|attention)\.q_proj|attention\.attention\.query": "query",
    r"(?:self_attn|attention)\.k_proj|attention\.attention\.key": "key",
    r"(?:self_attn|attention)\.v_proj|attention\.attention\.value": "value",
    r"(?:attn|self_attn|attention)\.(?:out_proj|o_proj|proj)|attention\.output\.dense": "output",
    r"mlp\.(?:c_fc|fc1)": "mlp1",
    r"mlp\.(?:c_proj|fc2)": "mlp2",
    r"ls1\.gamma|layer_scale1\.lambda1": "scale1",
    r"ls2\.gamma|layer_scale2\.lambda2|layer_scale2\.lambda1": "scale2",
}
# What only other uses of these models need.
_UNUSED = re.compile(
    r"proj|head\..*|attn_pool\..*|visual_projection\..*|(?:embeddings\.)?mask_token|.*position_ids"
    r"|input_resolution|.*\.attn_mask"
)
_LEAF = re.compile(r"(.*?)[._](weight|bias)")
_NORM_NAMES = {"weight": "gamma", "bias": "beta"}
_DENSE_NAMES = {"weight": "kernel", "bias": "bias"}


def read_tower_weights(path: Path, spec: TowerSettings) -> dict[str, np.ndarray]:
    """The weights of a tower, float32, by the names of :class:`delg.network.vit.ViT`.

    Positions are as they were trained, for ``spec.grid``.

    Raises:
        ModelError: the file cannot be read, or holds none of the transformers that are known.
    """
    tensors = _image_tower(_read_file(path))
    weights: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        weights |= _rename(name, tensor)
    if "positions" not in weights or "patches/kernel" not in weights:
        known = ", ".join(sorted(tensors)[:3]) or "none"
        raise ModelError(f"{path}: holds no vision transformer that is known here (names: {known})")
    if not spec.final_norm:
        weights = {name: v for name, v in weights.items() if not name.startswith("final_norm/")}
    return {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()}


def _read_file(path: Path) -> dict[str, np.ndarray]:
    if not is_file(path):
        raise ModelError(f"{path}: no such file")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    if size > MAX_BYTES:
        raise ModelError(f"{path}: is larger than {MAX_BYTES >> 30} GiB")
    if zipfile.is_zipfile(path):
        return read_torch_file(path)
    # A safetensors file begins with the length of its header, which is JSON.
    if start[8:9] == b"{":
        return _read_safetensors(path)
    if start[:1] in (b"\x80", b"("):
        raise ModelError(
            f"{path}: a bare pickle, which is not read, as it could run anything; take the "
            "safetensors file of the same model"
        )
    return _read_onnx(path)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{path}: not readable as safetensors ({error})") from None


def _read_onnx(path: Path) -> dict[str, np.ndarray]:
    """Constants of a graph by name; the weights of matrix products, which exporters give no name,
    by that of their node, as PyTorch lays them out."""
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import numpy_helper

    try:
        graph = onnx.load(path, load_external_data=False).graph
        constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
        tensors = {name: value for name, value in constants.items() if "::" not in name}
        for node in graph.node:
            if node.op_type in ("MatMul", "MatMulInteger", "Gemm") and node.input[1] in constants:
                name = re.sub(r"/(MatMul|Gemm)[^/]*$", "", node.name).strip("/").replace("/", ".")
                tensors[f"{name}.weight"] = _dequantised(node.input[1], constants).T
    except (DecodeError, ValueError, TypeError, OSError, LookupError) as error:
        raise ModelError(
            f"{path}: neither PyTorch's, nor safetensors, nor a readable ONNX file ({error})"
        ) from None
    return tensors


def _dequantised(name: str, constants: dict[str, np.ndarray]) -> np.ndarray:
    """A weight matrix (inputs, outputs), float32."""
    values, stem = constants[name].astype(np.float32), name.removesuffix("_quantized")
    if stem == name:
        return values
    return (values - constants[f"{stem}_zero_point"]) * constants[f"{stem}_scale"]


def _image_tower(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without the text tower, and without the prefix that tells them apart."""
    for prefix in _PREFIXES:
        inside = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        if inside:
            return inside
    return tensors


def _rename(name: str, tensor: np.ndarray) -> dict[str, np.ndarray]:
    """One tensor of a file as variables here; under its own name if it is not known."""
    if _UNUSED.fullmatch(name):
        return {}
    block = _BLOCK.fullmatch(name)
    rules, rest, prefix = _OUTSIDE, name, ""
    if block:
        rules, rest, prefix = _INSIDE, block[2], f"block{block[1]}/"
    leaf = _LEAF.fullmatch(rest)
    for candidate, kind in ((rest, ""), (leaf[1], leaf[2]) if leaf else (rest, "")):
        for pattern, ours in rules.items():
            if re.fullmatch(pattern, candidate):
                return dict(_variables(f"{prefix}{ours}", kind, tensor))
    return {name: tensor}


def _variables(name: str, kind: str, tensor: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    part = name.rsplit("/", 1)[-1]
    if part in ("class_token", "scale1", "scale2"):
        yield name, tensor.reshape(-1)
    elif part in ("positions", "registers"):
        yield name, tensor.reshape(-1, tensor.shape[-1])
    elif part == "patches":
        yield (
            f"{name}/{_DENSE_NAMES[kind]}",
            (tensor.transpose(2, 3, 1, 0) if kind == "weight" else tensor),
        )
    elif part.endswith(("norm", "norm1", "norm2")):
        yield f"{name}/{_NORM_NAMES[kind]}", tensor
    elif part == "joint":
        for head, value in zip(("query", "key", "value"), np.split(tensor, 3), strict=True):
            yield from _variables(name.replace("joint", head), kind, value)
    else:
        yield f"{name}/{_DENSE_NAMES[kind]}", tensor.T
