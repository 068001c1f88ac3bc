"""Stages of a running server: ``delg eval speed --serve``."""

from __future__ import annotations

from collections.abc import Iterator

from eval.speed.harness import Bench, Result, Row, stage
from eval.speed.photos import many_photos
from eval.speed.serve_speed import measure

NAMES = ("serve_query", "serve_query_8_clients", "serve_throughput", "serve_memory")


@stage(*NAMES, extra="serve")
def serve(bench: Bench) -> Iterator[Result]:
    """Queries over HTTP, beside those of the engine alone."""
    photo, count = many_photos(bench.folder, bench.quick)
    found = measure(
        bench.folder / "index", photo, seconds=5 if bench.quick else 60, runs=bench.runs
    )
    note = f"{count:,} photos, 100 verified, over HTTP"
    yield Row.of(NAMES[0], found.alone_ms, note=f"warm, one client, {note}")
    yield Row.of(NAMES[1], found.crowded_ms, note=f"eight clients, {found.errors} errors, {note}")
    rate = f"the engine alone with as many threads: {found.engine_per_second:.2f}"
    yield Row.of(NAMES[2], [found.per_second], "queries/s", note=rate, more_is_better=True)
    if found.memory_mib is not None:
        warm, settled, last = found.memory_mib
        note = f"warm {warm:.0f}, after a first round of clients {settled:.0f}"
        yield Row.of(NAMES[3], [last], "MiB", note=note)
