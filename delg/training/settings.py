"""Settings of training. Every default lives here; the YAML files in ``configs/`` only override."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from delg.errors import UsageError
from delg.settings import ModelSettings, Settings, parse, read_yaml

# Of the finished model, inside ``out``.
MODEL_FOLDER = "model"

Share = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]


class Gldv2Settings(Settings):
    """Google Landmarks v2: ``train.csv`` or ``train_clean.csv`` and the tree of its images."""

    csv: Path
    images: Path


class CleaningSettings(Settings):
    """Drop labels that the model as it starts does not believe; the photos stay, unlabelled.

    A label is believed when at least ``agreement`` of a photo's ``neighbours`` nearest other
    labelled photos carry it.
    """

    neighbours: int = Field(10, ge=1)
    agreement: Share = 0.3
    side: int = Field(256, ge=32)


class DataSettings(Settings):
    """Which photos are learnt from, and how they are kept."""

    # Folders of folders; the name of the inner folder is the label.
    folders: tuple[Path, ...] = ()
    gldv2: Gldv2Settings | None = None
    # TFRecord files or patterns, in the schema of the published DELG code.
    tfrecords: tuple[str, ...] = ()
    # Folders of photos without labels: each is an instance of its own.
    unlabelled: tuple[Path, ...] = ()
    # Labels (patterns allowed) that name kinds, not instances: their photos count as unlabelled.
    kinds: tuple[str, ...] = ()
    # Labels (patterns allowed) never trained on; retrieval among their photos is the validation.
    held_out: tuple[str, ...] = ()
    held_out_photos: int = Field(80, ge=2)
    # Unlabelled photos kept out; their strongly warped twins are the other half of validation.
    held_out_unlabelled: int = Field(0, ge=0)
    # Of each trained label, photos kept out to watch the classifier; a lone photo is trained on.
    validation_share: Share = 0.0
    # Decoded photos, shrunk to this side, are kept here; without it they are decoded every time.
    cache: Path | None = None
    cache_side: int = Field(384, ge=32)
    # Cut plain borders (letterboxes) off before anything else.
    trim_borders: bool = True
    cleaning: CleaningSettings | None = None


class AugmentSettings(Settings):
    """How a photo becomes views. Shares are probabilities; ranges are inclusive."""

    side: int = Field(321, ge=32)
    # 1: plain classification. 2: pairs of views with a known warp between them.
    views: Literal[1, 2] = 1
    area: Range = (0.08, 1.0)
    aspect: Range = (0.75, 4 / 3)
    # The geometry beyond the crop: degrees, and corners moved by a share of the side.
    rotation: float = Field(0.0, ge=0, le=180)
    perspective: float = Field(0.0, ge=0, le=0.4)
    # The whole photo smaller, on top of another photo, as a cover lies on a desk.
    on_background: Share = 0.0
    occlusion: Share = 0.0
    # Brightness, contrast and saturation by up to this share; 0 leaves colours alone.
    colour: float = Field(0.0, ge=0, le=1)
    lighting: Share = 0.0
    blur: Share = 0.0
    noise: Share = 0.0
    jpeg: Share = 0.0


class ArcFaceSettings(Settings):
    """ArcFace on the global descriptor (arXiv 1801.07698); more than one centre a class makes it
    sub-centre ArcFace (Deng et al., ECCV 2020), which forgives noisy labels."""

    weight: float = Field(1.0, ge=0)
    margin: float = Field(0.1, ge=0, lt=1.5)
    scale: float = Field(45.25, gt=0)
    centres: int = Field(1, ge=1)


class InstanceSettings(Settings):
    """Each photo its own class: its two views against all other photos (InfoNCE, arXiv 1807.03748),
    among them the last ``memory`` descriptors (arXiv 1912.06798)."""

    weight: float = Field(0.0, ge=0)
    temperature: float = Field(0.1, gt=0)
    memory: int = Field(4096, ge=0)


class DescriptorSettings(Settings):
    """Cross-entropy of the plain mean of the mid-level features, whose gradient reaches the
    backbone: the first stage of DELF (arXiv 1612.06321), which the others go without."""

    weight: float = Field(0.0, ge=0)


class AttentionSettings(Settings):
    """Cross-entropy of the attention-weighted mean feature, as published."""

    weight: float = Field(1.0, ge=0)


class ReconstructionSettings(Settings):
    """Mean squared error of the autoencoder against the mid-level map."""

    weight: float = Field(10.0, ge=0)


class WarpSettings(Settings):
    """Known warps teach local descriptors to match and attention to say where they will."""

    descriptor_weight: float = Field(0.0, ge=0)
    attention_weight: float = Field(0.0, ge=0)
    temperature: float = Field(0.07, gt=0)
    # A match within this many cells is right; cells nearer than this are no negatives.
    tolerance: float = Field(1.5, gt=0)


class LossSettings(Settings):
    """The sum that is minimised."""

    arcface: ArcFaceSettings = ArcFaceSettings()
    instance: InstanceSettings = InstanceSettings()
    descriptor: DescriptorSettings = DescriptorSettings()
    attention: AttentionSettings = AttentionSettings()
    reconstruction: ReconstructionSettings = ReconstructionSettings()
    warps: WarpSettings = WarpSettings()


class TrainableSettings(Settings):
    """What learns. Batch norms learn nothing unless asked."""

    # Layers of the backbone from this block on (``block11``, ``conv4_block1``); "all" or "none".
    backbone_from: str = "all"
    batch_norm: Literal["frozen", "trained"] = "frozen"


class OptimiserSettings(Settings):
    """SGD or AdamW with warm-up and decay. Weight decay is decoupled (arXiv 1711.05101)."""

    kind: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(0.01, gt=0)
    # The backbone learns at this multiple of the rate of the heads.
    backbone_factor: float = Field(1.0, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float | None = Field(10.0, gt=0)
    warmup_steps: int = Field(0, ge=0)
    decay: Literal["linear", "cosine", "constant"] = "linear"
    # Share of the old average kept a step; validation and the final model use the average.
    average: float | None = Field(None, gt=0, lt=1)


class LoopSettings(Settings):
    """How long, how often, on what."""

    steps: int = Field(500_000, ge=1)
    # Photos a step; each gives ``augment.views`` images.
    batch: int = Field(32, ge=1)
    # Of them, drawn class by class so that large classes do not rule; the rest come in turn.
    balanced: Share = 0.0
    # A step adds up the gradients of this many parts of its batch.
    accumulate: int = Field(1, ge=1)
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    # Share each batch among all GPUs of this machine.
    mirrored: bool = False
    threads: int = Field(2, ge=1)
    log_every: int = Field(20, ge=1)
    checkpoint_every: int = Field(500, ge=1)
    validate_every: int = Field(500, ge=1)
    # Also keep every n-th checkpoint for good; 0 keeps the last and the best.
    keep_every: int = Field(0, ge=0)


class AfterSettings(Settings):
    """What is done to the weights once training ends."""

    # 1 is the trained network, 0 the one it started from (WiSE-FT, arXiv 2109.01903).
    interpolate: Share = 1.0
    # "start" keeps the local head of the model that training started from.
    local_head: Literal["trained", "start"] = "trained"
    # Learn whitening (and, unless trained, codes) again by PCA from this many training photos.
    whiten_photos: int = Field(0, ge=0)
    # Width of the descriptor so learnt, if it is to be another than ``model.global_head.dim``.
    whiten_dim: int | None = Field(None, ge=1)
    # How far its variances are pulled towards their mean: few photos leave the faint ones noisy.
    whiten_shrinkage: Share = 0.05
    # Keep this share of the training photos' local features when setting ``min_score``; 0: leave.
    keep_features: Share = 0.0


class TrainSettings(Settings):
    """Everything ``delg train`` needs."""

    # Folder of the run; with stages, they have folders of their names in it.
    out: Path
    model: ModelSettings
    # Weights to start from: a shipped model's name, a model's folder, a weight file of ours, or an
    # ImageNet file of ``keras.applications`` for the ResNets; heads that do not fit start fresh.
    start: str | None = None
    seed: int = Field(0, ge=0)
    data: DataSettings
    augment: AugmentSettings = AugmentSettings()
    losses: LossSettings = LossSettings()
    trainable: TrainableSettings = TrainableSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    loop: LoopSettings = LoopSettings()
    after: AfterSettings = AfterSettings()
    # Told on the model card: where the photos come from and under what terms.
    photo_terms: tuple[str, ...] = ()
    # Runs that follow each other, by name, with what differs from the settings above; each starts
    # from the model of the one before.
    stages: dict[Annotated[str, Field(pattern=r"^\w[\w-]*$")], dict[str, Any]] = Field({})

    def in_stages(self) -> list[TrainSettings]:
        """The settings of each stage, in order; without stages, these.

        Raises:
            UsageError: a stage's settings do not fit.
        """
        if not self.stages:
            return [self]
        base = self.model_dump(mode="json", exclude_unset=True, exclude={"stages"})
        found: list[TrainSettings] = []
        for name, changes in self.stages.items():
            own = {"out": str(self.out / name)}
            if found:
                own["start"] = str(found[-1].out / MODEL_FOLDER)
            found.append(parse(TrainSettings, merged(merged(base, changes), own), f"stages.{name}"))
        return found

    @model_validator(mode="after")
    def _check_stages(self) -> TrainSettings:
        try:
            self.in_stages()
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _check(self) -> TrainSettings:
        losses, loop = self.losses, self.loop
        pairs = losses.instance.weight + losses.warps.descriptor_weight
        if pairs + losses.warps.attention_weight > 0 and self.augment.views != 2:
            raise ValueError("losses.instance and losses.warps need augment.views: 2")
        learned = self.model.local_head.attention == "learned"
        if not learned and losses.attention.weight + losses.warps.attention_weight > 0:
            raise ValueError(
                "losses.attention and losses.warps.attention_weight need "
                "model.local_head.attention: learned; set their weights to 0"
            )
        if self.model.local_only and losses.arcface.weight + losses.instance.weight > 0:
            raise ValueError(
                "losses.arcface and losses.instance are of the global descriptor, which a model "
                "with model.local_only has not; set their weights to 0"
            )
        if self.after.whiten_dim is not None and not self.after.whiten_photos:
            raise ValueError("after.whiten_dim needs after.whiten_photos to learn from")
        if self.after.local_head == "start" and self.start is None:
            raise ValueError("after.local_head: start needs a model to start from (start)")
        if loop.batch % loop.accumulate:
            raise ValueError("loop.batch must be a multiple of loop.accumulate")
        return self


def read_train_settings(path: Path) -> TrainSettings:
    """Read the settings of a run; ``extends`` names a file beside it whose values hold where this
    one says nothing.

    Raises:
        UsageError: a file is missing or a value does not fit.
    """
    return parse(TrainSettings, _values(path, ()), str(path))


def _values(path: Path, seen: tuple[Path, ...]) -> Any:
    if path in seen:
        raise UsageError(f"{path}: extends itself")
    values = read_yaml(path)
    if not isinstance(values, dict) or "extends" not in values:
        return values
    own = {key: value for key, value in values.items() if key != "extends"}
    base = _values(path.parent / str(values["extends"]), (*seen, path))
    return merged(base, own) if isinstance(base, dict) else base


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``changes`` in place of its own, section by section."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = merged(old, value)
        result[key] = value
    return result
