"""A file from the web onto the disk, continued where it was cut off."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from delg.errors import DelgError

# Called as progress(done, total) in bytes; total is 0 where the server does not say.
Progress = Callable[[int, int], None]
MAX_BYTES = 4 << 30
TIMEOUT = 30.0
_TRIES = 4
_BLOCK = 1 << 18
_HINT = "on a machine without a network, give the file with --from FILE"


class _CutOffError(Exception):
    """The connection ended too soon; what came is kept."""


def download(url: str, path: Path, progress: Progress | None = None) -> None:
    """Fetch a file; it appears under its name when it is complete.

    What has come of it lies beside it as ``.part``, and the next call asks for the rest. The
    server's mark of the version (ETag or date) keeps two versions from being mixed. A connection
    that breaks is tried again a few times as long as something comes.

    Raises:
        DelgError: the server cannot be reached, has no such file or says nonsense, the connection
            keeps breaking, or the disk is full; the message says what to do.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for tries in range(1, _TRIES + 1):
            try:
                _fetch(url, part, progress)
                break
            except _CutOffError as error:
                if tries == _TRIES:
                    raise DelgError(
                        f"{url}: the connection broke ({error}); what came is kept, the same "
                        "command continues"
                    ) from None
        part.replace(path)
        _mark_file(part).unlink(missing_ok=True)
    except OSError as error:
        raise DelgError(
            f"{path}: cannot be written: {error.strerror or error}; what came is kept, make room "
            "and run the same command again"
        ) from None


def _mark_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _fetch(url: str, part: Path, progress: Progress | None) -> None:
    """Ask for what is missing of the file, once."""
    have = part.stat().st_size if part.exists() else 0
    mark = _read_mark(part, url)
    if not mark:
        have = 0
    try:
        request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    except ValueError as error:
        raise DelgError(f"{url}: not an address ({error})") from None
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", mark)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            # The rest is empty or the file has changed; only its beginning can tell.
            part.unlink(missing_ok=True)
            raise _CutOffError("the server has no such range") from None
        what = "there is no such file" if error.code == 404 else f"the server says {error.reason}"
        raise DelgError(f"{url}: {what} ({error.code})") from None
    except urllib.error.URLError as error:
        raise DelgError(f"{url}: cannot be reached: {error.reason}; {_HINT}") from None
    except (TimeoutError, ConnectionError, HTTPException) as error:
        raise _CutOffError(str(error) or type(error).__name__) from None
    with response:
        _receive(url, response, part, have if response.status == 206 else 0, progress)


def _receive(
    url: str, response: HTTPResponse, part: Path, start: int, progress: Progress | None
) -> None:
    length = response.headers.get("Content-Length", "")
    total = start + int(length) if length.isdigit() else 0
    if start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        part.unlink(missing_ok=True)
        raise _CutOffError("the server sent another part than asked for")
    _write_mark(part, url, response.headers.get("ETag") or response.headers.get("Last-Modified"))
    done = start
    with part.open("ab" if start else "wb") as file:
        while True:
            try:
                block = response.read1(_BLOCK)
            except (TimeoutError, ConnectionError, HTTPException) as error:
                raise _CutOffError(str(error) or type(error).__name__) from None
            if not block:
                break
            done += len(block)
            if max(done, total) > MAX_BYTES:
                raise DelgError(f"{url}: is larger than {MAX_BYTES >> 30} GiB; not downloaded")
            file.write(block)
            if progress:
                progress(done, total)
    if total and done < total:
        raise _CutOffError(f"{done:,} of {total:,} bytes came")


def _read_mark(part: Path, url: str) -> str:
    """The server's mark of the version of which the part is; empty if there is none to trust."""
    try:
        said = json.loads(_mark_file(part).read_text("utf-8"))
        return str(said["mark"]) if said["url"] == url else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _write_mark(part: Path, url: str, mark: str | None) -> None:
    # A weak mark does not promise the same bytes.
    good = "" if mark is None or mark.startswith("W/") else mark
    _mark_file(part).write_text(json.dumps({"url": url, "mark": good}), "utf-8")
