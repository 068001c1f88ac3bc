"""Get published models: downloaded or given as a file, checked, unpacked or converted.

    $DELG_HOME/downloads/<archive>.tar.gz   while it is downloaded
    $DELG_HOME/models/<archive>/            unpacked
    $DELG_HOME/checksums.json               SHA-256 of every archive that was ever pulled
    $DELG_HOME/towers/                      second towers, see :mod:`delg.zoo.tower_file`

No checksums are published for the exports. The one of the first pull is recorded, and an archive of
that name with another one is refused from then on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import filelock

from delg.errors import DelgError, UsageError
from delg.files import file_sha256, write_text
from delg.paths import exists, is_file, is_folder
from delg.plain_values import parse_json, read_text
from delg.settings import TowerSettings
from delg.zoo.cache import home
from delg.zoo.download import Progress, download
from delg.zoo.registry import ModelFiles, find_model, shipped_models
from delg.zoo.tower_file import has_tower, install_tower, tower_path
from delg.zoo.unpack import BadArchiveError, remove_leftovers, unpack

ADDRESS = "https://storage.googleapis.com/delf/{archive}.tar.gz"
CHECKSUMS_FILE = "checksums.json"


@dataclass(frozen=True)
class Pulled:
    """The outcome of a pull.

    Attributes:
        folder: of the model.
        sha256: of its archive; empty if the model was there already.
        first: there was no checksum to compare with.
    """

    folder: Path
    sha256: str
    first: bool


def pullable() -> list[str]:
    """Names of the models that can be pulled."""
    models = {name: find_model(name).settings for name in shipped_models()}
    return [
        name
        for name, settings in models.items()
        if settings.tower or (settings.export and settings.export.archive)
    ]


def pull(
    name: str,
    from_file: Path | None = None,
    url: str | None = None,
    progress: Progress | None = None,
) -> Pulled:
    """Install a published model where :func:`delg.load_model` finds it.

    Args:
        name: one of :func:`pullable`, or the folder of a model whose settings name a second tower.
        from_file: the archive, for machines without a network; for a second tower, any file of its
            weights that :func:`delg.zoo.tower_weights.read_tower_weights` reads.
        url: of the file, if it is not the published address.
        progress: called during the download.

    Raises:
        UsageError: no model of that name can be pulled.
        DelgError: it cannot be downloaded, is broken, differs from an earlier pull, or the disk is
            full.
    """
    files = find_model(name) if name in pullable() or is_folder(Path(name)) else None
    tower = files.settings.tower if files else None
    if files is None or (tower is None and name not in pullable()):
        raise UsageError(f"{name!r} cannot be pulled; there are {', '.join(pullable())}")
    if tower is not None:
        return _locked(name, tower.weights, lambda: _pull_tower(tower, from_file, url, progress))
    export = files.settings.export
    assert export is not None
    if files.has_weights:
        with suppress(OSError, filelock.Timeout), _lock(export.archive):
            # A kill may have come after the model was in its place.
            remove_leftovers(files.weights)
            _download_path(export.archive).unlink(missing_ok=True)
        return Pulled(files.weights, "", False)
    return _locked(
        name, export.archive, lambda: _pull(files, export.archive, from_file, url, progress)
    )


def _locked(name: str, archive: str, work: Callable[[], Pulled]) -> Pulled:
    try:
        home().mkdir(parents=True, exist_ok=True)
        with _lock(archive):
            return work()
    except filelock.Timeout:
        raise DelgError(f"{name} is being pulled by another process; wait for it") from None
    except OSError as error:
        raise DelgError(f"{home()}: cannot be written to: {error.strerror}") from None


def _lock(archive: str) -> filelock.BaseFileLock:
    return filelock.FileLock(home() / f"{archive}.lock", timeout=0)


def _download_path(archive: str) -> Path:
    return home() / "downloads" / f"{archive}.tar.gz"


def _pull(
    files: ModelFiles,
    archive: str,
    from_file: Path | None,
    url: str | None,
    progress: Progress | None,
) -> Pulled:
    place = from_file or _download_path(archive)
    if from_file is None:
        if not exists(place):
            download(url or ADDRESS.format(archive=archive), place, progress)
    elif not is_file(from_file):
        raise UsageError(f"{from_file}: no such file")
    try:
        digest = file_sha256(place)
        first = _check(archive, digest, place)
        unpack(place, files.weights)
        missing = [path for path in files.files() if not exists(path)]
        if missing:
            name = missing[0].relative_to(files.weights)
            shutil.rmtree(files.weights)
            raise BadArchiveError(f"{place}: not {files.settings.name}, it lacks {name}")
    except BadArchiveError:
        # Kept, a broken download would fail the next pull as well.
        if from_file is None:
            place.unlink()
        raise
    if from_file is None:
        place.unlink()
    _record(archive, digest)
    return Pulled(files.weights, digest, first)


def _pull_tower(
    spec: TowerSettings, from_file: Path | None, url: str | None, progress: Progress | None
) -> Pulled:
    path = tower_path(spec)
    place = from_file or home() / "downloads" / f"{spec.weights}.pt"
    if has_tower(spec):
        if from_file is None:
            place.unlink(missing_ok=True)
        return Pulled(path, "", False)
    address = url or spec.url
    if from_file is None and not exists(place):
        if not address:
            raise UsageError("nobody publishes these weights at an address; give --from FILE")
        download(address, place, progress)
    if not is_file(place):
        raise UsageError(f"{place}: no such file")
    digest = file_sha256(place)
    if from_file is None and digest != spec.sha256:
        # Kept, a broken download would fail the next pull as well.
        place.unlink()
        raise BadArchiveError(
            f"{address}: its SHA-256 is {digest}, the published one {spec.sha256 or 'unknown'}"
        )
    install_tower(spec, place)
    if from_file is None:
        place.unlink()
    return Pulled(path, digest, False)


def _checksums() -> dict[str, str]:
    path = home() / CHECKSUMS_FILE
    try:
        checksums = parse_json(read_text(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DelgError(f"{path}: cannot be read ({error}); repair or remove it") from None
    if not isinstance(checksums, dict):
        raise DelgError(f"{path}: must hold an object; repair or remove it")
    return checksums


def _check(archive: str, digest: str, place: Path) -> bool:
    """Whether there was no checksum of the archive; one that has changed is refused."""
    recorded = _checksums().get(archive)
    if recorded not in (None, digest):
        raise BadArchiveError(
            f"{place}: its SHA-256 is {digest}, but {archive} had {recorded} when it was first "
            f"pulled; if you trust the new one, remove {archive} from {home() / CHECKSUMS_FILE}"
        )
    return recorded is None


def _record(archive: str, digest: str) -> None:
    checksums = {**_checksums(), archive: digest}
    write_text(home() / CHECKSUMS_FILE, json.dumps(checksums, indent=1) + "\n")
