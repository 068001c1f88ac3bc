"""Models by name or folder: settings, weights, fingerprint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from delg.errors import ModelError
from delg.quiet import load_tensorflow
from delg.settings import ExtractionSettings, ImageSettings, ModelSettings, read_settings
from delg.weights import load_weights, read_weights, weights_digest

if TYPE_CHECKING:
    from delg.extractor import Extractor

DEFAULT_MODEL = "delg-lite"
SETTINGS_FILE = "settings.yaml"
WEIGHTS_FILE = "weights.h5"
_SHIPPED = Path(__file__).parent / "models"
# SIFT has no weights of its own: the lite model's global descriptor makes its shortlist.
_SHARED_WEIGHTS = {"sift": DEFAULT_MODEL}


@dataclass(frozen=True)
class ModelFiles:
    """A model's settings and where its weights lie; nothing of TensorFlow is needed for it.

    Attributes:
        settings: with any override of extraction applied.
        weights: path of the weight file; it may not exist for models that ship without.
    """

    settings: ModelSettings
    weights: Path

    @property
    def has_weights(self) -> bool:
        return self.weights.exists()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of architecture, weights and extraction settings, 16 hexadecimal digits.

        Raises:
            ModelError: there are no weights to hash.
        """
        definition = self.settings.model_dump(mode="json", exclude={"name", "description"})
        parts = [json.dumps(definition, sort_keys=True), weights_digest(read_weights(self.weights))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def shipped_models() -> list[str]:
    """Names that come with the package, the default first."""
    names = sorted(folder.parent.name for folder in _SHIPPED.glob(f"*/{SETTINGS_FILE}"))
    return sorted(names, key=lambda name: name != DEFAULT_MODEL)


def find_model(
    name: str = DEFAULT_MODEL,
    weights: str | Path | None = None,
    extraction: ExtractionSettings | None = None,
) -> ModelFiles:
    """Look a model up without loading it.

    Args:
        name: a shipped name (see ``delg model list``) or the folder of a model: a
            ``settings.yaml`` beside a ``weights.h5``.
        weights: another weight file for the same architecture.
        extraction: replaces the model's own extraction settings.

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
        if not (folder / SETTINGS_FILE).exists():
            raise ModelError(
                f"no model is called {name!r} and no folder there holds a {SETTINGS_FILE}; "
                f"shipped: {', '.join(shipped_models())}"
            )
    settings = read_settings(ModelSettings, folder / SETTINGS_FILE)
    if extraction is not None:
        settings = settings.model_copy(update={"extraction": extraction})
    return ModelFiles(settings, Path(weights) if weights else default)


def load_model(
    name: str = DEFAULT_MODEL,
    weights: str | Path | None = None,
    extraction: ExtractionSettings | None = None,
    images: ImageSettings | None = None,
) -> Extractor:
    """Load a model, ready to extract; see :func:`find_model` for the arguments.

    Args:
        images: limits on what is decoded.

    Raises:
        ModelError: no such model, no weights, or weights that do not fit its settings.
    """
    files = find_model(name, weights, extraction)
    if not files.has_weights:
        raise ModelError(
            f"{name} has no weights at {files.weights}; give a weight file that fits it "
            "(weights=…), or train it"
        )
    fingerprint = files.fingerprint
    load_tensorflow()
    from delg.extractor import Extractor
    from delg.model import Delg
    from delg.network import Network

    model = Delg(files.settings)
    load_weights(model, read_weights(files.weights), str(files.weights))
    return Extractor(Network(model), files.settings, fingerprint, images)
