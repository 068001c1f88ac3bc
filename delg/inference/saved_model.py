"""Extraction with a SavedModel made elsewhere: the published DELG and DELF exports, and ours.

Two ways to call them are known. Newer ones have the signature ``serving_default``; those of 2019
and 2020 are graphs of TensorFlow 1, of which the part between named tensors is cut out. Both take

    input_image              uint8 (H, W, 3), RGB, not larger than the model likes
    input_scales             float32 (S,)
    input_max_feature_num    int32, and input_abs_thres float32: which local features are kept
    input_global_scales_ind  int32 (G,), which of the scales give global descriptors

and give ``boxes`` (N, 4), (y0, x0, y1, x1) around the keypoints in pixels of that image,
``features`` (N, d), ``scales`` (N,), 1 / that of the level, ``scores`` (N, 1) and
``global_descriptors`` (G, D). DELF has no global ones; its local ones are projected by a PCA that
comes in files beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from delg.delf_files import read_datum
from delg.errors import ModelError
from delg.extraction.extractor import Extractor, Prepared, aggregate_or_refuse, best
from delg.forks import OneProcess
from delg.images.decode import ImageError
from delg.images.pyramid import Level
from delg.settings import ExportSettings, ImageSettings, ModelSettings, PcaSettings
from delg.types import FloatArray, LocalFeatures, invert_scales

SIGNATURE = "serving_default"
LOCAL_INPUTS = ("input_max_feature_num", "input_abs_thres")
LOCAL_OUTPUTS = ("boxes", "features", "scales", "scores")
GLOBAL_INPUT, GLOBAL_OUTPUT = "input_global_scales_ind", "global_descriptors"
# As published, a photo with a side shorter than this after shrinking has no features.
_MIN_SIDE = 10
# Side, in pixels, and scale of the level by which a model shows what its scales mean.
_PROBE_SIDE, _PROBE_SCALE = 256, 0.5
_TINY = 1e-12
_DTYPES = {
    "input_image": tf.uint8,
    "input_images": tf.uint8,
    "input_scales": tf.float32,
    "input_max_feature_num": tf.int32,
    "input_abs_thres": tf.float32,
    GLOBAL_INPUT: tf.int32,
}
Call = Callable[[Mapping[str, object]], Mapping[str, np.ndarray]]


def unit(vectors: FloatArray) -> FloatArray:
    """Rows (N, d) scaled to unit length; a row of zeros stays."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _TINY)


class Projection:
    """The PCA of local descriptors that comes with DELF: unit length, project, unit length.

    Args:
        settings: names of the files and how many components to keep.
        folder: that they lie in.

    Raises:
        FeatureFileError: a file cannot be read.
        ModelError: the files do not fit each other.
    """

    def __init__(self, settings: PcaSettings, folder: Path) -> None:
        mean = read_datum(folder / settings.mean).ravel()
        matrix = read_datum(folder / settings.matrix)
        if matrix.ndim != 2 or matrix.shape[1] != len(mean) or len(matrix) < settings.dim:
            raise ModelError(
                f"{folder / settings.matrix}: a matrix of shape {matrix.shape} does not project "
                f"{len(mean)} numbers to {settings.dim}"
            )
        self._mean, self._matrix = mean, matrix[: settings.dim].T
        if settings.variances is not None:
            variances = read_datum(folder / settings.variances).ravel()[: settings.dim]
            if len(variances) < settings.dim or variances.min() <= 0:
                raise ModelError(
                    f"{folder / settings.variances}: must hold {settings.dim} positive variances"
                )
            self._matrix = self._matrix / np.sqrt(variances)

    def __call__(self, descriptors: FloatArray) -> FloatArray:
        """Descriptors (N, C) -> (N, dim), unit length.

        Raises:
            ModelError: they are of another width than the PCA.
        """
        if descriptors.shape[1] != len(self._mean):
            raise ModelError(
                f"the model gives {descriptors.shape[1]} numbers a feature, its PCA is for "
                f"{len(self._mean)}"
            )
        return unit((unit(descriptors) - self._mean) @ self._matrix)


