"""Settings of training. Every default lives here; the YAML files in ``configs/`` only override."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from delg.errors import UsageError
from delg.settings import ModelSettings, Settings, parse, read_yaml, with_present_keys

# Of the finished model, inside ``out``.
MODEL_FOLDER = "model"

Share = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]


class Gldv2Settings(Settings):
    """Google Landmarks v2: ``train.csv`` or ``train_clean.csv`` and the tree of its images."""

    # The CSV file.
    csv: Path
    # The tree of images: `a/b/c/<id>.jpg`.
    images: Path


class CleaningSettings(Settings):
    """Drop labels that the nearest neighbours do not share; the photos stay, unlabelled.

    A label is kept when at least ``agreement`` of a photo's ``neighbours`` nearest other labelled
    photos carry it, by the descriptors of the model that training starts from.
    """

    # Nearest other labelled photos that vote.
    neighbours: int = Field(10, ge=1)
    # Share of them that must carry the label.
    agreement: Share = 0.3
    # Longest side of the photos for this, in pixels.
    side: int = Field(256, ge=32)


class DataSettings(Settings):
    """Which photos are learnt from, and how they are kept."""

    deprecated_keys: ClassVar[dict[str, str]] = {"kinds": "category_labels"}

    # Folders of folders; the name of the inner folder is the label.
    folders: tuple[Path, ...] = ()
    # Google Landmarks v2.
    gldv2: Gldv2Settings | None = None
    # TFRecord files or patterns, in the schema of the published DELG code.
    tfrecords: tuple[str, ...] = ()
    # Folders of photos without labels: each photo is an instance of its own.
    unlabelled: tuple[Path, ...] = ()
    # Labels (patterns allowed) that name categories, not instances: their photos count as
    # unlabelled.
    category_labels: tuple[str, ...] = ()
    # Labels (patterns allowed) never trained on; retrieval among their photos is the validation.
    held_out: tuple[str, ...] = ()
    # Photos of each held-out label that validation uses, at most.
    held_out_photos: int = Field(80, ge=2)
    # Unlabelled photos kept out; finding them by strongly augmented copies is the other half of
    # validation.
    held_out_unlabelled: int = Field(0, ge=0)
    # Share of each trained label's photos kept out to measure the classifiers; a label's only photo
    # is trained on.
    validation_share: Share = 0.0
    # Folder that keeps the decoded photos, resized to ``cache_side``; without it every photo is
    # decoded each time it is used.
    cache: Path | None = None
    # Longest side of the resized photos, in pixels.
    cache_side: int = Field(384, ge=32)
    # Cut plain borders (letterboxes) off before anything else.
    trim_borders: bool = True
    # Drop labels that look wrong.
    cleaning: CleaningSettings | None = None
    # What ``losses.distillation`` learns from: the file that ``delg data targets`` made.
    targets: Path | None = None
    # Train on photos that have a target only; otherwise the others count in the other losses.
    targets_only: bool = False


class AugmentSettings(Settings):
    """How a photo becomes views. Shares are probabilities, ranges are inclusive."""

    # Side of the square views, in pixels.
    side: int = Field(321, ge=32)
    # 1: plain classification. 2: pairs of views with a known warp between them.
    views: Literal[1, 2] = 1
    # Share of the photo that a random crop covers.
    area: Range = (0.08, 1.0)
    # Aspect ratio of the crop.
    aspect: Range = (0.75, 4 / 3)
    # Rotation by up to this many degrees.
    rotation: float = Field(0.0, ge=0, le=180)
    # Corners move by up to this share of the side.
    perspective: float = Field(0.0, ge=0, le=0.4)
    # Show the complete photo, smaller, on top of another one, as a cover lies on a desk.
    on_background: Share = 0.0
    # Cover a rectangle with another photo or a plain colour.
    occlusion: Share = 0.0
    # Brightness, contrast and saturation by up to this share; 0 leaves colours alone.
    colour: float = Field(0.0, ge=0, le=1)
    # A shadow that falls across, a reflection, or both.
    lighting: Share = 0.0
    # Blur, or lower the resolution.
    blur: Share = 0.0
    # Add the noise of a sensor.
    noise: Share = 0.0
    # Compress as JPEG.
    jpeg: Share = 0.0


class ArcFaceSettings(Settings):
    """ArcFace on the global descriptor (arXiv 1801.07698); more than one centre per class makes it
    sub-centre ArcFace (Deng et al., ECCV 2020), which tolerates noisy labels."""

    # Weight in the sum; 0 switches it off.
    weight: float = Field(1.0, ge=0)
    # Angular margin, in radians.
    margin: float = Field(0.1, ge=0, lt=1.5)
    # Scale of the logits.
    scale: float = Field(45.25, gt=0)
    # Centres per class.
    centres: int = Field(1, ge=1)


class InfoNceSettings(Settings):
    """Every photo is a class of its own: its two views are contrasted with all other photos
    (InfoNCE, arXiv 1807.03748)."""

    deprecated_keys: ClassVar[dict[str, str]] = {"memory": "cross_batch_memory"}

    # Weight in the sum; 0 switches it off.
    weight: float = Field(0.0, ge=0)
    # Temperature of the softmax.
    temperature: float = Field(0.1, gt=0)
    # Descriptors of earlier steps that serve as further negatives (arXiv 1912.06798).
    cross_batch_memory: int = Field(4096, ge=0)


class DistillationSettings(Settings):
    """The global descriptor learns from a teacher's, ``data.targets``. All views of a photo share
    the target of the unchanged photo; photos without a target do not count."""

    # Weight of 1 - cosine to the target; 0 switches it off.
    weight: float = Field(0.0, ge=0)
    # Weight of the part that compares likenesses to all other photos (SEED, arXiv 2101.04731).
    relational_weight: float = Field(0.0, ge=0)
    # Temperature of its softmax.
    temperature: float = Field(0.1, gt=0)
    # Photos by which the targets are rotated to where the student's descriptors lie at the start.
    aligned_photos: int = Field(2000, ge=1)


class DescriptorSettings(Settings):
    """Cross-entropy of the plain mean of the mid-level features, whose gradient reaches the
    backbone: the first stage of DELF (arXiv 1612.06321)."""

    # Weight in the sum; 0 switches it off.
    weight: float = Field(0.0, ge=0)


class AttentionSettings(Settings):
    """Cross-entropy of the attention-weighted mean feature (DELG, arXiv 2001.05027)."""

    # Weight in the sum; 0 switches it off.
    weight: float = Field(1.0, ge=0)


class ReconstructionSettings(Settings):
    """Mean squared error of the autoencoder against the mid-level map."""

    # Weight in the sum; 0 switches it off.
    weight: float = Field(10.0, ge=0)


class CorrespondenceSettings(Settings):
    """Two views of a photo have known correspondences: local descriptors learn to match, attention
    learns where they will."""

    # Weight of the descriptors' part in the sum; 0 switches it off.
    descriptor_weight: float = Field(0.0, ge=0)
    # Weight of the attention's part in the sum; 0 switches it off.
    attention_weight: float = Field(0.0, ge=0)
    # Temperature of the softmax over cells.
    temperature: float = Field(0.07, gt=0)
    # A match within this many cells is correct; cells nearer than this are no negatives.
    tolerance: float = Field(1.5, gt=0)


class LossSettings(Settings):
    """The sum that is minimised."""

    deprecated_keys: ClassVar[dict[str, str]] = {
        "instance": "infonce",
        "warps": "correspondence",
    }

    arcface: ArcFaceSettings = ArcFaceSettings()
    infonce: InfoNceSettings = InfoNceSettings()
    distillation: DistillationSettings = DistillationSettings()
    descriptor: DescriptorSettings = DescriptorSettings()
    attention: AttentionSettings = AttentionSettings()
    reconstruction: ReconstructionSettings = ReconstructionSettings()
    correspondence: CorrespondenceSettings = CorrespondenceSettings()

    @property
    def of_global_descriptor(self) -> bool:
        """Whether any of them needs the global descriptor."""
        distillation = self.distillation
        return bool(
            self.arcface.weight
            + self.infonce.weight
            + distillation.weight
            + distillation.relational_weight
        )


class TrainableSettings(Settings):
    """Which variables learn."""

    # Layers of the backbone from this block on (``block11``, ``conv4_block1``); "all" or "none".
    backbone_from: str = "all"
    # "trained" updates batch normalisation too.
    batch_norm: Literal["frozen", "trained"] = "frozen"


class OptimiserSettings(Settings):
    """SGD or AdamW with warm-up and decay. Weight decay is decoupled (arXiv 1711.05101)."""

    deprecated_keys: ClassVar[dict[str, str]] = {"average": "ema_decay"}

    # SGD with momentum, or AdamW.
    kind: Literal["sgd", "adamw"] = "sgd"
    # Learning rate after warm-up.
    learning_rate: float = Field(0.01, gt=0)
    # The backbone learns at this multiple of the rate of the heads.
    backbone_factor: float = Field(1.0, ge=0)
    # Momentum of SGD.
    momentum: float = Field(0.9, ge=0, lt=1)
    # Decoupled weight decay.
    weight_decay: float = Field(0.0, ge=0)
    # Gradients are clipped to this global norm.
    clip_norm: float | None = Field(10.0, gt=0)
    # Steps over which the learning rate rises from 0.
    warmup_steps: int = Field(0, ge=0)
    # How the learning rate falls to the last step.
    decay: Literal["linear", "cosine", "constant"] = "linear"
    # Decay per step of the exponential moving average of the weights, which validation and the
    # final model use.
    ema_decay: float | None = Field(None, gt=0, lt=1)


class ScheduleSettings(Settings):
    """Steps, batches, and how often what is done."""

    # Steps of training.
    steps: int = Field(500_000, ge=1)
    # Photos per step; each gives ``augment.views`` images.
    batch: int = Field(32, ge=1)
    # Share of them drawn class by class, so that large classes do not dominate; the rest come in
    # turn.
    balanced: Share = 0.0
    # Parts of a batch whose gradients are accumulated, to save memory.
    accumulate: int = Field(1, ge=1)
    # Precision of the computation; weights stay float32.
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    # Distribute each batch over all GPUs of this machine.
    mirrored: bool = False
    # Threads that decode and augment photos.
    threads: int = Field(2, ge=1)
    # Steps between lines of the log.
    log_every: int = Field(20, ge=1)
    # Steps between checkpoints.
    checkpoint_every: int = Field(500, ge=1)
    # Steps between validations.
    validate_every: int = Field(500, ge=1)
    # Also keep the checkpoint of every n-th step for good; 0 keeps only the last and the best one.
    keep_every: int = Field(0, ge=0)


class FinalizeSettings(Settings):
    """What is done to the weights once training ends."""

    # 1 is the trained network, 0 the one it started from (WiSE-FT, arXiv 2109.01903).
    interpolate: Share = 1.0
    # "start" keeps the local head of the model that training started from.
    local_head: Literal["trained", "start"] = "trained"
    # Learn whitening (and, unless trained, codes) again by PCA from this many training photos.
    whiten_photos: int = Field(0, ge=0)
    # Width of that descriptor, if it shall differ from ``model.global_head.dim``.
    whiten_dim: int | None = Field(None, ge=1)
    # How far its variances are pulled towards their mean: with few photos the small ones are noisy.
    whiten_shrinkage: Share = 0.05
    # Set ``min_score`` so that this share of the training photos' local features is kept; 0 leaves
    # ``min_score`` as it is.
    keep_features: Share = 0.0


class TrainSettings(Settings):
    """Everything ``delg train`` needs."""

    deprecated_keys: ClassVar[dict[str, str]] = {"loop": "schedule", "after": "finalize"}

    # Folder of the run; with stages, they have folders of their names in it.
    out: Path
    model: ModelSettings
    # Weights to start from: a shipped model's name, a model's folder, a weight file of ours, or an
    # ImageNet file of ``keras.applications`` for the ResNets; heads that do not fit start fresh.
    start: str | None = None
    # Seed of everything random.
    seed: int = Field(0, ge=0)
    data: DataSettings
    augment: AugmentSettings = AugmentSettings()
    losses: LossSettings = LossSettings()
    trainable: TrainableSettings = TrainableSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    finalize: FinalizeSettings = FinalizeSettings()
    # For the model card: where the photos come from and under what terms.
    photo_terms: tuple[str, ...] = ()
    # For the model card: what teachers it learnt from, under what terms, with what caveats.
    teacher_terms: tuple[str, ...] = ()
    # Runs that follow each other, by name, with the settings that differ from those above; each
    # starts from the model of the run before.
    stages: dict[Annotated[str, Field(pattern=r"^\w[\w-]*$")], dict[str, Any]] = Field({})

    def in_stages(self) -> list[TrainSettings]:
        """The settings of each stage, in order; without stages, these.

        Raises:
            UsageError: a stage's settings do not fit.
        """
        if not self.stages:
            return [self]
        base = self.model_dump(mode="json", exclude_unset=True, exclude={"stages"})
        stages: list[TrainSettings] = []
        for name, changes in self.stages.items():
            links = {"out": str(self.out / name)}
            if stages:
                links["start"] = str(stages[-1].out / MODEL_FOLDER)
            values = merged(merged(base, changes), links)
            stages.append(parse(TrainSettings, values, f"stages.{name}"))
        return stages

    @field_validator("stages", mode="before")
    @classmethod
    def _rename_in_stages(cls, stages: Any) -> Any:
        if not isinstance(stages, dict):
            return stages
        return {
            name: with_present_keys(TrainSettings, changes, f"stages.{name}")
            for name, changes in stages.items()
        }

    @model_validator(mode="after")
    def _check_stages(self) -> TrainSettings:
        try:
            self.in_stages()
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _check(self) -> TrainSettings:
        losses, schedule = self.losses, self.schedule
        pairs = losses.infonce.weight + losses.correspondence.descriptor_weight
        if pairs + losses.correspondence.attention_weight > 0 and self.augment.views != 2:
            raise ValueError("losses.infonce and losses.correspondence need augment.views: 2")
        learned = self.model.local_head.attention == "learned"
        if not learned and losses.attention.weight + losses.correspondence.attention_weight > 0:
            raise ValueError(
                "losses.attention and losses.correspondence.attention_weight need "
                "model.local_head.attention: learned; set their weights to 0"
            )
        if self.model.local_head.attention_norm_power and losses.correspondence.attention_weight:
            raise ValueError(
                "losses.correspondence.attention_weight takes scores for probabilities; set "
                "model.local_head.attention_norm_power to 0"
            )
        if self.model.local_only and losses.of_global_descriptor:
            raise ValueError(
                "losses.arcface, losses.infonce and losses.distillation need a global descriptor, "
                "which a model with model.local_only does not have; set their weights to 0"
            )
        distilled = losses.distillation.weight + losses.distillation.relational_weight > 0
        if distilled and self.data.targets is None:
            raise ValueError("losses.distillation needs data.targets; delg data targets makes them")
        if self.data.targets_only and self.data.targets is None:
            raise ValueError("data.targets_only needs data.targets")
        if self.finalize.whiten_dim is not None and not self.finalize.whiten_photos:
            raise ValueError("finalize.whiten_dim needs finalize.whiten_photos to learn from")
        if self.finalize.local_head == "start" and self.start is None:
            raise ValueError("finalize.local_head: start needs a model to start from (start)")
        if schedule.batch % schedule.accumulate:
            raise ValueError("schedule.batch must be a multiple of schedule.accumulate")
        return self


def read_train_settings(path: Path) -> TrainSettings:
    """Read the settings of a run; ``extends`` names a file whose values are the defaults of this
    one, by its path relative to this file.

    Raises:
        UsageError: a file is missing or a value does not fit.
    """
    return parse(TrainSettings, _read_values(path, ()), str(path))


def _read_values(path: Path, extending: tuple[Path, ...]) -> Any:
    if path in extending:
        raise UsageError(f"{path}: extends itself")
    values = with_present_keys(TrainSettings, read_yaml(path), str(path))
    if not isinstance(values, dict) or "extends" not in values:
        return values
    changes = {key: value for key, value in values.items() if key != "extends"}
    base = _read_values(path.parent / str(values["extends"]), (*extending, path))
    return merged(base, changes) if isinstance(base, dict) else base


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``changes`` in place of its own, section by section."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            value = merged(old, value)
        result[key] = value
    return result
