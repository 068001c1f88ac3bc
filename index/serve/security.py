"""Checks before every request (host, origin, load, token), and security headers on every response.

A plain ASGI middleware, so that it also covers what the framework answers by itself.
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

from index.serve.places import Places, TooBusyError, client_of
from index.serve.settings import ServeSettings

COOKIE = "delg_token"
IMAGES = b"/api/images/"
# Reached without a token: the login page and its assets, and the health check.
_PUBLIC = ("/login", "/health", "/static/")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
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


def session_value(token: str) -> str:
    """The value of the session cookie, from which the token cannot be derived."""
    return hmac.new(token.encode(), b"delg serve: page", hashlib.sha256).hexdigest()


def is_token(candidate: str, token: str) -> bool:
    """Compare in a time that does not depend on how much of the candidate is right."""
    return hmac.compare_digest(candidate.encode(), token.encode())


class SecurityMiddleware:
    """Refuses requests that fail a check, and adds security headers to all responses."""

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app, self._settings = app, settings
        self._session = session_value(settings.token) if settings.token else ""
        self._places = Places(settings.requests, "too many requests at once; try again in a moment")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        is_head = scope["method"] == "HEAD"

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.body" and is_head:
                message = {**message, "body": b""}
            if message["type"] == "http.response.start":
                headers = message.setdefault("headers", [])
                present = {name.lower() for name, _ in headers}
                for name, value in _HEADERS.items():
                    if name.encode() not in present:
                        headers.append((name.encode(), value.encode()))
            await send(message)

        refusal, client = self._refusal(scope), client_of(scope)
        if refusal is None:
            try:
                self._places.take(client)
            except TooBusyError as error:
                refusal = 503, str(error), {"retry-after": "1"}
        if refusal is not None:
            await _send_refusal(scope, send_secured, *refusal)
            return
        raw_path: bytes = scope.get("raw_path") or b""
        if raw_path.startswith(IMAGES):
            # An id may hold slashes and dots: it is taken from the path as it was sent.
            scope = {**scope, "path": raw_path.decode("latin-1")}
        if is_head:
            # The routes know GET alone.
            scope = {**scope, "method": "GET"}
        try:
            await self._app(scope, receive, send_secured)
        finally:
            self._places.leave(client)

    def _refusal(self, scope: Scope) -> tuple[int, str, dict[str, str]] | None:
        """Status, reason and headers, if the request must not be served."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if not self._is_trusted_host(host):
            return 403, f"host {host!r} is not allowed; see --allow-host", {}
        if scope["method"] not in _SAFE_METHODS and _is_cross_site(headers, host):
            return 403, "requests from pages of other sites are not allowed", {}
        if self._settings.token and not self._is_authorized(scope["path"], headers):
            return 401, "a token is required", {"www-authenticate": 'Bearer realm="delg"'}
        return None

    def _is_trusted_host(self, host: str) -> bool:
        """Whether the Host header is one of ours, so that no other site's name leads here.

        Starlette's TrustedHostMiddleware cannot allow any IP address, nor answer with our errors.
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in (self._settings.host, *self._settings.allow_hosts):
            return True
        if self._settings.is_local:
            return name in _LOCAL_NAMES
        # With a token any name will do: browsers send the session cookie to its own host only.
        is_own = name in (*_LOCAL_NAMES, *_machine_names()) or _is_ip_address(name)
        return bool(self._settings.token) or is_own

    def _is_authorized(self, path: str, headers: dict[bytes, str]) -> bool:
        if path.startswith(_PUBLIC):
            return True
        scheme, _, value = headers.get(b"authorization", "").partition(" ")
        if scheme.lower() == "bearer" and is_token(value.strip(), self._settings.token or ""):
            return True
        try:
            cookie = SimpleCookie(headers.get(b"cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and is_token(cookie.value, self._session)


def _machine_names() -> tuple[str, str]:
    name = socket.gethostname().lower()
    return name, f"{name}.local"


def _is_ip_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        return False


def _is_cross_site(headers: dict[bytes, str], host: str) -> bool:
    """Whether a page of another site sends the request; programs set neither header."""
    if headers.get(b"sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = headers.get(b"origin")
    return origin is not None and origin.partition("://")[2] != host


async def _send_refusal(
    scope: Scope, send: Send, status: int, reason: str, headers: dict[str, str]
) -> None:
    """JSON for programs, plain text for browsers; who lacks the token is led to the login page."""
    media_type, body = "application/json", json.dumps({"error": reason})
    wants_page = b"text/html" in dict(scope["headers"]).get(b"accept", b"")
    root = scope.get("delg.prefix", "")
    is_htmx = any(name == b"hx-request" for name, _ in scope["headers"])
    if status == 401 and is_htmx:
        headers = {**headers, "hx-redirect": f"{root}/login"}
    elif status == 401 and wants_page and scope["method"] in _SAFE_METHODS:
        query = scope["query_string"].decode("latin-1")
        target = root + scope["path"] + (f"?{query}" if query else "")
        status, headers = 303, {"location": f"{root}/login?next={quote(target, safe='')}"}
    elif wants_page or is_htmx:
        media_type, body = "text/plain; charset=utf-8", reason
    start: dict[str, Any] = {"type": "http.response.start", "status": status}
    fields = {"content-type": media_type, "content-length": str(len(body.encode())), **headers}
    start["headers"] = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
    await send(start)
    await send({"type": "http.response.body", "body": body.encode()})
