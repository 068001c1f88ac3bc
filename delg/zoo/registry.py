"""Models by name or folder: settings, weights, fingerprint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from delg.errors import ModelError
from delg.network.tensorflow_import import load_tensorflow
from delg.network.weights import read_weights, weights_digest
from delg.paths import exists
from delg.settings import (
    ExportSettings,
    ExtractionSettings,
    ImageSettings,
    ModelSettings,
    read_settings,
)
from delg.zoo.cache import export_files, files_digest, home, is_saved_model, pulled
from delg.zoo.tower_file import has_tower, load_tower, recorded_digest, tower_files

if TYPE_CHECKING:
    import numpy as np

    from delg.extraction.extractor import Extractor
    from delg.extraction.local_aggregate import LocalAggregate
    from delg.extraction.two_towers import SecondTower

DEFAULT_MODEL = "delg-lite"
SETTINGS_FILE = "settings.yaml"
WEIGHTS_FILE = "weights.h5"
# Beside the weights: the network that they make, as it runs.
NETWORK_FILE = "network.onnx"
NETWORKS_FOLDER = "networks"
# The codes of the model's local descriptors, for indexes.
CODEBOOK_FILE = "codebook.h5"
# The visual words of its local descriptors, for the second shortlist of indexes.
VOCABULARY_FILE = "vocabulary.h5"
# What evidence for a match of two photos is worth with the model's features.
CALIBRATION_FILE = "calibration.json"
# What aggregates the local descriptors and joins them with the global one.
AGGREGATE_FILE = "aggregate.h5"
# Settings on which no feature depends.
_UNHASHED = {"name", "description", "texture_score", "selected_by_norm"}
# Variables of the learnt attention, and the settings of models without.
_ATTENTION = "attention/"
_BY_NORM = {"attention": "norm", "attention_hidden": 512, "attention_norm_power": 0.0}
_SHIPPED = Path(__file__).parents[1] / "models"
# SIFT has no weights of its own: the lite model's global descriptor makes its shortlist.
_SHARED_WEIGHTS = {"sift": DEFAULT_MODEL, "delg-lite-clip": DEFAULT_MODEL}
# Its local features are those of the lite model, and so is what indexes need of them.
_SHARED_FEATURES = {"delg-lite-clip": DEFAULT_MODEL}
# Beside the settings of a model with a second tower: what joins both global descriptors.
PROJECTION_FILE = "projection.h5"


@dataclass(frozen=True)
class ModelFiles:
    """A model's settings and where its weights lie; TensorFlow is not needed for it.

    Attributes:
        settings: with any override of extraction applied.
        weights: path of the weight file, or of the folder of an export; it need not exist for
            models that ship without weights.
        codebook: path of the codebook of its local descriptors, which need not exist; see
            :mod:`index.storage.codebook`.
        projection: path of what joins the global descriptors of two towers, which need not exist;
            see :mod:`delg.extraction.two_towers`.
    """

    settings: ModelSettings
    weights: Path
    codebook: Path
    projection: Path

    @property
    def aggregate(self) -> Path:
        """What joins the local descriptors with the global one, which need not exist; see
        :mod:`delg.extraction.local_aggregate`."""
        return self.codebook.with_name(AGGREGATE_FILE)

    @property
    def vocabulary(self) -> Path:
        """The vocabulary of its local descriptors, which need not exist; see
        :mod:`index.storage.vocabulary`."""
        return self.codebook.with_name(VOCABULARY_FILE)

    @property
    def learnt_for_indexes(self) -> dict[str, Path]:
        """Of codebook, vocabulary and calibration those that exist, by the names that a copy of the
        model needs them by."""
        learnt = {
            CODEBOOK_FILE: self.codebook,
            VOCABULARY_FILE: self.vocabulary,
            CALIBRATION_FILE: self.calibration,
        }
        return {name: path for name, path in learnt.items() if exists(path)}

    @property
    def network(self) -> Path:
        """The ONNX file that belongs to the weights; a float32 model may lack it."""
        return self.weights.with_name(NETWORK_FILE)

    @property
    def own_calibration(self) -> Path:
        """The file of what evidence is worth with this model, which need not exist; see
        :mod:`index.verification.calibration`."""
        beside = self.codebook if self.settings.tower is None else self.projection
        return beside.with_name(CALIBRATION_FILE)

    @property
    def calibration(self) -> Path:
        """The same; where there is none, that of the model whose local features it has."""
        own = self.own_calibration
        return own if exists(own) else self.codebook.with_name(CALIBRATION_FILE)

    @property
    def has_weights(self) -> bool:
        """Whether all files of the weights are there."""
        return all(exists(path) for path in self.files())

    def in_float32(self) -> ModelFiles:
        """The same weights without quantisation: another model with another fingerprint."""
        return replace(self, settings=self.settings.model_copy(update={"precision": "float32"}))

    def network_alone(self) -> ModelFiles:
        """The same without what its global descriptor is joined with: another model with another
        fingerprint."""
        settings = self.settings.model_copy(update={"aggregate": None, "tower": None})
        return replace(self, settings=settings)

    def former_versions(self) -> list[ModelFiles]:
        """What the model was in earlier versions, which indexes may have been made by."""
        variants = [self]
        if self.settings.aggregate is not None and self.settings.tower is None:
            variants.append(self.network_alone())
        if self.settings.precision != "float32":
            variants += [variant.in_float32() for variant in variants]
        return variants[1:]

    def files(self) -> list[Path]:
        """The files whose bytes are the weights."""
        export = self.settings.export
        if export is not None:
            return export_files(self.weights, export)
        quantized = self.settings.precision != "float32"
        files = [self.weights, self.network] if quantized else [self.weights]
        if self.settings.aggregate is not None:
            files.append(self.aggregate)
        tower = self.settings.tower
        return files if tower is None else [*files, self.projection, *tower_files(tower)]

    def missing(self) -> str:
        """The message for a model without weights: what is missing and how to get it."""
        name, export = self.settings.name, self.settings.export
        if export is None and not exists(self.weights):
            return (
                f"{name} has no weights at {self.weights}; give a weight file that fits it "
                "(weights=…), or train it"
            )
        tower = self.settings.tower
        if tower is not None and not has_tower(tower):
            return (
                f"{name} lacks its second tower on this machine: get it with delg model pull {name}"
            )
        if tower is not None and not exists(self.projection):
            return f"{name} lacks {self.projection}; make it with delg model fit-towers {name}"
        if self.settings.aggregate is not None and not exists(self.aggregate):
            return f"{name} lacks {self.aggregate}; make it with delg model aggregate {name}"
        if export is None:
            return (
                f"{name} says precision: {self.settings.precision}, but {self.network} is missing; "
                "quantise it again (delg model quantize), or say precision: float32"
            )
        missing = next(path for path in self.files() if not exists(path))
        remedy = f"get it with delg model pull {name}" if export.archive else "it is incomplete"
        return f"{name} is not on this machine ({missing} is missing): {remedy}"

    @cached_property
    def fingerprint(self) -> str:
        """Hash of architecture, weights and extraction settings, 16 hexadecimal digits.

        Raises:
            ModelError: there are no weights to hash.
        """
        return self.fingerprint_of(None if self.settings.export else read_weights(self.weights))

    @cached_property
    def comparable(self) -> frozenset[str]:
        """Fingerprints of models whose features can be compared with this one's: itself, and what
        it was before it learnt which local features to keep.

        Raises:
            ModelError: there are no weights to hash.
        """
        by_norm = self.settings.selected_by_norm
        # Before it learnt that, no model had an aggregate.
        if by_norm is None or self.settings.aggregate is not None:
            return frozenset([self.fingerprint])
        values = read_weights(self.weights)
        without = {name: v for name, v in values.items() if not name.startswith(_ATTENTION)}
        settings = self.settings.model_copy(
            update={
                "local_head": self.settings.local_head.model_copy(update=_BY_NORM),
                "extraction": self.settings.extraction.model_copy(update={"scale_weights": None}),
            }
        )
        before = replace(self, settings=settings)
        return frozenset([self.fingerprint_of(values), before.fingerprint_of(without, by_norm)])

    def fingerprint_of(
        self, values: dict[str, np.ndarray] | None, network_digest: str | None = None
    ) -> str:
        """The fingerprint, given the variables of the weight file if they were read already.

        Args:
            network_digest: of a quantised network; None: of the one beside the weights.
        """
        definition = self.settings.model_dump(mode="json", exclude=_UNHASHED)
        # Models from before these keys existed keep their fingerprints.
        if not self.settings.local_only:
            del definition["local_only"]
        if not self.settings.local_head.attention_norm_power:
            del definition["local_head"]["attention_norm_power"]
        if self.settings.extraction.scale_weights is None:
            del definition["extraction"]["scale_weights"]
        if self.settings.export is None:
            del definition["export"]
        if self.settings.aggregate is None:
            del definition["aggregate"]
        elif not self.settings.aggregate.attention_hidden:
            del definition["aggregate"]["attention_hidden"]
        tower = self.settings.tower
        if tower is None:
            del definition["tower"]
        else:
            # Where its weights come from does not matter.
            definition["tower"] = recorded_digest(tower)
        quantized = self.settings.precision != "float32"
        if not quantized:
            del definition["precision"]
        digest = files_digest(self.files()) if values is None else weights_digest(values)
        parts = [json.dumps(definition, sort_keys=True), digest]
        if quantized:
            parts.append(network_digest or files_digest([self.network]))
        if self.settings.aggregate is not None:
            parts.append(weights_digest(read_weights(self.aggregate)))
        if tower is not None:
            parts.append(weights_digest(read_weights(self.projection)))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def shipped_models() -> list[str]:
    """Names that come with the package, the default first."""
    names = sorted(folder.parent.name for folder in _SHIPPED.glob(f"*/{SETTINGS_FILE}"))
    return sorted(names, key=lambda name: name != DEFAULT_MODEL)


def find_model(
    name: str = DEFAULT_MODEL,
    weights: str | Path | None = None,
    extraction: ExtractionSettings | None = None,
    fingerprint: str | None = None,
) -> ModelFiles:
    """Look a model up without loading it.

    Args:
        name: a shipped name (see ``delg model list``) or the folder of a model: a
            ``settings.yaml`` beside a ``weights.h5``, or a SavedModel.
        weights: another weight file for the same architecture, or the folder of a published
            export.
        extraction: replaces the extraction settings of the model.
        fingerprint: of a model seen before. If it is not the present one but what that was before
            (in float32, or with the network's global descriptor alone), the latter is meant.

    Raises:
        ModelError: no such model.
        UsageError: its settings are broken.
    """
    if name in shipped_models():
        folder = _SHIPPED / name
        default = _SHIPPED / _SHARED_WEIGHTS.get(name, name) / WEIGHTS_FILE
    else:
        folder = Path(name)
        default = folder / WEIGHTS_FILE
        if not exists(folder / SETTINGS_FILE) and not is_saved_model(folder):
            raise ModelError(
                f"no model is called {name!r} and no folder there holds a {SETTINGS_FILE} or a "
                f"SavedModel; shipped: {', '.join(shipped_models())}"
            )
    if exists(folder / SETTINGS_FILE):
        settings = read_settings(ModelSettings, folder / SETTINGS_FILE)
    else:
        settings = _settings_of_export(folder)
    if settings.export is not None:
        default = pulled(settings.export) if name in shipped_models() else folder
    if extraction is not None:
        settings = settings.model_copy(update={"extraction": extraction})
    if weights is not None and settings.precision != "float32":
        # The quantised network was made from the model's own weights.
        settings = settings.model_copy(update={"precision": "float32"})
    path = Path(weights) if weights else default
    # Models that share weights differ in their local descriptors.
    beside = path.parent if weights else folder
    if settings.export is not None:
        beside = path
    if name in _SHARED_FEATURES and not weights:
        beside = _SHIPPED / _SHARED_FEATURES[name]
    files = ModelFiles(settings, path, beside / CODEBOOK_FILE, folder / PROJECTION_FILE)
    if weights is not None and not exists(files.aggregate):
        # It belongs to the weights.
        settings = settings.model_copy(update={"aggregate": None})
        files = replace(files, settings=settings)
    if fingerprint is not None and files.has_weights and fingerprint != files.fingerprint:
        return next(
            (each for each in files.former_versions() if fingerprint in each.comparable), files
        )
    return files


def _settings_of_export(folder: Path) -> ModelSettings:
    """Of the published export if the folder has the name of its archive, else of any export."""
    for name in shipped_models():
        settings = read_settings(ModelSettings, _SHIPPED / name / SETTINGS_FILE)
        if settings.export is not None and settings.export.archive == folder.resolve().name:
            return settings
    return ModelSettings(name=folder.resolve().name, export=ExportSettings())


def load_model(
    name: str = DEFAULT_MODEL,
    weights: str | Path | None = None,
    extraction: ExtractionSettings | None = None,
    images: ImageSettings | None = None,
    fingerprint: str | None = None,
) -> Extractor:
    """Load a model, ready to extract; see :func:`find_model` for the arguments.

    Args:
        images: limits on what is decoded.

    Raises:
        ModelError: no such model, no weights, or weights that do not fit its settings.
        UsageError: its settings are broken.
    """
    files = find_model(name, weights, extraction, fingerprint)
    if not files.has_weights:
        raise ModelError(files.missing())
    if files.settings.export is not None:
        load_tensorflow()
        from delg.inference.saved_model import ExportedExtractor

        return ExportedExtractor(files.weights, files.settings, files.fingerprint, images)
    return load_network(files, read_weights(files.weights), images)


def load_network(
    files: ModelFiles, values: dict[str, np.ndarray], images: ImageSettings | None = None
) -> Extractor:
    """Load a model of this package's making.

    Args:
        files: of the model.
        values: the variables of its weight file.
        images: limits on what is decoded.

    Raises:
        ModelError: weights do not fit its settings.
    """
    from delg.extraction.extractor import Extractor
    from delg.inference.select import load_backend

    backend = load_backend(
        files.settings, values, files.weights, files.network, home() / NETWORKS_FOLDER
    )
    fingerprint = files.fingerprint_of(values)
    aggregate, tower = _load_aggregate(files, values), _load_second_tower(files, values)
    return Extractor(backend, files.settings, fingerprint, images, aggregate, tower)


def _load_aggregate(files: ModelFiles, values: dict[str, np.ndarray]) -> LocalAggregate | None:
    from delg.extraction.local_aggregate import LocalAggregate

    settings = files.settings
    if settings.aggregate is None:
        return None
    dims = settings.global_head.dim, settings.local_head.dim
    return LocalAggregate.load(files.aggregate, settings.aggregate, dims, weights_digest(values))


def base_of_tower(files: ModelFiles, values: dict[str, np.ndarray]) -> str:
    """Digest of what gives the descriptor that a second tower's is joined with."""
    digest = weights_digest(values)
    if files.settings.aggregate is None:
        return digest
    parts = digest + weights_digest(read_weights(files.aggregate))
    return hashlib.sha256(parts.encode()).hexdigest()


def _load_second_tower(files: ModelFiles, values: dict[str, np.ndarray]) -> SecondTower | None:
    from delg.extraction.two_towers import SecondTower, TowerProjection

    spec, dim = files.settings.tower, files.settings.first_dim
    if spec is None:
        return None
    projection = TowerProjection.load(files.projection, spec, dim, base_of_tower(files, values))
    return SecondTower(load_tower(spec), projection)
