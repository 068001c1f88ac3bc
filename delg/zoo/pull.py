"""The published exports onto this machine: fetched or given as a file, checked, unpacked.

    $DELG_HOME/downloads/<archive>.tar.gz   while it is fetched
    $DELG_HOME/models/<archive>/            unpacked
    $DELG_HOME/checksums.json               SHA-256 of every archive ever pulled

No checksums are published for the exports. The one of the first pull is recorded, and an archive of
that name with another one is refused from then on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import filelock

from delg.errors import DelgError, UsageError
from delg.files import file_sha256, write_text
from delg.zoo.cache import home
from delg.zoo.download import Progress, download
from delg.zoo.registry import ModelFiles, find_model, shipped_models
from delg.zoo.unpack import BadArchiveError, unpack

ADDRESS = "https://storage.googleapis.com/delf/{archive}.tar.gz"
CHECKSUMS_FILE = "checksums.json"


@dataclass(frozen=True)
class Pulled:
    """What a pull did.

    Attributes:
        folder: of the model.
        sha256: of its archive; empty where the model was here already.
        first: there was no checksum to compare with.
    """

    folder: Path
    sha256: str
    first: bool


def pullable() -> list[str]:
    """Names of the models that can be pulled."""
    found = (find_model(name) for name in shipped_models())
    return [f.settings.name for f in found if f.settings.export and f.settings.export.archive]


def pull(
    name: str,
    from_file: Path | None = None,
    url: str | None = None,
    progress: Progress | None = None,
) -> Pulled:
    """Put a published export where :func:`delg.load_model` finds it.

    Args:
        name: of :func:`pullable`.
        from_file: the archive, for machines without a network.
        url: another place of the archive.
        progress: of the download.

    Raises:
        UsageError: no model of that name can be pulled.
        DelgError: it cannot be fetched, is broken, is not what it was, or there is no room.
    """
    if name not in pullable():
        raise UsageError(f"{name!r} cannot be pulled; there are {', '.join(pullable())}")
    files = find_model(name)
    export = files.settings.export
    assert export is not None
    if files.has_weights:
        return Pulled(files.weights, "", False)
    try:
        home().mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(home() / f"{export.archive}.lock", timeout=0):
            return _pull(files, export.archive, from_file, url, progress)
    except filelock.Timeout:
        raise DelgError(f"{name} is being pulled by another process; wait for it") from None
    except OSError as error:
        raise DelgError(f"{home()}: cannot be written to: {error.strerror}") from None


def _pull(
    files: ModelFiles,
    archive: str,
    from_file: Path | None,
    url: str | None,
    progress: Progress | None,
) -> Pulled:
    place = from_file or home() / "downloads" / f"{archive}.tar.gz"
    if from_file is None:
        if not place.exists():
            download(url or ADDRESS.format(archive=archive), place, progress)
    elif not from_file.is_file():
        raise UsageError(f"{from_file}: no such file")
    try:
        digest = file_sha256(place)
        first = _check(archive, digest, place)
        unpack(place, files.weights)
        missing = [path for path in files.files() if not path.exists()]
        if missing:
            lacking = missing[0].relative_to(files.weights)
            shutil.rmtree(files.weights)
            raise BadArchiveError(f"{place}: not {files.settings.name}, it lacks {lacking}")
    except BadArchiveError:
        # A broken download would only be found broken again.
        if from_file is None:
            place.unlink()
        raise
    if from_file is None:
        place.unlink()
    _record(archive, digest)
    return Pulled(files.weights, digest, first)


def _checksums() -> dict[str, str]:
    path = home() / CHECKSUMS_FILE
    try:
        known = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DelgError(f"{path}: cannot be read ({error}); mend or remove it") from None
    if not isinstance(known, dict):
        raise DelgError(f"{path}: must hold an object; mend or remove it")
    return known


def _check(archive: str, digest: str, place: Path) -> bool:
    """Whether the archive was never seen before; one that has changed is refused."""
    known = _checksums().get(archive)
    if known not in (None, digest):
        raise BadArchiveError(
            f"{place}: its SHA-256 is {digest}, but {archive} had {known} when it was first "
            f"pulled; if you trust the new one, remove {archive} from {home() / CHECKSUMS_FILE}"
        )
    return known is None


def _record(archive: str, digest: str) -> None:
    known = {**_checksums(), archive: digest}
    write_text(home() / CHECKSUMS_FILE, json.dumps(known, indent=1) + "\n")