def load_export(folder: Path, settings: ExportSettings) -> Call:
    """A SavedModel as a function from inputs to outputs, both by name.

    Args:
        folder: that holds ``saved_model.pb``.
        settings: which heads it should have.

    Raises:
        ModelError: it cannot be loaded, or has neither way to be called.
    """
    inputs: list[str] = ["input_image", "input_scales"]
    outputs: list[str] = []
    if settings.has_local:
        inputs += LOCAL_INPUTS
        outputs += LOCAL_OUTPUTS
    if settings.has_global:
        inputs.append(GLOBAL_INPUT)
        outputs.append(GLOBAL_OUTPUT)
    try:
        return load_by_names(folder, inputs, outputs)
    except _MissingNamesError as error:
        raise ModelError(
            f"{error}; if it has one head only, say so in its settings.yaml (export.has_local, "
            "export.has_global)"
        ) from None


class _MissingNamesError(ModelError):
    """A SavedModel has neither signature nor tensors of the names."""


def load_by_names(folder: Path, inputs: list[str], outputs: list[str]) -> Call:
    """A SavedModel as a function of its inputs, by their names in a signature or of its tensors.

    Args:
        folder: that holds ``saved_model.pb``.
        inputs, outputs: the names.

    Raises:
        ModelError: it cannot be loaded, or has no such names.
    """
    try:
        model = tf.saved_model.load(str(folder))
    except Exception as error:  # TensorFlow raises all sorts of errors on damaged models.
        raise ModelError(f"{folder}: not a SavedModel that can be loaded ({error})") from None
    return _by_signature(model, inputs, outputs) or _by_tensors(model, folder, inputs, outputs)


def _by_signature(model: object, inputs: list[str], outputs: list[str]) -> Call | None:
    signature = getattr(model, "signatures", {}).get(SIGNATURE)
    if signature is None:
        return None
    wanted = set(signature.structured_input_signature[1])
    if not {*inputs} <= wanted or not {*outputs} <= set(signature.structured_outputs):
        return None
    # A model with both heads wants all inputs, whichever of its outputs are of use.
    spare = {GLOBAL_INPUT: [0], "input_max_feature_num": 1, "input_abs_thres": np.inf}
    missing = {name: spare[name] for name in wanted - {*inputs} if name in spare}

    def call(values: Mapping[str, object]) -> Mapping[str, np.ndarray]:
        result = signature(**_tensors({**missing, **values}))
        return {name: result[name].numpy() for name in outputs}

    # What is loaded must outlive its signatures.
    call.model = model  # type: ignore[attr-defined]
    return call


def _by_tensors(model: object, folder: Path, inputs: list[str], outputs: list[str]) -> Call:
    try:
        pruned = model.prune(  # type: ignore[attr-defined]
            [f"{name}:0" for name in inputs], [f"{name}:0" for name in outputs]
        )
    except (AttributeError, KeyError, ValueError) as error:
        raise _MissingNamesError(
            f"{folder}: has no signature {SIGNATURE!r} and no tensors called {', '.join(inputs)} "
            f"and {', '.join(outputs)} ({error})"
        ) from None

    def call(values: Mapping[str, object]) -> Mapping[str, np.ndarray]:
        tensors = _tensors(values)
        result = pruned(*(tensors[name] for name in inputs))
        return {name: tensor.numpy() for name, tensor in zip(outputs, result, strict=True)}

    call.model = model  # type: ignore[attr-defined]
    return call


def _tensors(values: Mapping[str, object]) -> dict[str, tf.Tensor]:
    return {name: tf.constant(value, _DTYPES[name]) for name, value in values.items()}


