"""Settings of models and extraction. Every default lives here; YAML files only override."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from delg.errors import UsageError
from delg.extraction.match_kernel import aggregated_dim
from delg.plain_values import parse_yaml, read_text

logger = logging.getLogger(__name__)

Positive = Annotated[float, Field(gt=0)]
# Beyond it, numbers in JSON are not exact, and libraries written in C take none.
_MAX_INTEGER = 1 << 53


# Up here, as the defaults of sections are validated while their classes are made.
def with_present_keys(
    kind: type[Settings], values: Any, origin: str, warn: bool = True, section: str = ""
) -> Any:
    """``values`` with every deprecated key, at any depth, under its present name.

    Plain values must be brought to present names before they are merged with others.

    Args:
        kind: the settings that they are of.
        values: plain values by key, as read from YAML; they need not be complete or valid.
        origin: names their source in messages.
        warn: log a warning for each deprecated key.
        section: of the values within the settings, for messages.

    Raises:
        UsageError: a key is given under both of its names.
    """
    if not isinstance(values, dict):
        return values
    result = {}
    for key, value in values.items():
        name = kind.deprecated_keys.get(key, key) if isinstance(key, str) else key
        if name is None:
            if warn:
                logger.warning("%s: %s has no effect any more", origin, section + key)
            continue
        if name != key:
            if name in values:
                raise UsageError(
                    f"{origin}: {section}{key} is the former name of {section}{name}; "
                    "give only the latter"
                )
            if warn:
                logger.warning(
                    "%s: %s is deprecated, write %s", origin, section + key, section + name
                )
        field = kind.model_fields.get(name) if isinstance(name, str) else None
        inner = None if field is None else _settings_in(field.annotation)
        if inner is not None:
            value = with_present_keys(inner, value, origin, warn, f"{section}{name}.")
        result[name] = value
    return result


def _settings_in(annotation: Any) -> type[Settings] | None:
    """The kind of settings that a field holds, be it optional; None for other fields."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Settings):
            return kind
    return None


class Settings(BaseModel):
    """Immutable settings; an unknown key is an error that names it.

    Attributes:
        deprecated_keys: former names of keys, with their present ones. They are still read, with a
            warning. None: keys that no longer have an effect.
    """

    # Infinity is no JSON: what records settings could not read it back.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    deprecated_keys: ClassVar[Mapping[str, str | None]] = {}

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, values: Any) -> Any:
        return with_present_keys(cls, values, "settings")

    @model_validator(mode="after")
    def _check_numbers(self) -> Settings:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, int) and abs(value) > _MAX_INTEGER:
                raise ValueError(f"{name} must be between -2^53 and 2^53")
        return self


class InputSettings(Settings):
    """How uint8 pixels become the network's input: ``(value - mean) / std``, channel by channel."""

    # Subtracted from each channel.
    mean: tuple[float, float, float] = (128.0, 128.0, 128.0)
    # Each channel is divided by it.
    std: tuple[Positive, Positive, Positive] = (128.0, 128.0, 128.0)
    # Order of the channels that the network takes.
    channel_order: Literal["rgb", "bgr"] = "rgb"


class GlobalHeadSettings(Settings):
    """GeM pooling and the whitening layer (Radenovic et al., arXiv 1711.02512)."""

    # Width of the global descriptor.
    dim: int = Field(2048, ge=1)
    # Power of generalised-mean pooling; 1 is the average, infinity the maximum.
    gem_p: float = Field(3.0, ge=1, allow_inf_nan=True)
    # Learn the power in training.
    gem_p_trainable: bool = False
    # L2-normalise the pooled vector before whitening, as whitening learnt by PCA needs.
    normalize_pooled: bool = False


