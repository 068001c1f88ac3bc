"""The tower of a model in the cache: ``$DELG_HOME/towers/<weights>-<side>-<precision>.onnx``.

A record of the same name with the suffix ``.json`` says what tower it is and the SHA-256 of the
file; it is written last, so that a tower without one counts as missing.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from delg.errors import DelgError, ModelError
from delg.files import make_folder, write_bytes, write_text
from delg.network.tensorflow_import import load_tensorflow
from delg.paths import exists
from delg.plain_values import parse_json, read_text
from delg.settings import TowerSettings
from delg.zoo.cache import home

if TYPE_CHECKING:
    from delg.inference.tower import Tower

_AGAIN = "remove it and pull the model again"


def tower_path(spec: TowerSettings) -> Path:
    """Where the tower lies."""
    return home() / "towers" / f"{spec.weights}-{spec.side}-{spec.precision}.onnx"


def _record_path(path: Path) -> Path:
    return path.with_suffix(".json")


def tower_files(spec: TowerSettings) -> list[Path]:
    """The files of the tower, which need not exist."""
    path = tower_path(spec)
    return [path, _record_path(path)]


def recorded_digest(spec: TowerSettings) -> str:
    """What tower lies there; see :func:`delg.inference.tower.tower_digest`.

    Raises:
        ModelError: none, or its record is damaged.
    """
    return _read_record(tower_path(spec))["digest"]


def _read_record(path: Path) -> dict[str, str]:
    try:
        record = parse_json(read_text(_record_path(path)))
        return {key: str(record[key]) for key in ("digest", "sha256")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{_record_path(path)}: cannot be read ({error}); {_AGAIN}") from None


def load_tower(spec: TowerSettings) -> Tower:
    """The tower, ready to run.

    Raises:
        ModelError: it is missing, or not what was pulled.
    """
    from delg.inference.tower import Tower

    path = tower_path(spec)
    record = _read_record(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != record["sha256"]:
        raise ModelError(f"{path}: its bytes are not those that were written; {_AGAIN}")
    tower = Tower(data, str(path))
    if (tower.digest, tower.precision) != (record["digest"], spec.precision):
        raise ModelError(f"{path}: is another tower than its record says; {_AGAIN}")
    return tower


def install_tower(spec: TowerSettings, source: Path) -> str:
    """Convert published weights to the tower of a model; TensorFlow is loaded for it.

    Args:
        spec: of the tower.
        source: see :func:`delg.zoo.tower_weights.read_tower_weights`.

    Returns:
        The digest of the tower.

    Raises:
        ModelError: the file cannot be read, or its weights do not fit.
        DelgError: nothing can be written.
    """
    from delg.inference.tower import export_tower, tower_digest
    from delg.zoo.tower_weights import read_tower_weights

    weights = read_tower_weights(source, spec)
    load_tensorflow()
    network = export_tower(spec, weights, str(source))
    path = tower_path(spec)
    make_folder(path.parent)
    record = {
        "digest": tower_digest(spec, weights),
        "sha256": hashlib.sha256(network).hexdigest(),
    }
    try:
        # An older tower must not stand under a newer record.
        _record_path(path).unlink(missing_ok=True)
    except OSError as error:
        raise DelgError(f"{path}: cannot be replaced: {error.strerror}") from None
    write_bytes(path, network)
    write_text(_record_path(path), json.dumps(record) + "\n")
    return record["digest"]


def has_tower(spec: TowerSettings) -> bool:
    """Whether the tower was pulled."""
    return all(exists(path) for path in tower_files(spec))
