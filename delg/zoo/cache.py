"""Where SavedModels lie: the published exports in the cache of this machine, and other folders."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from delg.paths import is_file
from delg.settings import ExportSettings

HOME_VARIABLE = "DELG_HOME"
MODEL_FILE = "saved_model.pb"


def home() -> Path:
    """The cache folder: ``$DELG_HOME``, or ``~/.cache/delg``."""
    folder = os.environ.get(HOME_VARIABLE)
    return Path(folder) if folder else Path.home() / ".cache" / "delg"


def pulled(settings: ExportSettings) -> Path:
    """Where ``delg model pull`` puts a published export."""
    return home() / "models" / settings.archive


def is_saved_model(folder: Path) -> bool:
    """Whether a SavedModel lies in a folder."""
    return is_file(folder / MODEL_FILE)


def export_files(folder: Path, settings: ExportSettings) -> list[Path]:
    """The files that decide the outputs of an export, in an order that repeats."""
    model = folder / settings.folder
    pca = settings.pca
    pca_files = [pca.mean, pca.matrix, pca.variances] if pca else []
    return [
        model / MODEL_FILE,
        *sorted(path for path in (model / "variables").glob("*") if path.is_file()),
        *(folder / name for name in pca_files if name is not None),
    ]


def files_digest(paths: Iterable[Path]) -> str:
    """SHA-256 over names and bytes of files, wherever they lie."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