class ExportedExtractor(Extractor):
    """One SavedModel, ready to turn photos into features; see
    :class:`delg.extraction.extractor.Extractor`.

    The photo is shrunk as the published tools shrink it (bilinear by Pillow, and by a query's box
    in proportion), and the model runs its own pyramid.

    Args:
        folder: of the model; the SavedModel and the PCA's files lie in it.

    Raises:
        ModelError: the model does not fit its settings.
    """

    def __init__(
        self,
        folder: Path,
        settings: ModelSettings,
        fingerprint: str,
        images: ImageSettings | None = None,
    ) -> None:
        assert settings.export is not None
        self._export, self._origin = settings.export, folder
        super().__init__(None, settings, fingerprint, images)
        spec = settings.extraction
        wanted = spec.scales if self._export.has_local else ()
        self._scales = wanted or spec.global_scales
        strange = set(spec.global_scales) - set(self._scales)
        if self._export.has_global and strange:
            raise ModelError(
                f"{self.name}: extraction.global_scales has {min(strange)}, which is not among "
                "extraction.scales; this model runs one pyramid for both"
            )
        if spec.border_cells and not self._export.crops_border:
            raise ModelError(f"{self.name}: extraction.border_cells does nothing with this model")
        pca = self._export.pca
        self._project = Projection(pca, folder) if pca else unit
        self._process = OneProcess("TensorFlow")
        self._call = load_export(folder / self._export.folder, self._export)
        self._inverse_scales = self._export.has_local and self._gives_inverse_scales()

    def _gives_inverse_scales(self) -> bool:
        """Whether the model gives 1 / pyramid scale, as published; SavedModels that this package
        wrote before version 0.2 give the pyramid scale."""
        inputs: dict[str, object] = {
            "input_image": np.full((_PROBE_SIDE, _PROBE_SIDE, 3), 128, np.uint8),
            "input_scales": [_PROBE_SCALE],
            "input_max_feature_num": 1,
            "input_abs_thres": -np.inf,
        }
        if self._export.has_global:
            inputs[GLOBAL_INPUT] = [0]
        scales = np.ravel(self._call(inputs)["scales"])
        return not len(scales) or bool(scales[0] > 1)

    def _levels(self, crop: NDArray[np.uint8], side: float) -> list[Level]:
        height, width = crop.shape[:2]
        ratio = side / max(height, width)
        size = (width, height) if ratio == 1 else (round(width * ratio), round(height * ratio))
        if min(size) < _MIN_SIDE:
            raise ImageError(f"too thin: {size[0]}×{size[1]} pixels are left for the model")
        if size == (width, height):
            return [Level(1.0, np.ascontiguousarray(crop), width, height)]
        resized = Image.fromarray(crop).resize(size, Image.Resampling.BILINEAR)
        return [Level(1.0, np.asarray(resized), width, height)]

    def _features(self, photo: Prepared, all_cores: bool) -> tuple[FloatArray, LocalFeatures]:
        self._process.check()
        spec, [level] = self.settings.extraction, photo.levels
        inputs: dict[str, object] = {"input_image": level.pixels, "input_scales": self._scales}
        if self._export.has_local:
            inputs["input_max_feature_num"] = max(1, spec.max_features)
            inputs["input_abs_thres"] = spec.min_score
        if self._export.has_global:
            inputs[GLOBAL_INPUT] = [self._scales.index(scale) for scale in spec.global_scales]
        outputs = self._call(inputs)
        local = self._local(outputs, level) if self._export.has_local else None
        if self._export.has_global:
            global_descriptor = unit(np.asarray(outputs[GLOBAL_OUTPUT], np.float32)).sum(axis=0)
        else:
            assert local is not None
            global_descriptor = aggregate_or_refuse(local.descriptors)
        self._expect("global_head.dim", global_descriptor.shape[0], self.global_dim)
        return global_descriptor, LocalFeatures.empty(self.local_dim) if local is None else local

    def _local(self, outputs: Mapping[str, np.ndarray], level: Level) -> LocalFeatures:
        scores = np.asarray(outputs["scores"], np.float32).reshape(-1)
        if not len(scores):
            return LocalFeatures.empty(self.local_dim)
        boxes = np.asarray(outputs["boxes"], np.float32).reshape(-1, 2, 2)
        # Corners as (y, x); their middle is the keypoint.
        points = level.to_photo(boxes.mean(axis=1)[:, ::-1])
        points = points.clip(0, [level.width - 1, level.height - 1])
        descriptors = self._project(np.asarray(outputs["features"], np.float32))
        self._expect("local_head.dim", descriptors.shape[1], self.local_dim)
        keep = best(scores, self.settings.extraction.max_features)
        scales = np.asarray(outputs["scales"], np.float32).reshape(-1)
        if self._inverse_scales:
            scales = invert_scales(scales)
        return LocalFeatures(
            points[keep].astype(np.float32),
            descriptors[keep].astype(np.float32),
            scales[keep],
            scores[keep],
        )

    def _expect(self, key: str, given: int, said: int) -> None:
        if given != said:
            raise ModelError(
                f"{self._origin}: gives {given} numbers where its settings say {key}: {said}; "
                "put a settings.yaml with the right ones beside it"
            )