class LocalHeadSettings(Settings):
    """Local descriptors and their scores."""

    # The network's own local features, or RootSIFT.
    kind: Literal["delg", "sift"] = "delg"
    # Width of the local descriptors.
    dim: int = Field(128, ge=1)
    # "learned": by two convolutions. "norm": the score of a cell is the L2 norm of its mid-level
    # feature; nothing is learnt.
    attention: Literal["learned", "norm"] = "learned"
    # Channels between the two convolutions of the attention.
    attention_hidden: int = Field(512, ge=1)
    # Learnt scores are multiplied by the L2 norm of the mid-level feature to this power.
    attention_norm_power: float = Field(0.0, ge=0, le=8)
    # The published decoder ends in ReLU, which fits a map that is itself behind a ReLU.
    decoder_activation: Literal["relu", "linear"] = "relu"
    # SIFT looks at the photo itself, resized to this; the network's smaller input has too few
    # pixels for it.
    sift_longest_side: int = Field(1024, ge=32)


class ExtractionSettings(Settings):
    """Which scales are run and which features are kept."""

    # The longest side of the photo at scale 1, in pixels.
    longest_side: int = Field(1024, ge=32)
    # Enlarge smaller photos to that side.
    enlarge: bool = False
    # Levels of the image pyramid that give local features.
    scales: tuple[float, ...] = (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0)
    # Scores of each of these levels are multiplied by its weight before the best are chosen; larger
    # for small scales, it evens out that fine levels have most of the cells.
    scale_weights: tuple[Positive, ...] | None = None
    # Levels whose global descriptors are added up.
    global_scales: tuple[float, ...] = (0.7071, 1.0, 1.4142)
    # Local features kept per photo, the best by score.
    max_features: int = Field(1000, ge=0)
    # Local features below this score are dropped.
    min_score: float = 0.0
    # Cells along the border of each level that give no local features: they see mostly padding,
    # and look alike in photos of different things.
    border_cells: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check_scales(self) -> ExtractionSettings:
        for name in ("scales", "global_scales"):
            scales = getattr(self, name)
            finite = all(0 < scale < math.inf for scale in scales)
            if not scales or not finite or len(set(scales)) != len(scales):
                raise ValueError(f"{name} must be one or more different positive numbers")
        if self.scale_weights is not None and len(self.scale_weights) != len(self.scales):
            raise ValueError("scale_weights must be one number per scale of scales")
        return self

    @property
    def weight_by_scale(self) -> dict[float, float]:
        """What the scores of each of ``scales`` are multiplied by."""
        return dict(zip(self.scales, self.scale_weights or [1.0] * len(self.scales), strict=True))


class PcaSettings(Settings):
    """A projection of local descriptors, from ``.datum`` files in the model's folder."""

    # File of the mean.
    mean: str
    # File of the projection.
    matrix: str
    # Components that are kept.
    dim: int = Field(40, ge=1)
    # With the file of the variances, components are scaled to equal variance (whitening).
    variances: str | None = None


class ExportSettings(Settings):
    """A SavedModel that does the work of backbone and heads; see
    :mod:`delg.inference.saved_model`."""

    # The published archive that holds it, without ``.tar.gz``.
    archive: str = ""
    # Folder of the SavedModel, inside the model's folder.
    folder: str = "."
    # Whether it gives local features.
    has_local: bool = True
    # Whether it gives a global descriptor.
    has_global: bool = True
    # Whether ``extraction.border_cells`` is built into it.
    crops_border: bool = False
    # Projects its local descriptors.
    pca: PcaSettings | None = None

    @model_validator(mode="after")
    def _check_heads(self) -> ExportSettings:
        if not (self.has_local or self.has_global):
            raise ValueError("a model without any head gives nothing")
        return self


class AggregateSettings(Settings):
    """Local descriptors, aggregated, as a part of the global descriptor: VLAD (Jégou et al., CVPR
    2010) with few words; see :mod:`delg.extraction.local_aggregate`."""

    # Local descriptors that are aggregated, the best by score, however many are kept.
    max_features: int = Field(1000, ge=1)
    # Visual words over which residuals are summed.
    words: int = Field(32, ge=1, le=4096)
    # Hidden channels of the attention that says how much each descriptor counts; 0: all alike.
    attention_hidden: int = Field(0, ge=0, le=4096)
    # Width that the sums are adapted to; the global descriptor is as much wider than the network's.
    adapted_dim: int = Field(768, ge=1)


