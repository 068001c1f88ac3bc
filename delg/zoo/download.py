"""Download a file; an interrupted download is continued."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from delg.errors import DelgError
from delg.plain_values import parse_json, read_text

# Called as progress(done, total) in bytes; total is 0 where the server does not say.
Progress = Callable[[int, int], None]
MAX_BYTES = 4 << 30
TIMEOUT = 30.0
_TRIES = 4
_BLOCK = 1 << 18
_HINT = "on a machine without a network, give the file with --from FILE"


class _CutOffError(Exception):
    """The connection ended too soon; what arrived is kept."""


def download(url: str, path: Path, progress: Progress | None = None) -> None:
    """Fetch a file; it appears under its name when it is complete.

    What has arrived is kept in the same folder as ``.part``, and the next call requests the rest.
    The server's validator (ETag or date) keeps two versions from being mixed. A connection that
    breaks is tried again a few times.

    Args:
        url: of the file.
        path: where to put it.
        progress: called as ``progress(done, total)`` in bytes.

    Raises:
        DelgError: the server cannot be reached, has no such file or answers nonsense, the
            connection keeps breaking, or the disk is full; the message says what to do.
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
                        f"{url}: the connection broke ({error}); what arrived is kept, the same "
                        "command continues"
                    ) from None
        part.replace(path)
        _validator_file(part).unlink(missing_ok=True)
    except OSError as error:
        raise DelgError(
            f"{path}: cannot be written: {error.strerror or error}; what arrived is kept, make "
            "room and run the same command again"
        ) from None


def _validator_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _fetch(url: str, part: Path, progress: Progress | None) -> None:
    """Request what is missing of the file, once."""
    size = part.stat().st_size if part.exists() else 0
    validator = _read_validator(part, url)
    if not validator:
        size = 0
    try:
        request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    except ValueError as error:
        raise DelgError(f"{url}: not an address ({error})") from None
    if size:
        request.add_header("Range", f"bytes={size}-")
        request.add_header("If-Range", validator)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            # The rest is empty or the file has changed: start again.
            part.unlink(missing_ok=True)
            raise _CutOffError("the server has no such range") from None
        reason = "there is no such file" if error.code == 404 else f"the server says {error.reason}"
        raise DelgError(f"{url}: {reason} ({error.code})") from None
    except urllib.error.URLError as error:
        raise DelgError(f"{url}: cannot be reached: {error.reason}; {_HINT}") from None
    except (TimeoutError, ConnectionError, HTTPException) as error:
        raise _CutOffError(str(error) or type(error).__name__) from None
    with response:
        _receive(url, response, part, size if response.status == 206 else 0, progress)


def _receive(
    url: str, response: HTTPResponse, part: Path, start: int, progress: Progress | None
) -> None:
    length = response.headers.get("Content-Length", "")
    total = start + int(length) if length.isdigit() else 0
    if start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        part.unlink(missing_ok=True)
        raise _CutOffError("the server sent another part than requested")
    validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
    _write_validator(part, url, validator)
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
        raise _CutOffError(f"{done:,} of {total:,} bytes arrived")


def _read_validator(part: Path, url: str) -> str:
    """The server's validator of the version of which the part is; empty without a reliable one."""
    try:
        record = parse_json(read_text(_validator_file(part)))
        return str(record["mark"]) if record["url"] == url else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _write_validator(part: Path, url: str, validator: str | None) -> None:
    # A weak validator does not promise the same bytes.
    strong = "" if validator is None or validator.startswith("W/") else validator
    _validator_file(part).write_text(json.dumps({"url": url, "mark": strong}), "utf-8")
