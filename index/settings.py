"""Settings of an index. Every default lives here; YAML files only override.

The numbers for matching, verification and ranking were chosen on photos of landmarks and of
printed covers taken with phones.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from delg.errors import UsageError
from delg.plain_values import parse_json
from delg.settings import ExtractionSettings, ImageSettings, ModelSettings, Settings, parse

# Types that the components of global descriptors are stored in.
GlobalCodec = Literal["int8", "float16", "float32"]
# Width from which the components of a unit vector that is spread over all of them fit in a byte: by
# chance one in fifty million does not.
_SPREAD_DIM = 512
# Local features kept per photo by default.
COMPACT_FEATURES = 380


class StoreSettings(Settings):
    """How features lie on disk; fixed when the index is created."""

    # Encoding of local descriptors. "compact" takes 21 bytes per feature, keypoint and scores
    # included, by the codebook that comes with the model. Where the model has none, and with
    # "int8", descriptors keep their direction to half a degree. "float32" keeps them exactly.
    local_codec: Literal["compact", "int8", "float16", "float32"] = "compact"
    # Type that the components of global descriptors are stored in; see
    # :mod:`index.storage.global_codec`. "auto" is float16 with "compact", else float32. With
    # "compact", a new index takes "int8" in its place where the model joins its global descriptor
    # with its local ones or a second tower's: as many bytes for twice as many components. These are
    # spread, so that none lies beyond ±.248, where "int8" clips.
    global_codec: Literal["auto", "int8", "float16", "float32"] = "auto"
    # Local features kept per photo, the best by score; None: 380 with "compact", else all.
    max_features: int | None = Field(None, ge=0)
    # Visual words kept per photo, of its best features, for the second shortlist, where the model
    # has a vocabulary: 10 bytes each for 64 components. 0 keeps none.
    max_words: int = Field(38, ge=0, le=65_535)
    # Parts of each photo, those that stand out most, that are extracted again, enlarged, and stored
    # with a global descriptor and local features of their own, so that small things in stored
    # photos are found: an extraction more per part. 0 stores none.
    regions: int = Field(0, ge=0, le=16)
    # Local features kept of each part, the best by score.
    region_features: int = Field(380, ge=0, le=10_000)
    # Photos after which a segment is written: what a kill can cost, and how much is held in memory.
    # Compaction joins short segments.
    segment_images: int = Field(256, ge=1)
    # Seconds after which a segment is written, even if it is short.
    segment_seconds: float = Field(30.0, gt=0)

    @property
    def global_type(self) -> GlobalCodec:
        """What global descriptors are stored in."""
        if self.global_codec != "auto":
            return self.global_codec
        return "float16" if self.local_codec == "compact" else "float32"

    def of_model(self, model: ModelSettings | None) -> StoreSettings:
        """With what depends on the model filled in; None: the model is not known."""
        if model is None or self.local_codec != "compact" or self.global_codec != "auto":
            return self
        is_joint = model.aggregate is not None or model.tower is not None
        fits = is_joint and model.global_dim >= _SPREAD_DIM
        return self.model_copy(update={"global_codec": "int8"}) if fits else self

    @property
    def kept_features(self) -> int:
        """Local features kept of each photo, at most."""
        if self.max_features is not None:
            return self.max_features
        return COMPACT_FEATURES if self.local_codec == "compact" else sys.maxsize


class ShortlistSettings(Settings):
    """The FAISS index over the global descriptors; can be changed later.

    "flat" is exact; "fp16" and "int8" take two bytes or one byte per component, and are exact
    where they are stored so; "sq8" takes one byte too, in steps that are learnt. These search
    everything; "ivf" searches a few lists of "sq8", "rabitq" a few lists of one bit per component.
    Candidates of those that are not exact are ranked again by their stored descriptors.
    """

    deprecated_keys: ClassVar[dict[str, str]] = {
        "ivf_lists": "nlist",
        "ivf_probes": "nprobe",
        "refine": "refine_factor",
    }

    # The FAISS index, see above; "auto" goes by the number of photos.
    kind: Literal["auto", "flat", "fp16", "int8", "sq8", "ivf", "rabitq"] = "auto"
    # Photos from which "auto" is "rabitq"; below it is "int8" where they are stored so and not
    # adapted, else "fp16": exact for a compact store.
    ivf_from: int = Field(200_000, ge=1)
    # Lists of an inverted file; None: four times the square root of the number of images.
    nlist: int | None = Field(None, ge=1)
    # Lists searched per query; None: a tenth of them, at least 32.
    nprobe: int | None = Field(None, ge=1)
    # Candidates per requested result that are ranked again by their stored descriptors.
    refine_factor: int = Field(8, ge=1)


class LocalShortlistSettings(Settings):
    """The shortlist by local features: ASMK* over the model's vocabulary, where it has one.

    It finds what the global descriptor misses, such as covers, logos and parts. Candidates are
    verified in the order of

        similarity + weight · ASMK* / mean of the query's ``normalizer_images`` highest ASMK*

    Their scores are not changed by it. Models without a global descriptor are shortlisted, and
    ranked, by ASMK* alone.
    """

    # Off, the global descriptors alone decide which candidates are verified.
    enabled: bool = True
    # Weight of ASMK* beside the similarity of global descriptors.
    weight: float = Field(0.15, ge=0)
    # Photos with the highest ASMK* that it is divided by the mean of.
    normalizer_images: int = Field(100, ge=1)
    # Words that each feature of a query goes to; those of stored photos go to one.
    assignments: int = Field(5, ge=1)
    # Features of a query that are used, the best by score.
    query_features: int = Field(600, ge=1)
    # Exponent and threshold of the selectivity, α and τ.
    alpha: float = Field(3.0, gt=0)
    tau: float = Field(0.0, ge=0, lt=1)


class MatchingSettings(Settings):
    """Which descriptors of two photos are taken for the same point."""

    # Keep only pairs of features that are each other's nearest neighbours.
    mutual: bool = True
    # Distance to the best neighbour over distance to the second best; 1 switches it off.
    ratio: float = Field(0.98, gt=0, le=1)
    # Distance of unit vectors, 0 to 2.
    max_distance: float = Field(1.2, gt=0, le=2)


class VerificationSettings(Settings):
    """Which matches agree on one geometric transform."""

    deprecated_keys: ClassVar[Mapping[str, str | None]] = {
        "believable": "check_plausibility",
        "min_inliers": None,
    }

    # The transform that is estimated; "skimage-affine" is the estimator of the published code.
    method: Literal["affine", "homography", "skimage-affine"] = "affine"
    # Pixels by which an inlier may miss, in photos whose longest side is ``reference_side``.
    threshold: float = Field(24.0, gt=0)
    # None: the threshold is in pixels of the photos as they are, as published.
    reference_side: int | None = Field(1024, ge=1)
    # Samples that fix a transform, at most ("affine" also tries pairs, a quarter as many); "affine"
    # and "homography" stop earlier where fewer settle it. None: as many as pay, by the method.
    max_trials: int | None = Field(None, ge=1)
    # Probability that both photos show the same thing from which they are verified.
    min_probability: float = Field(0.85, ge=0.5, lt=1)
    # A transform with this many inliers should hardly be missed; fewer take more samples.
    sought_inliers: int = Field(20, ge=4)
    # Share of the matches that must be inliers as well: among very many, a dozen agree by chance.
    min_inlier_rate: float = Field(0.02, ge=0, lt=1)
    # Off, the number of inliers decides alone, as published, whatever transform they agree on.
    check_plausibility: bool = True
    # A plausible transform neither enlarges nor shrinks the photo by more than this.
    max_zoom: float = Field(8.0, gt=1)
    # A plausible transform does not stretch one direction by more than this over the other.
    max_anisotropy: float = Field(4.0, gt=1)
    # Seed of the random samples of RANSAC.
    seed: int = 0
    # What the scales of two features say about the scale ratio of their match, for "affine". They
    # count where the model sees all photos at one size ("enlarged"), or small photos at their own
    # ("shrunk"), and not at all with "ignored". "auto" asks the model; features made elsewhere are
    # "ignored".
    scales: Literal["auto", "enlarged", "shrunk", "ignored"] = "auto"
    # Longest side, in pixels, to which the model reduces larger photos, for "shrunk". None: the
    # model's own.
    model_side: int | None = Field(None, ge=1)

    def of_model(self, model: ModelSettings | None) -> VerificationSettings:
        """With what depends on the model filled in; None: the model is not known."""
        scales, side = self.scales, self.model_side
        if scales == "auto" and (model is None or model.local_head.kind == "sift"):
            scales = "ignored"
        if model is not None and scales == "auto":
            scales = "enlarged" if model.extraction.enlarge else "shrunk"
        if model is not None and scales == "shrunk" and side is None:
            side = model.extraction.longest_side
        return self.model_copy(update={"scales": scales, "model_side": side})


class ReverificationSettings(Settings):
    """Second verification of the best candidates of a query for which nothing was verified.

    The query is warped into the candidate's pose and extracted again.
    """

    # Number of candidates; 0 switches it off.
    candidates: int = Field(5, ge=0)
    # Inliers of the first verification from which a candidate is verified again.
    from_inliers: int = Field(9, ge=4)
    # Inliers that verify; more than at first, as both photos now agree in pose by construction.
    min_inliers: int = Field(24, ge=4)


class RegionsSettings(Settings):
    """Search for parts of a query as photos of their own; see :mod:`index.search.regions`."""

    # Off, a query is searched for as a whole alone.
    enabled: bool = True
    # Regions searched, the most conspicuous ones, where nothing is verified by the whole photo.
    searches: int = Field(4, ge=0)
    # Regions searched for something else, after each answer; small, as most photos show one thing.
    further: int = Field(2, ge=0)
    # Candidates that are verified per region.
    rerank: int = Field(20, ge=1)
    # Folder of a detector, whose boxes are searched (the best "searches" of them) and stored
    # ("store.regions") in place of those that stand out: a SavedModel with the inputs and outputs
    # of Detect-to-Retrieve's. It needs TensorFlow.
    detector: str | None = None
    # Score of its boxes, at least.
    detector_score: float = Field(0.1, ge=0, le=1)


class RankingSettings(Settings):
    """How many candidates are verified, and what orders them."""

    deprecated_keys: ClassVar[Mapping[str, str | None]] = dict.fromkeys(
        (
            "half_inliers",
            "unproven_from",
            "half_unproven",
            "inlier_half_point",
            "min_soft_inliers",
            "soft_half_point",
        )
    )

    # Candidates that are verified; 0 ranks by similarity alone.
    rerank: int = Field(100, ge=0)
    # Candidates verified in vain, once a photo is proven beyond doubt, after which verification
    # ends; those nearest to proven photos come first. 0: it never ends early.
    patience: int = Field(20, ge=0)
    # Candidates that are verified, at most, while none is proven.
    deepen: int = Field(400, ge=0)
    # Seconds of a query until which further candidates are verified while none is proven, however
    # many they are, in all orientations; where regions are searched, which goes on until then,
    # half of them. None: "deepen" is the limit, in the first orientation.
    seconds: float | None = Field(None, gt=0)
    # "evidence" ranks by the probability that query and photo show the same thing. "inliers" puts
    # more inliers first and then more similarity, as published; those scores do not compare across
    # queries.
    order: Literal["evidence", "inliers"] = "evidence"


class NeighboursSettings(Settings):
    """Ordering of the candidates that verification proves nothing of, by their neighbours among
    the candidates.

    Proven photos lead whatever the method says, and take part in it as if they were the query. For
    the other methods, the constants of their papers count: average and α-query expansion (by 10
    photos), SuperGlobal's re-ranking, k-reciprocal encoding and diffusion.
    """

    # "augmentation": candidates are augmented by their neighbours, then the query is expanded by
    # the nearest of them. "none": the order of similarity stays.
    method: Literal[
        "none",
        "augmentation",
        "average-expansion",
        "alpha-expansion",
        "superglobal",
        "k-reciprocal",
        "diffusion",
    ] = "augmentation"
    # The most similar candidates, which are each other's neighbours; time grows with the square.
    candidates: int = Field(700, ge=1, le=4000)
    # "augmentation": photos that each candidate is a sum of, itself included. This number and the
    # next two count for 400 candidates or more; of fewer candidates a twentieth counts, at most.
    augment: int = Field(20, ge=1)
    # "augmentation": candidates that join the query, at most.
    expand: int = Field(20, ge=0)
    # "augmentation": power of the similarity that a photo weighs in either sum.
    alpha: float = Field(3.0, ge=0)
    # "augmentation": nearest photos of a candidate among which the query must be for the candidate
    # to join it. Where few photos show the query's thing, or none, hardly any does.
    reciprocal: int = Field(10, ge=1)


class IndexSettings(Settings):
    """Everything that can be set about an index; sections of the file given to ``--config``."""

    deprecated_keys: ClassVar[dict[str, str]] = {"second_look": "reverification"}

    images: ImageSettings = ImageSettings()
    # None: the model's own.
    extraction: ExtractionSettings | None = None
    store: StoreSettings = StoreSettings()
    shortlist: ShortlistSettings = ShortlistSettings()
    local_shortlist: LocalShortlistSettings = LocalShortlistSettings()
    matching: MatchingSettings = MatchingSettings()
    verification: VerificationSettings = VerificationSettings()
    reverification: ReverificationSettings = ReverificationSettings()
    neighbours: NeighboursSettings = NeighboursSettings()
    regions: RegionsSettings = RegionsSettings()
    ranking: RankingSettings = RankingSettings()

    @property
    def uses_words(self) -> bool:
        """Whether photos keep visual words and are shortlisted by them."""
        return self.local_shortlist.enabled and self.store.max_words > 0

    def of_model(self, model: ModelSettings | None) -> IndexSettings:
        """With what depends on the model filled in; None: the model is not known."""
        sections = {
            "store": self.store.of_model(model),
            "verification": self.verification.of_model(model),
        }
        return self.model_copy(update=sections)


def record(settings: IndexSettings) -> str:
    """Settings as an index records them, in JSON.

    Raises:
        UsageError: they could not be read back.
    """
    # What Pydantic would warn of is an error below, by its key.
    text = settings.model_dump_json(warnings=False)
    parse(IndexSettings, parse_json(text), "settings", recorded=True)
    return text


# What the stored features depend on.
FIXED = ("extraction", "store")


def read_overrides(values: Any, origin: str) -> dict[str, Any]:
    """Check settings that replace some of an index's, as read from YAML.

    Args:
        values: plain values by section and key.
        origin: names their source in errors and warnings.

    Returns:
        The keys that were given, under their present names.

    Raises:
        UsageError: a key is unknown, or a value does not fit.
    """
    return parse(IndexSettings, values, origin).model_dump(exclude_unset=True)


def merge(recorded: IndexSettings, overrides: Any, origin: str) -> IndexSettings:
    """Settings of an existing index with some of them replaced.

    Args:
        recorded: as stored with the index.
        overrides: plain values by section and key, as read from YAML.
        origin: names the source of the overrides in errors.

    Raises:
        UsageError: a key is unknown, a value does not fit, or a section that is fixed when the
            index is created would change.
    """
    values = recorded.model_dump()
    for section, keys in read_overrides(overrides, origin).items():
        values[section] = {**(values[section] or {}), **keys} if isinstance(keys, dict) else keys
    merged = parse(IndexSettings, values, origin)
    for section in FIXED:
        if getattr(merged, section) != getattr(recorded, section):
            raise UsageError(
                f"{origin}: {section} is fixed when an index is created; build a new index for it"
            )
    return merged
