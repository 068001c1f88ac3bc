"""Connections: how they are listened to, and for how long one may keep the server waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from index.serve.settings import ServeSettings

# Seconds that requests get to finish when the server is told to stop.
_GRACE = 5
# Seconds that a connection may lie idle between two requests.
_IDLE = 30
_LONGEST_HEAD = 64 * 1024


class _Timer:
    """Calls ``late`` once so many seconds have passed since it was started."""

    def __init__(self, seconds: float, late: Callable[[], None]) -> None:
        self._seconds, self._late = seconds, late
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start; one that runs goes on."""
        if self._handle is None:
            loop = asyncio.get_running_loop()
            self._handle = loop.call_later(self._seconds, self._late)

    def stop(self) -> None:
        """Call nobody."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class _TimedProtocol(H11Protocol):
    """uvicorn's own waits for ever where a request trickles in or its answer is not taken.

    Attributes:
        head_seconds: until the head of a request is there, or a body that nobody reads.
        answer_seconds: until what was sent has been taken.
    """

    head_seconds: float
    answer_seconds: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._asking = _Timer(self.head_seconds, transport.abort)
        self._taking = _Timer(self.answer_seconds, transport.abort)
        super().connection_made(transport)
        # Told of every byte that is not taken at once.
        transport.set_write_buffer_limits(0)
        self._asking.start()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._asking.start()
        else:
            # From the head on, whoever reads the body says how long that may take.
            self._asking.stop()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._taking.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._taking.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._asking.stop()
        self._taking.stop()
        super().connection_lost(exc)


def server_config(app: ASGIApp, settings: ServeSettings) -> uvicorn.Config:
    """How uvicorn serves the application."""

    class Protocol(_TimedProtocol):
        head_seconds = settings.head_seconds
        answer_seconds = settings.answer_seconds

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
        timeout_keep_alive=_IDLE,
        timeout_graceful_shutdown=_GRACE,
        h11_max_incomplete_event_size=_LONGEST_HEAD,
    )
