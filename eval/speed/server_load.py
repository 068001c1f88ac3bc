"""Latency and throughput of ``delg serve``: one client, several at once, the engine alone."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from threadpoolctl import threadpool_limits

from delg.errors import DelgError
from index.image_index import ImageIndex
from index.serve.settings import ServeSettings

_MIB = 1 << 20
_WAIT = 120


@dataclass(frozen=True)
class ServeSpeed:
    """Speed of a server.

    Attributes:
        single_client_ms: per warm query of a single client.
        concurrent_ms: per query of several concurrent clients.
        per_second: queries per second of the concurrent clients.
        engine_per_second: the same without HTTP, by as many threads as the server has workers.
        errors: responses other than 200 to the concurrent clients.
        memory_mib: the server's resident memory when warm, after a first round of the clients, and
            at the end; None if the system does not report it.
    """

    single_client_ms: list[float]
    concurrent_ms: list[float]
    per_second: float
    engine_per_second: float
    errors: int
    memory_mib: tuple[float, float, float] | None


def measure_server(
    index: Path, photo: Path, seconds: float = 10.0, clients: int = 8, runs: int = 9
) -> ServeSpeed:
    """Start a server of an index and query it with a photo.

    Args:
        index: whose model is available.
        photo: file of the query.
        seconds: duration of the concurrent load, after a warm-up of half as long.
        clients: concurrent clients.
        runs: queries of a single client.

    Raises:
        DelgError: the server does not start.
    """
    data = photo.read_bytes()
    with running_server(index) as (process, address):
        send = _client(address, data)
        for _ in range(2):
            send()
        single = [send()[0] for _ in range(runs)]
        warm = _resident_mib(process.pid)
        _load(address, data, clients, seconds / 2)
        after_load = _resident_mib(process.pid)
        responses = _load(address, data, clients, seconds)
        final = _resident_mib(process.pid)
    succeeded = [duration for duration, status in responses if status == 200]
    memory = (warm, after_load, final)
    return ServeSpeed(
        single_client_ms=single,
        concurrent_ms=succeeded,
        per_second=len(succeeded) / seconds,
        engine_per_second=_engine_rate(index, data, ServeSettings().workers, seconds),
        errors=len(responses) - len(succeeded),
        memory_mib=None if None in memory else memory,  # type: ignore[arg-type]
    )


@contextmanager
def running_server(index: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``delg serve`` of an index: its process, and its address."""
    command = [sys.executable, "-m", "delg.cli.main", "serve", "--index", str(index), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            if not address:
                raise DelgError(f"delg serve --index {index} did not start; the reason is above")
            yield process, address
        finally:
            process.terminate()
            try:
                process.wait(_WAIT)
            except subprocess.TimeoutExpired:
                process.kill()


def _client(address: str, data: bytes) -> Callable[[], tuple[float, int]]:
    """A function that sends the query and returns milliseconds and status."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=_WAIT)

    def send() -> tuple[float, int]:
        started = time.perf_counter()
        connection.request("POST", "/api/query", data, {"Content-Type": "image/jpeg"})
        response = connection.getresponse()
        response.read()
        return (time.perf_counter() - started) * 1000, response.status

    return send


def _load(address: str, data: bytes, clients: int, seconds: float) -> list[tuple[float, int]]:
    """Milliseconds and status of every response to concurrent clients within that time."""
    until = time.perf_counter() + seconds

    def client(_: int) -> list[tuple[float, int]]:
        send, responses = _client(address, data), []
        while time.perf_counter() < until:
            response = send()
            if time.perf_counter() < until:
                responses.append(response)
        return responses

    with ThreadPoolExecutor(clients) as pool:
        return [response for batch in pool.map(client, range(clients)) for response in batch]


def _engine_rate(index: Path, data: bytes, threads: int, seconds: float) -> float:
    """Queries per second of threads that share one index, as the server's workers do."""
    lock, count = threading.Lock(), 0
    with ImageIndex.open(index) as images, threadpool_limits(1, user_api="blas"):
        images.query(data)
        until = time.perf_counter() + seconds

        def work(_: int) -> None:
            nonlocal count
            while time.perf_counter() < until:
                images.query(data)
                with lock:
                    count += time.perf_counter() < until

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
    return count / seconds


def _resident_mib(process: int) -> float | None:
    """Resident memory of a process in MiB; None if the system does not report it."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    rss = next((line for line in lines if line.startswith("VmRSS:")), None)
    return None if rss is None else int(rss.split()[1]) * 1024 / _MIB
