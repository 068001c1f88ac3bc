"""How fast ``delg serve`` answers: one client, several at once, and the engine without HTTP."""

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
    """What was measured.

    Attributes:
        alone_ms: of each warm query, asked one after another over HTTP.
        crowded_ms: of each query while ``clients`` asked at once.
        per_second: queries answered a second while they did, and ``engine_per_second`` by the
            same number of threads as the server has workers, without HTTP.
        errors: answers other than 200 while they did.
        memory_mib: the server's resident memory when it was warm, after a first round of the
            clients, and at the end; None where the system does not tell.
    """

    alone_ms: list[float]
    crowded_ms: list[float]
    per_second: float
    engine_per_second: float
    errors: int
    memory_mib: tuple[float, float, float] | None


def measure(
    index: Path, photo: Path, seconds: float = 10.0, clients: int = 8, runs: int = 9
) -> ServeSpeed:
    """Start a server over an index and ask it for a photo.

    Args:
        index: with a model that is here.
        photo: to look for, as a file.
        seconds: that the clients ask for; half as long beforehand does not count.
        clients: at once.
        runs: queries of one client alone.

    Raises:
        DelgError: the server does not start.
    """
    data = photo.read_bytes()
    with _server(index) as (process, address):
        ask = _asker(address, data)
        for _ in range(2):
            ask()
        alone = [ask()[0] for _ in range(runs)]
        warm = _resident(process.pid)
        _crowd(address, data, clients, seconds / 2)
        settled = _resident(process.pid)
        crowded = _crowd(address, data, clients, seconds)
        last = _resident(process.pid)
    good = [taken for taken, status in crowded if status == 200]
    return ServeSpeed(
        alone_ms=alone,
        crowded_ms=good,
        per_second=len(good) / seconds,
        engine_per_second=_engine(index, data, ServeSettings().workers, seconds),
        errors=len(crowded) - len(good),
        memory_mib=None if None in (warm, settled, last) else (warm, settled, last),  # type: ignore[arg-type]
    )


@contextmanager
def _server(index: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    words = [sys.executable, "-m", "delg.cli.main", "serve", "--index", str(index), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            if not address:
                raise DelgError(f"delg serve --index {index} did not start; it said why above")
            yield process, address
        finally:
            process.terminate()
            try:
                process.wait(_WAIT)
            except subprocess.TimeoutExpired:
                process.kill()


def _asker(address: str, data: bytes) -> Callable[[], tuple[float, int]]:
    """One client: asks, and says how many milliseconds it took and what status came."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=_WAIT)

    def ask() -> tuple[float, int]:
        started = time.perf_counter()
        connection.request("POST", "/api/query", data, {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        answer.read()
        return (time.perf_counter() - started) * 1000, answer.status

    return ask


def _crowd(address: str, data: bytes, clients: int, seconds: float) -> list[tuple[float, int]]:
    """What all answers within that time took, and their statuses."""
    until = time.perf_counter() + seconds

    def client(_: int) -> list[tuple[float, int]]:
        ask, found = _asker(address, data), []
        while time.perf_counter() < until:
            answer = ask()
            if time.perf_counter() < until:
                found.append(answer)
        return found

    with ThreadPoolExecutor(clients) as pool:
        return [one for found in pool.map(client, range(clients)) for one in found]


def _engine(index: Path, data: bytes, threads: int, seconds: float) -> float:
    """Queries a second by threads that share one index, as the server's workers do."""
    lock, counted = threading.Lock(), 0
    with ImageIndex.open(index) as images, threadpool_limits(1, user_api="blas"):
        images.query(data)
        until = time.perf_counter() + seconds

        def work(_: int) -> None:
            nonlocal counted
            while time.perf_counter() < until:
                images.query(data)
                with lock:
                    counted += time.perf_counter() < until

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
    return counted / seconds


def _resident(process: int) -> float | None:
    """MiB of memory that a process holds, where the system tells."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith("VmRSS:")), None)
    return None if found is None else int(found.split()[1]) * 1024 / _MIB
