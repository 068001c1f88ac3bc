"""A server of the application in a thread of the tests."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from index.serve.settings import ServeSettings
from index.serve.timeouts import server_config


@contextlib.contextmanager
def at_port(app: ASGIApp, settings: ServeSettings | None = None) -> Iterator[str]:
    """Serve an application in a thread; gives its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(server_config(app, settings or ServeSettings()))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        until = time.monotonic() + 120
        while not server.started:
            assert thread.is_alive() and time.monotonic() < until
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