class TowerSettings(Settings):
    """A vision transformer (Dosovitskiy et al., arXiv 2010.11929) as a second global descriptor.

    It sees the photo, or the query's box, squeezed into a square. Its class token and the mean of
    its patch tokens, adapted by within-class whitening, are joined with the other global
    descriptor; see :mod:`delg.extraction.two_towers`.
    """

    # Name of its weights in the cache.
    weights: str
    # Address of the published weights.
    url: str = ""
    # SHA-256 of that file.
    sha256: str = Field("", pattern="^([0-9a-f]{64})?$")
    # Side of the square that it sees, in pixels, a multiple of ``patch``.
    side: int = Field(320, ge=16)
    # How its pixels are scaled.
    input: InputSettings = InputSettings()
    # Side of a patch, in pixels.
    patch: int = Field(16, ge=1)
    # Patches along a side of the square that it was trained on; positions are interpolated.
    grid: int = Field(14, ge=1)
    # Width of the tokens.
    width: int = Field(768, ge=1)
    # Number of blocks.
    depth: int = Field(12, ge=1)
    # Number of attention heads.
    heads: int = Field(12, ge=1)
    # Hidden units of the perceptrons.
    hidden: int = Field(3072, ge=1)
    # Between their layers; "gelu_tanh" is the approximation by tanh.
    activation: Literal["gelu", "gelu_tanh", "quick_gelu"] = "quick_gelu"
    # Added to the variance by layer norms.
    epsilon: Positive = 1e-5
    # Whether there is a class token.
    class_token: bool = True
    # Number of register tokens (Darcet et al., arXiv 2309.16588).
    registers: int = Field(0, ge=0)
    # A bias at the patches, as all but CLIP have.
    patch_bias: bool = False
    # A layer norm before the first block, as CLIP has.
    pre_norm: bool = True
    # A layer norm after the last block.
    final_norm: bool = False
    # A learnt scale of each branch, as DINOv2 has.
    layer_scale: bool = False
    # Width that its tokens are adapted to, and of the joint descriptor.
    adapted_dim: int = Field(512, ge=1)
    dim: int = Field(768, ge=1)
    # int8: weights in 8 bits, and activations by their range in each photo.
    precision: Literal["float32", "int8"] = "int8"

    @property
    def pooled_dim(self) -> int:
        """Width of the class token, if there is one, and the mean patch token, joined."""
        return self.width * (2 if self.class_token else 1)

    @model_validator(mode="after")
    def _check_sizes(self) -> TowerSettings:
        if self.side % self.patch or self.width % self.heads:
            raise ValueError("side must be a multiple of patch, and width one of heads")
        if self.adapted_dim > self.pooled_dim:
            raise ValueError(f"adapted_dim must be at most {self.pooled_dim}")
        return self


