"""What lies at a path: something, nothing, or what cannot be looked at; and names compared.

``Path.exists`` raises where a folder is closed, a share is dead or a name is too long, and
``os.path.exists`` calls all that absent. What cannot be looked at may still be there.
"""

from __future__ import annotations

import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from delg.errors import UsageError
from delg.remote_path import Location, RemotePath, is_url

L = TypeVar("L", Path, RemotePath, Location)


class UnreachableError(UsageError):
    """A path that cannot be looked at, so that nobody knows what lies there."""


@dataclass(frozen=True)
class Presence:
    """What lies at a path.

    Attributes:
        kind: "file", "folder", "other" (a pipe, a device), "absent" or "unreachable".
        reason: why it cannot be looked at; empty otherwise.
    """

    kind: str
    reason: str = ""

    @property
    def is_there(self) -> bool:
        """Whether something is there."""
        return self.kind in ("file", "folder", "other")


def presence(path: str | Location) -> Presence:
    """Look at a path or a URL; links are followed."""
    if is_url(path):
        return _remote_presence(path)
    assert not isinstance(path, RemotePath)
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return Presence("absent")
    except (OSError, ValueError) as error:
        return Presence("unreachable", getattr(error, "strerror", None) or str(error))
    if stat.S_ISDIR(mode):
        return Presence("folder")
    return Presence("file" if stat.S_ISREG(mode) else "other")


def _remote_presence(url: str | Location) -> Presence:
    from delg.remote_files import kind_of

    try:
        return Presence(kind_of(RemotePath.parse(str(url))))
    except FileNotFoundError:
        return Presence("absent")
    except OSError as error:
        return Presence("unreachable", error.strerror or str(error))
    except UsageError as error:  # Catalogs may name URLs that are not read.
        return Presence("unreachable", str(error))


def _reachable(path: str | Location) -> Presence:
    state = presence(path)
    if state.kind == "unreachable":
        raise UnreachableError(f"{path}: cannot be looked at: {state.reason}")
    return state


def exists(path: str | Location) -> bool:
    """Whether something lies at a path.

    Raises:
        UnreachableError: it cannot be looked at; so do the functions below.
    """
    return _reachable(path).is_there


def is_folder(path: str | Location) -> bool:
    """Whether a folder lies at a path."""
    return _reachable(path).kind == "folder"


def is_file(path: str | Location) -> bool:
    """Whether a regular file lies at a path."""
    return _reachable(path).kind == "file"


def normal_form(name: str) -> str:
    """A name in the Unicode form (NFC) in which names are compared; macOS may write another."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def name_forms(name: str) -> tuple[str, ...]:
    """The ways in which the same name may be written, as it is given first."""
    if name.isascii():
        return (name,)
    normalized = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    return tuple(dict.fromkeys((name, *normalized)))


def as_written(path: L) -> L:
    """The path under the name that is on the disk, where that differs only by Unicode form; the
    path itself if there is none."""
    if str(path).isascii() or isinstance(path, RemotePath):
        return path
    forms = (type(path)(form) for form in name_forms(str(path)))
    return next((form for form in forms if presence(form).kind != "absent"), path)
