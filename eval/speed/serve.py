"""Stages of a running server: ``delg eval speed --serve``."""

from __future__ import annotations

from collections.abc import Iterator

from eval.speed.harness import Bench, Result, Row, stage
from eval.speed.server_load import measure_server
from eval.speed.warm_query import many_photos

NAMES = ("serve_query", "serve_query_8_clients", "serve_throughput", "serve_memory")


@stage(*NAMES, extra="serve")
def serve(bench: Bench) -> Iterator[Result]:
    """Queries over HTTP, compared with the engine alone."""
    photo, count = many_photos(bench.folder, bench.quick)
    speed = measure_server(
        bench.folder / "index", photo, seconds=5 if bench.quick else 60, runs=bench.runs
    )
    note = f"{count:,} photos, 100 verified, over HTTP"
    yield Row.of(NAMES[0], speed.single_client_ms, note=f"warm, one client, {note}")
    yield Row.of(
        NAMES[1], speed.concurrent_ms, note=f"eight clients, {speed.errors} errors, {note}"
    )
    rate = f"the engine alone with as many threads: {speed.engine_per_second:.2f}"
    yield Row.of(NAMES[2], [speed.per_second], "queries/s", note=rate, more_is_better=True)
    if speed.memory_mib is not None:
        warm, after_load, final = speed.memory_mib
        note = f"warm {warm:.0f}, after a first round of clients {after_load:.0f}"
        yield Row.of(NAMES[3], [final], "MiB", note=note)