class ModelSettings(Settings):
    """Everything that defines a model apart from its weights."""

    # The model's name; it is no part of the fingerprint.
    name: str
    # One line for `delg model list`.
    description: str = ""
    # One of `delg/network/backbones/`.
    backbone: str = "resnet50"
    # Pool the middle map of a ResNet by 2 in place of the stride of its last block.
    block3_strides: bool = False
    input: InputSettings = InputSettings()
    global_head: GlobalHeadSettings = GlobalHeadSettings()
    local_head: LocalHeadSettings = LocalHeadSettings()
    extraction: ExtractionSettings = ExtractionSettings()
    # int8: the network runs from a quantised network.onnx beside the weights.
    precision: Literal["float32", "int8"] = "float32"
    # DELF: the network ends at the local head; the aggregate of the local descriptors stands for a
    # global one.
    local_only: bool = False
    # With it, the rest describes what the SavedModel gives.
    export: ExportSettings | None = None
    # The local descriptors, which have a part in the global one.
    aggregate: AggregateSettings | None = None
    # A second tower, which has a part in the global descriptor.
    tower: TowerSettings | None = None
    # Local features with lower scores lie on plain surfaces; photos with few others are said to be
    # too plain. It is no part of the fingerprint.
    texture_score: float = Field(0.0, ge=0)
    # Digest of the network.onnx that had the same weights and selected local features by their
    # norm: what it made can be compared with what this model makes. No part of the fingerprint.
    selected_by_norm: str | None = None

    @property
    def global_dim(self) -> int:
        """Width of the global descriptor."""
        return self.first_dim if self.tower is None else self.tower.dim

    @property
    def first_dim(self) -> int:
        """Width of the global descriptor that a second tower's is joined with."""
        adapted = 0 if self.aggregate is None else self.aggregate.adapted_dim
        return self.global_head.dim + adapted

    @property
    def has_global(self) -> bool:
        """Whether there is a global head; else the local descriptors are aggregated."""
        return not self.local_only and (self.export is None or self.export.has_global)

    @model_validator(mode="after")
    def _check_precision(self) -> ModelSettings:
        if self.export is not None and self.precision != "float32":
            raise ValueError("a SavedModel runs as it was exported; leave precision out")
        if self.export is not None and self.extraction.scale_weights is not None:
            raise ValueError("a SavedModel selects features itself; leave scale_weights out")
        return self

    @model_validator(mode="after")
    def _check_aggregate(self) -> ModelSettings:
        if self.aggregate is not None:
            if self.export is not None or self.local_only or self.local_head.kind != "delg":
                raise ValueError("aggregate goes with a network of ours that has both heads")
            width = self.aggregate.words * self.local_head.dim
            if self.aggregate.adapted_dim > width:
                raise ValueError(
                    f"aggregate.adapted_dim must be at most {width}, words × local_head.dim"
                )
        return self

    @model_validator(mode="after")
    def _check_tower(self) -> ModelSettings:
        if self.tower is not None:
            if self.export is not None or self.local_only:
                raise ValueError("tower goes with a network of ours that has a global head")
            if self.tower.dim > self.first_dim + self.tower.adapted_dim:
                raise ValueError("tower.dim is more than both descriptors have")
        return self

    @model_validator(mode="after")
    def _check_local_only(self) -> ModelSettings:
        if self.local_only:
            local, width = self.local_head, aggregated_dim(self.local_head.dim)
            if self.export is not None or local.kind != "delg":
                raise ValueError("local_only needs local_head.kind: delg and no export")
            if self.global_head.dim != width:
                raise ValueError(
                    f"local_only needs global_head.dim: {width}, the width of the aggregate of "
                    f"descriptors of width {local.dim}"
                )
        return self


class ImageSettings(Settings):
    """Which files are read as photos, and up to what size."""

    # Photos of more pixels are refused. Beyond the ceiling, which is Pillow's, the header alone is
    # refused.
    max_pixels: int = Field(100_000_000, ge=100, le=178_000_000)
    # Photos that take more memory to decode, in MB and besides their RGB pixels, are refused.
    max_decode_mb: int = Field(512, ge=16)
    # Photos with a shorter side, in pixels, are refused.
    min_side: int = Field(10, ge=1)


S = TypeVar("S", bound=Settings)


def parse(kind: type[S], values: Any, origin: str, recorded: bool = False) -> S:
    """Validate ``values`` as settings of that kind.

    Args:
        kind: of the settings.
        values: plain values by key.
        origin: names their source in messages.
        recorded: an earlier version of the program wrote them; deprecated keys are nobody's fault.

    Raises:
        UsageError: a key is unknown or a value does not fit; the message names the origin, the
            key and what was expected.
    """
    values = with_present_keys(kind, values, origin, warn=not recorded)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors()
        )
        raise UsageError(f"{origin}: {problems}") from None


def read_yaml(path: str | Path) -> Any:
    """The plain values in a YAML file; an empty file is ``{}``.

    Raises:
        UsageError: the file is missing, too large or not YAML.
    """
    try:
        values = parse_yaml(read_text(path))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    return {} if values is None else values


def read_settings(kind: type[S], path: str | Path) -> S:
    """Read settings of that kind from a YAML file; see :func:`parse`."""
    return parse(kind, read_yaml(path), str(path))
