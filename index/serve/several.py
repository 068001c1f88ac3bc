"""Several indexes in one server: pages and API of the first one at the root, and of each below
``/indexes/NAME``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from urllib.parse import quote, unquote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFIX = b"/indexes/"


def index_root(names: Iterable[str], name: str) -> str:
    """The path that the addresses of an index begin with; that of the first one is empty."""
    return "" if name == next(iter(names)) else PREFIX.decode() + quote(name, safe="")


class IndexSwitch:
    """Hands each request to the application of its index.

    Args:
        apps: by name of the index; the first one is at the root.
    """

    def __init__(self, apps: Mapping[str, ASGIApp]) -> None:
        self._apps = dict(apps)
        self._root, *self._others = self._apps.values()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        app, scope = self._choose(scope)
        await app(scope, receive, send)

    def _choose(self, scope: Scope) -> tuple[ASGIApp, Scope]:
        raw: bytes = scope.get("raw_path") or quote(scope.get("path", "")).encode()
        if not raw.startswith(PREFIX):
            return self._root, scope
        name, _, rest = raw.removeprefix(PREFIX).partition(b"/")
        path = "/" + unquote(rest.decode("latin-1"))
        app = self._apps.get(unquote(name.decode("latin-1")))
        if app is None:
            return self._root, scope
        prefix = (PREFIX + name).decode("latin-1")
        return app, {**scope, "path": path, "raw_path": b"/" + rest, "delg.prefix": prefix}

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        others = [_Lifespan(app) for app in self._others]
        for other in others:
            await other.start()
        await self._root(scope, receive, send)
        for other in others:
            await other.stop()


class _Lifespan:
    """Starts and stops an application inside another one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._started = asyncio.Event()

    async def _send(self, message: Message) -> None:
        if message["type"].startswith("lifespan.startup"):
            self._started.set()

    async def start(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self._messages.put_nowait({"type": "lifespan.startup"})
        running = self._app(scope, self._messages.get, self._send)
        self._task = asyncio.ensure_future(running)
        await self._started.wait()

    async def stop(self) -> None:
        self._messages.put_nowait({"type": "lifespan.shutdown"})
        await self._task
