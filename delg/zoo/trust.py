"""Which models may be loaded because an index names them.

A SavedModel can run code, so that whoever opens an index from elsewhere must not thereby run the
model that it names. Models that come with the package, and published ones that were pulled, may be
used by any index; others only after their user has named them: as the model of a new index, or by
``delg model trust``. These are recorded by their path and the SHA-256 of their files in the cache
folder, and not in the index, which whoever made it could write to.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from delg.errors import DelgError, ModelError
from delg.files import make_folder, write_text
from delg.plain_values import parse_json, read_text
from delg.zoo.cache import files_digest, home
from delg.zoo.registry import SETTINGS_FILE, ModelFiles, find_model, shipped_models

logger = logging.getLogger(__name__)

FILE = "trusted_models.json"


@dataclass(frozen=True)
class TrustedModel:
    """A model that the user has named.

    Attributes:
        model: its folder, absolute, or the name of a shipped one.
        weights: path of another weight file for it, absolute; empty for its own.
        sha256: of the names and bytes of its files.
    """

    model: str
    weights: str
    sha256: str

    @classmethod
    def of(cls, model: str, weights: str | Path | None, files: ModelFiles) -> TrustedModel:
        """The entry of a model as it is now."""
        folder = files.weights if files.settings.export else Path(model)
        others = [folder / SETTINGS_FILE, files.network]
        if files.settings.export is not None:
            others += sorted((folder / files.settings.export.folder / "assets").glob("*"))
        paths = sorted({*files.files(), *others})
        states = [(path, path.stat()) for path in paths if path.is_file()]
        digest = _digest(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in states))
        return cls(*_place(model, weights), digest)


@lru_cache(maxsize=8)
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Of files as they are: path, size and modification time of each."""
    return files_digest(path for path, _, _ in files)


def _place(model: str, weights: str | Path | None) -> tuple[str, str]:
    name = model if model in shipped_models() else str(Path(model).absolute())
    return name, str(Path(weights).absolute()) if weights else ""


def comes_with_package(model: str, weights: str | Path | None) -> bool:
    """Whether a model is one of the package's own, or a published one where it was pulled to."""
    return model in shipped_models() and not weights


def trusted_models() -> list[TrustedModel]:
    """The models that the user has named."""
    path = home() / FILE
    try:
        entries = parse_json(read_text(path))
        return [TrustedModel(**{key: str(entry[key]) for key in entry}) for entry in entries]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        logger.warning("%s: not readable, so that no model is trusted: %s", path, error)
        return []


def is_trusted(model: str, weights: str | Path | None, files: ModelFiles) -> bool:
    """Whether an index may use a model that it names.

    Args:
        model, weights: as the index names them.
        files: what lies there.
    """
    if comes_with_package(model, weights):
        return True
    # Otherwise nothing of it is read.
    was_named = was_trusted(model, weights) and files.has_weights
    return was_named and TrustedModel.of(model, weights, files) in trusted_models()


def was_trusted(model: str, weights: str | Path | None) -> bool:
    """Whether the user has named a model of that place, which may have changed since."""
    place = _place(model, weights)
    return any(place == (entry.model, entry.weights) for entry in trusted_models())


def trust(model: str, weights: str | Path | None = None) -> None:
    """Let indexes use a model, as long as its files stay as they are.

    Args:
        model, weights: see :func:`delg.zoo.registry.find_model`.

    Raises:
        ModelError: there is no such model, or it has no weights.
        DelgError: it cannot be recorded.
    """
    files = find_model(model, weights)
    if not files.has_weights:
        raise ModelError(files.missing())
    entry, trusted = TrustedModel.of(model, weights, files), trusted_models()
    if comes_with_package(model, weights) or entry in trusted:
        return
    _write([*trusted, entry])


def trust_if_possible(model: str, weights: str | Path | None) -> None:
    """The same where the cache folder may be closed: then later commands must name the model."""
    try:
        trust(model, weights)
    except DelgError as error:
        logger.warning("%s: commands that search this index need --model %s", error, model)


def distrust(model: str, weights: str | Path | None = None) -> bool:
    """Let indexes use a model no more; returns whether they could.

    Raises:
        DelgError: it cannot be recorded.
    """
    trusted, place = trusted_models(), _place(model, weights)
    kept = [entry for entry in trusted if (entry.model, entry.weights) != place]
    if len(kept) != len(trusted):
        _write(kept)
    return len(kept) != len(trusted)


def _write(entries: list[TrustedModel]) -> None:
    make_folder(home())
    write_text(home() / FILE, json.dumps([asdict(entry) for entry in entries], indent=1))
