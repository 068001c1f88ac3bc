"""Files and folders behind URLs, through fsspec: listed, looked at and read, with limits.

What these functions raise are the errors of files on this machine: ``FileNotFoundError`` where a
server said that nothing is there, and another ``OSError`` with the reason where nobody knows.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import html
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from delg.errors import UsageError
from delg.limits import MAX_PHOTO_BYTES
from delg.remote_path import RemotePath, redact

_SSH = ("sftp", "ssh")
_BLOCK = 1 << 20
# A connection that says nothing for longer is cut; whole downloads may take any time.
_CONNECT_SECONDS, _SILENT_SECONDS = 10, 30
# A cut connection is tried once more; the libraries of object stores try by themselves.
_ATTEMPTS = 2
# What a URL's path may hold as it is, and what is escaped already.
_URL_SIGNS = "/%:@!$&'()*+,;=~"
_TIMES = ("LastModified", "mtime", "updated", "Last-Modified", "created")
# Checksums come first: they stay when an object is copied.
_TAGS = ("md5Hash", "ETag", "etag")
_MAX_REASON = 300
# Answers of a web server that mean that there is no such file.
_GONE = (404, 410)


class FileStat(NamedTuple):
    """What a server says about a file.

    Attributes:
        st_size: bytes; None if it does not say.
        st_mtime_ns: of the last modification, nanoseconds since 1970; 0 if it does not say.
        etag: changes with the content; empty if it does not say.
    """

    st_size: int | None
    st_mtime_ns: int = 0
    etag: str = ""


class Entry(NamedTuple):
    """What lies in a folder.

    Attributes:
        path, is_folder: its URL, and whether it is a folder.
        stat: of a file; sizes are unknown where a web server lists links.
    """

    path: RemotePath
    is_folder: bool
    stat: FileStat


class _RemoteError(OSError):
    """Nobody knows what lies there; ``strerror`` is the reason."""

    def __init__(self, reason: str, path: RemotePath) -> None:
        super().__init__(None, reason, str(path))


def _open_filesystem(path: RemotePath) -> tuple[Any, str]:
    """The file system of a URL, which fsspec keeps, and the path in it.

    Raises:
        UsageError: its library is not installed.
        OSError: it cannot be reached.
    """
    try:
        from fsspec.core import url_to_fs

        with _plain_errors(path):
            fs, inside = url_to_fs(path.url, **_options(path))
    except ImportError:
        raise UsageError(
            f"{path.scheme}:// needs an extra: pip install 'delg-retrieval[remote]'"
        ) from None
    return fs, str(inside)


def _options(path: RemotePath) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if path.is_web:
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(
            total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS
        )
        # With proxies and ~/.netrc, as other programs read them.
        options["client_kwargs"] = {"timeout": timeout, "trust_env": True}
    elif path.scheme in _SSH:
        # sshfs would believe any host; () is asyncssh's default, ~/.ssh/known_hosts.
        options |= {"known_hosts": (), "connect_timeout": _CONNECT_SECONDS}
        options["keepalive_interval"] = _SILENT_SECONDS // 3
    elif path.scheme != "memory":
        # What was listed an hour ago says nothing about now.
        options["use_listings_cache"] = False
    return options


@contextmanager
def _plain_errors(path: RemotePath) -> Iterator[None]:
    """The errors of every library as those of files on this machine."""
    try:
        yield
    except (UsageError, ImportError, _RemoteError):
        raise
    except Exception as error:  # Each library has errors of its own.
        # fsspec says that there is no such file on web servers that are down, too.
        cause = (path.is_web and error.__cause__) or error
        if isinstance(cause, FileNotFoundError) or _status(cause) in _GONE:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path)) from None
        if path.scheme in _SSH:
            _forget_connections(path)
        raise _RemoteError(_reason(cause), path) from None


def _forget_connections(path: RemotePath) -> None:
    """Connect anew next time, as a connection that was cut stays so."""
    from fsspec.registry import get_filesystem_class

    get_filesystem_class(path.scheme).clear_instance_cache()


def _status(error: BaseException) -> int | None:
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None


def _reason(error: BaseException) -> str:
    """Why something failed, in a line, without the credentials that redirected URLs carry."""
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return "the server does not answer in time"
    if _status(error) is not None:
        return f"the server answers {_status(error)} {getattr(error, 'message', '')}".rstrip()
    text = " ".join(redact(str(error)).split())
    return text[:_MAX_REASON] or type(error).__name__


def _file_stat(info: Mapping[str, Any]) -> FileStat:
    size = info.get("size")
    times = (_nanoseconds(info[key]) for key in _TIMES if info.get(key))
    tag = next((str(info[key]) for key in _TAGS if info.get(key)), "")
    return FileStat(size if isinstance(size, int) else None, next(times, 0), tag.strip('"'))


def _nanoseconds(time: object) -> int:
    """A time in any of the forms that servers write; 0 for others."""
    try:
        if isinstance(time, str):
            is_date = re.match(r"\d{4}-", time)
            time = (
                datetime.fromisoformat(time.replace("Z", "+00:00"))
                if is_date
                else (parsedate_to_datetime(time))
            )
        if isinstance(time, datetime):
            aware = time if time.tzinfo else time.replace(tzinfo=timezone.utc)
            return int(aware.timestamp() * 1e6) * 1000
        return int(float(time) * 1e9)  # type: ignore[arg-type]
    except (ValueError, TypeError, OverflowError):
        return 0


def list_folder(folder: RemotePath) -> Iterator[Entry]:
    """What lies in a folder, unordered; in that of a web server, what its page links to.

    Raises:
        OSError: it cannot be listed; ``FileNotFoundError`` if there is none.
    """
    fs, inside = _open_filesystem(folder)
    with _plain_errors(folder):
        # A page's links are relative to its URL, which ends with a slash.
        entries = fs.ls(inside + "/" if folder.is_web else inside, detail=True)
    start = inside.rstrip("/") + "/"
    for info in entries:
        name = str(info["name"])
        # Of others are the key that stands for the folder itself, and links out of it.
        name = name.removeprefix(start).rstrip("/") if name.startswith(start) else ""
        if folder.is_web:
            name = _linked_name(name)
        if not name:
            continue
        path = RemotePath(f"{folder.url}/{name}")
        if info.get("type") == "link":
            info = _followed(path)
        if info.get("type") in ("file", "directory"):
            yield Entry(path, info["type"] == "directory", _file_stat(info))


def _linked_name(link: str) -> str:
    """The name below its page that a link leads to; empty for those that sort the page, and for
    those that lead elsewhere."""
    name = html.unescape(link).removeprefix("./")
    if "?" in name or "#" in name or ".." in name.split("/"):
        return ""
    return quote(name, safe=_URL_SIGNS)


def _followed(path: RemotePath) -> Mapping[str, Any]:
    """What a link leads to; nothing for links to folders, which may lead back."""
    try:
        info = _info(path)
    except OSError:
        return {}
    return {} if info.get("type") == "directory" else info


def _info(path: RemotePath) -> dict[str, Any]:
    fs, inside = _open_filesystem(path)
    with _plain_errors(path):
        return dict(fs.info(inside))


def kind_of(path: RemotePath) -> str:
    """What lies at a URL: "file" or "folder"; everything on a web server is a file.

    Raises:
        OSError: nothing (``FileNotFoundError``), or nobody knows.
    """
    return "folder" if _info(path).get("type") == "directory" else "file"


def stat_file(path: RemotePath) -> FileStat:
    """Size, time and tag of a file.

    Raises:
        OSError: there is none (``FileNotFoundError``), or nobody knows.
    """
    return _file_stat(_info(path))


def read_blocks(path: RemotePath) -> Iterator[bytes]:
    """The bytes of a file, a mebibyte at a time at most.

    Raises:
        OSError: it is gone, or the connection is cut.
    """
    fs, inside = _open_filesystem(path)
    # Web servers need not know about ranges.
    options = {"block_size": 0 if path.is_web else 4 * _BLOCK}
    with _plain_errors(path), fs.open(inside, "rb", **options) as file:
        while block := file.read(_BLOCK):
            yield block


def read_file(path: RemotePath, stat: FileStat | None = None) -> bytes:
    """All bytes of a photo's file.

    Args:
        path: its URL.
        stat: as a listing or :func:`stat_file` had it; None looks first.

    Raises:
        OSError: it is gone, cannot be read, is over ``MAX_PHOTO_BYTES``, or arrives incomplete.
    """
    stat = stat_file(path) if stat is None or stat.st_size is None else stat
    _check_size(path, stat.st_size or 0)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            data = _download(path, stat)
            break
        except FileNotFoundError:
            raise
        except OSError:
            if attempt == _ATTEMPTS:
                raise
    return data


def _download(path: RemotePath, stat: FileStat) -> bytes:
    if path.is_web:
        # A server may send more than it announced.
        data = bytearray()
        for block in read_blocks(path):
            data += block
            _check_size(path, len(data))
    else:
        fs, inside = _open_filesystem(path)
        with _plain_errors(path):
            data = fs.cat_file(inside)
    if stat.st_size is not None and len(data) != stat.st_size:
        raise _RemoteError(
            f"{len(data):,} of {stat.st_size:,} bytes arrived: the download was cut short, or the "
            "file changes",
            path,
        )
    return bytes(data)


def _check_size(path: RemotePath, size: int) -> None:
    if size > MAX_PHOTO_BYTES:
        raise _RemoteError(f"oversized: more than {MAX_PHOTO_BYTES:,} bytes", path)


def sha256_of(path: RemotePath) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, in bounded memory.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    for block in read_blocks(path):
        digest.update(block)
    return digest.hexdigest()


def read_url_list(lines: Iterable[str], origin: str) -> Iterator[RemotePath]:
    """The URLs in the lines of a text; empty lines and those that begin with ``#`` do not count.

    Raises:
        UsageError: a line is no URL that can be read.
    """
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith("#"):
            try:
                yield RemotePath.parse(text)
            except UsageError as error:
                raise UsageError(f"{origin}, line {number}: {error}") from None


def upload_file(source: Path | bytes, path: RemotePath) -> None:
    """Write a file behind a URL, replacing what is there.

    Raises:
        OSError: it cannot be written.
        UsageError: it lies on a web server, which nobody can write to.
    """
    if path.is_web:
        raise UsageError(f"{path}: web servers are only read; use s3://, gs:// or sftp://")
    fs, inside = _open_filesystem(path)
    with _plain_errors(path):
        if path.scheme in _SSH:
            fs.makedirs(inside.rpartition("/")[0], exist_ok=True)
        if isinstance(source, bytes):
            fs.pipe_file(inside, source)
        else:
            fs.put_file(str(source), inside)


def delete_file(path: RemotePath) -> None:
    """Remove a file behind a URL.

    Raises:
        OSError: it cannot be removed; ``FileNotFoundError`` if there is none.
    """
    fs, inside = _open_filesystem(path)
    with _plain_errors(path):
        fs.rm_file(inside)
