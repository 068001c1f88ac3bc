"""Numbers of the server for Prometheus, where ``prometheus_client`` is installed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from index.results import QueryResult

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts requests and times queries; without the library it does nothing.

    Args:
        gauges: by name, a description and a function that gives the present value.
    """

    def __init__(self, gauges: dict[str, tuple[str, Callable[[], float]]]) -> None:
        self._registry: CollectorRegistry | None = None
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        except ImportError:
            return
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "delg_requests", "Requests answered.", ("method", "route", "status"),
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "delg_request_seconds", "Time to answer a request.", ("route",), buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self._stages = Histogram(
            "delg_query_seconds", "Time of a query by stage.", ("stage",), buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        for name, (description, value) in gauges.items():
            Gauge(name, description, registry=self._registry).set_function(value)

    def observe_query(self, result: QueryResult) -> None:
        """Count a query."""
        if self._registry is not None:
            for stage, milliseconds in result.timing_ms.items():
                self._stages.labels(stage).observe(milliseconds / 1000)

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        if self._registry is not None:
            self._requests.labels(method, route, str(status)).inc()
            self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes | None:
        """All numbers in Prometheus' format; None without the library."""
        if self._registry is None:
            return None
        from prometheus_client import generate_latest

        return generate_latest(self._registry)


class MetricsMiddleware:
    """Tells the metrics of each request, by the pattern of its route: ids would be too many."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        finally:
            route: Any = scope.get("route")
            pattern = getattr(route, "path", "none")
            seconds = time.perf_counter() - started
            # Clients choose the method.
            method = scope["method"] if route is not None else "none"
            self._metrics.observe_request(method, pattern, status, seconds)
