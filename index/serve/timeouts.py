"""Limits on how long a connection may keep the server waiting, on top of uvicorn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from index.serve.places import Places, TooBusyError, network_of
from index.serve.settings import ServeSettings
from index.storage.open_segments import max_open_segments

# Seconds that running requests get to finish when the server stops.
_SHUTDOWN_SECONDS = 5
# Seconds that a connection may be idle between two requests.
_IDLE_SECONDS = 30
_MAX_HEAD_BYTES = 64 * 1024


class _Timer:
    """Calls ``on_timeout`` when so many seconds have passed since the start."""

    def __init__(self, seconds: float, on_timeout: Callable[[], None]) -> None:
        self._seconds, self._on_timeout = seconds, on_timeout
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start, unless it is running."""
        if self._handle is None:
            loop = asyncio.get_running_loop()
            self._handle = loop.call_later(self._seconds, self._on_timeout)

    def stop(self) -> None:
        """Cancel the call."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class _TimedProtocol(H11Protocol):
    """Drops clients that send a request too slowly or do not read the response.

    uvicorn's own protocol waits for them without limit.

    Attributes:
        head_seconds: limit for receiving the head of a request, or a body that no route reads.
        answer_seconds: limit for the client to read what was sent.
        places: for connections.
    """

    head_seconds: float
    answer_seconds: float
    places: Places
    _place: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        client = network_of((transport.get_extra_info("peername") or ("",))[0])
        try:
            self.places.take(client)
            self._place = client
        except TooBusyError:
            # There is no handle to spare for an answer.
            transport.abort()
        self._head_timer = _Timer(self.head_seconds, transport.abort)
        self._write_timer = _Timer(self.answer_seconds, transport.abort)
        super().connection_made(transport)
        # Report every byte that the client does not read at once.
        transport.set_write_buffer_limits(0)
        self._head_timer.start()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._head_timer.start()
        else:
            # After the head, the reader of the body sets the limit (uploads.py).
            self._head_timer.stop()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_timer.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_timer.stop()
        self._write_timer.stop()
        if self._place is not None:
            self.places.leave(self._place)
        super().connection_lost(exc)


def _max_connections(settings: ServeSettings) -> int:
    """Connections at once, so that twice as many leave handles for the index and for photos."""
    return min(settings.connections, max(1, max_open_segments() // 3))


def server_config(app: ASGIApp, settings: ServeSettings) -> uvicorn.Config:
    """uvicorn's configuration for the application."""

    class Protocol(_TimedProtocol):
        head_seconds = settings.head_seconds
        answer_seconds = settings.answer_seconds
        places = Places(_max_connections(settings), "too many connections at once")

    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=Protocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
    )
