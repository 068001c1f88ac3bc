"""What every request passes first: who asks, from where, and what browsers may do with the answer.

A plain ASGI wrapper, so that it also stands before what the framework answers by itself.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import socket
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from index.serve.settings import ServeSettings

COOKIE = "delg_token"
IMAGES = b"/api/images/"
# Reached without a token: the way in, what its page is made of, and whether the server lives.
_OPEN = ("/login", "/health", "/static/")
_SAFE = ("GET", "HEAD", "OPTIONS")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
# Script and style come from files of the package alone.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


def session(token: str) -> str:
    """What the cookie holds in place of the token."""
    return hmac.new(token.encode(), b"delg serve: page", hashlib.sha256).hexdigest()


def is_token(given: str, token: str) -> bool:
    """Whether it is the token, in a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode(), token.encode())


class Guard:
    """The wrapper; see the head of this file."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app, self._settings = app, settings
        self._session = session(settings.token) if settings.token else ""
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        without_body = scope["method"] == "HEAD"

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.body" and without_body:
                message = {**message, "body": b""}
            if message["type"] == "http.response.start":
                headers = message.setdefault("headers", [])
                known = {name.lower() for name, _ in headers}
                for name, value in _HEADERS.items():
                    if name.encode() not in known:
                        headers.append((name.encode(), value.encode()))
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await _answer(scope, guarded, *refusal)
            return
        raw: bytes = scope.get("raw_path") or b""
        if raw.startswith(IMAGES):
            # An id may hold slashes and dots: it is taken from the path as it was sent.
            scope = {**scope, "path": raw.decode("latin-1")}
        if without_body:
            # The routes know GET alone.
            scope = {**scope, "method": "GET"}
        self._inside += 1
        try:
            await self._app(scope, receive, guarded)
        finally:
            self._inside -= 1

    def _refusal(self, scope: Scope) -> tuple[int, str, dict[str, str]] | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if not self._is_known(host):
            return 403, f"this server does not answer to the name {host!r}; see --allow-host", {}
        if scope["method"] not in _SAFE and _is_foreign(headers, host):
            return 403, "pages of other sites may not ask this server for anything", {}
        if self._inside >= self._settings.requests:
            return 503, "too many requests at once; try again in a moment", {"retry-after": "1"}
        if self._settings.token and not self._may_enter(scope["path"], headers):
            return 401, "a token is needed", {"www-authenticate": 'Bearer realm="delg"'}
        return None

    def _is_known(self, host: str) -> bool:
        """Whether a page elsewhere cannot have its own name lead here: it would count as ours."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in (self._settings.host, *self._settings.allow_hosts):
            return True
        if self._settings.is_local:
            return name in _LOCAL_NAMES
        # With a token, browsers bring what lets them in to its own name only.
        return bool(self._settings.token) or name in (*_LOCAL_NAMES, *_machine()) or _is_ip(name)

    def _may_enter(self, path: str, headers: dict[bytes, str]) -> bool:
        if path.startswith(_OPEN):
            return True
        kind, _, given = headers.get(b"authorization", "").partition(" ")
        if kind.lower() == "bearer" and is_token(given.strip(), self._settings.token or ""):
            return True
        try:
            cookie = SimpleCookie(headers.get(b"cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and is_token(cookie.value, self._session)


def _machine() -> tuple[str, str]:
    name = socket.gethostname().lower()
    return name, f"{name}.local"


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        return False


def _is_foreign(headers: dict[bytes, str], host: str) -> bool:
    """Whether a page of another site makes the browser ask; programs send neither header."""
    if headers.get(b"sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = headers.get(b"origin")
    return origin is not None and origin.partition("://")[2] != host


async def _answer(
    scope: Scope, send: Send, status: int, reason: str, headers: dict[str, str]
) -> None:
    kind, body = "application/json", json.dumps({"error": reason})
    wants_page = b"text/html" in dict(scope["headers"]).get(b"accept", b"")
    is_htmx = any(name == b"hx-request" for name, _ in scope["headers"])
    if status == 401 and is_htmx:
        headers = {**headers, "hx-redirect": "/login"}
    elif status == 401 and wants_page and scope["method"] in _SAFE:
        query = scope["query_string"].decode("latin-1")
        back = scope["path"] + (f"?{query}" if query else "")
        status, headers = 303, {"location": f"/login?next={quote(back, safe='')}"}
    elif wants_page or is_htmx:
        kind, body = "text/plain; charset=utf-8", reason
    start: dict[str, Any] = {"type": "http.response.start", "status": status}
    named = {"content-type": kind, "content-length": str(len(body.encode())), **headers}
    start["headers"] = [(name.encode(), value.encode("latin-1")) for name, value in named.items()]
    await send(start)
    await send({"type": "http.response.body", "body": body.encode()})
