"""URLs of photos and folders that lie elsewhere: on object stores and on servers.

Nothing here connects to anything; :mod:`delg.remote_files` does. Credentials are none of ours: the
libraries read them from the environment and from their own files, and a URL that carries some is
refused, as URLs are written into catalogs, logs and pages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from delg.errors import UsageError

if TYPE_CHECKING:
    from delg.remote_files import FileStat

# A scheme has two letters or more; one letter is a drive of Windows.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_SCHEMES = ("s3", "gs", "gcs", "sftp", "ssh", "http", "https", "memory")
_WEB = ("http", "https")
# What pathlib makes of a URL.
_MANGLED = re.compile(rf"({'|'.join(_SCHEMES)}):[/\\][^/\\]")
# Signatures and tokens, in whatever a library says about a URL.
_QUERY_IN_URL = re.compile(r"(\w+://[^\s'\"?]*)\?[^\s'\"]*")
_USER_IN_URL = re.compile(r"(\w+://)[^\s'\"/@]*@")

# Before the name of a text file that lists URLs.
LIST_SIGN = "@"


def is_url(location: object) -> bool:
    """Whether a location is a URL, not a path."""
    return isinstance(location, RemotePath) or (
        isinstance(location, str) and _URL.match(location) is not None
    )


def is_web_url(location: str) -> bool:
    """Whether a location is a URL of a web server."""
    return location.partition("://")[0].lower() in _WEB


def redact(text: str) -> str:
    """A text without the credentials that URLs in it may carry."""
    return _USER_IN_URL.sub(r"\1…@", _QUERY_IN_URL.sub(r"\1?…", text))


@dataclass(frozen=True, order=True)
class RemotePath:
    """A URL, with the part of pathlib's interface that photos need.

    ``pathlib`` itself would make ``s3:/bucket`` of ``s3://bucket``. Made by :meth:`parse`.

    Attributes:
        url: without a slash at the end.
    """

    url: str

    @classmethod
    def parse(cls, text: str) -> RemotePath:
        """The place that a URL names.

        Raises:
            UsageError: it carries credentials, is no URL, or of a kind that is not read.
        """
        match = _URL.match(text)
        if match is None or "::" in text:
            raise UsageError(f"{redact(text)}: not a plain URL")
        scheme = match[1].lower()
        if scheme not in _SCHEMES:
            known = ", ".join(f"{name}://" for name in _SCHEMES if name != "memory")
            raise UsageError(f"{redact(text)}: URLs of this kind are not read; {known} are")
        rest = text[match.end() :]
        _refuse_credentials(scheme, rest, text)
        if not rest.strip("/"):
            raise UsageError(f"{text}: names no bucket, host or folder")
        return cls(f"{scheme}://{rest.rstrip('/')}")

    def __str__(self) -> str:
        return self.url

    @property
    def scheme(self) -> str:
        """The part before ``://``, in lower case."""
        return self.url.partition("://")[0]

    @property
    def is_web(self) -> bool:
        """Whether a web server answers, which has pages of links in place of folders."""
        return self.scheme in _WEB

    @property
    def root(self) -> RemotePath:
        """The bucket or host."""
        start = self.url.index("://") + 3
        end = self.url.find("/", start)
        return self if end < 0 else RemotePath(self.url[:end])

    @property
    def name(self) -> str:
        """The last part, as a file would be called."""
        return self._decoded(self.url.rpartition("/")[2])

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The name from its last point on."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        """The folder above; a bucket or host is its own."""
        return self if self == self.root else RemotePath(self.url.rpartition("/")[0])

    @property
    def parents(self) -> Iterator[RemotePath]:
        """The folders above, the nearest first."""
        folder = self
        while folder != folder.parent:
            folder = folder.parent
            yield folder

    def joinpath(self, *names: str) -> RemotePath:
        """A place below this one; names are written as files are called."""
        path = "/".join(names)
        return RemotePath(f"{self.url}/{quote(path) if self.is_web else path}")

    def __truediv__(self, name: str) -> RemotePath:
        return self.joinpath(name)

    def names_below(self, folder: RemotePath) -> tuple[str, ...] | None:
        """The names that lead here from a folder; None if this does not lie there."""
        if not self.url.startswith(folder.url + "/"):
            return None
        return tuple(self._decoded(self.url[len(folder.url) + 1 :]).split("/"))

    def _decoded(self, text: str) -> str:
        return unquote(text) if self.is_web else text

    def absolute(self) -> RemotePath:
        """Itself, as :meth:`resolve` is: a URL does not depend on where the program runs."""
        return self

    def resolve(self) -> RemotePath:
        """Itself."""
        return self

    def samefile(self, other: object) -> bool:
        """Whether both are the same URL."""
        return str(other) == self.url

    def stat(self) -> FileStat:
        """Size and time of the file; see :func:`delg.remote_files.stat_file`."""
        from delg.remote_files import stat_file

        return stat_file(self)


Location = Path | RemotePath


def as_location(location: str | Path | RemotePath) -> Location:
    """A path on this machine, or the place that a URL names.

    Raises:
        UsageError: it is a URL that carries credentials or cannot be read, or one that pathlib has
            shortened.
    """
    if isinstance(location, RemotePath):
        return location
    text = str(location)
    if is_url(text):
        return RemotePath.parse(text)
    if _MANGLED.match(text) and not Path(text).exists():
        raise UsageError(f"{redact(text)}: a URL cannot be a pathlib.Path; give it as a string")
    return Path(location)


def _refuse_credentials(scheme: str, rest: str, text: str) -> None:
    user = rest.partition("/")[0].rpartition("@")[0]
    if ":" in user or (user and scheme in _WEB):
        raise UsageError(
            f"{redact(text)}: URLs with credentials are not read, as URLs are recorded; put them "
            "where the library of this scheme reads them (environment, ~/.aws, ~/.ssh, ~/.netrc)"
        )
    if scheme in _WEB and (urlsplit(text).query or urlsplit(text).fragment):
        raise UsageError(
            f"{redact(text)}: URLs with a query, such as presigned ones, are not read, as URLs are "
            "recorded; use the store's own scheme, s3:// or gs://"
        )
