"""``delg serve`` in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from eval.speed.server_load import measure_server


@contextlib.contextmanager
def serving(*words: str, cwd: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server and its address; its model is loaded."""
    with subprocess.Popen(
        [sys.executable, "-m", "delg", "serve", "--port", "0", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    ) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:"), process.stderr.read()
            yield process, address
        finally:
            process.kill()


def test_a_query_over_http_is_what_the_command_line_prints(shop, run):
    folder = shop[0]
    with serving("--index", "i", cwd=folder) as (process, address):
        # It is ready from the first answer on.
        assert httpx.get(f"{address}/health").json() == {"status": "ok"}
        with (folder / "query.jpg").open("rb") as file:
            upload = {"image": ("query.jpg", file.read())}
        fields = {"k": "2", "box": "20,10,300,200", "rerank": "2"}
        answer = httpx.post(f"{address}/api/query", files=upload, data=fields, timeout=240).json()
        process.send_signal(signal.SIGINT)
        _, talk = process.communicate(timeout=240)
    assert process.returncode == 0 and "stopped" in talk and "Traceback" not in talk
    words = ("query", "query.jpg", "--index", "i", "-k", "2", "--json", "--rerank", "2")
    printed = json.loads(run(*words, "--box", "20,10,300,200", cwd=folder).stdout)
    for result in (answer, printed):
        result["timing_ms"] = list(result["timing_ms"])
    assert answer == printed and answer["hits"][0]["id"] == "pets/chelsea.jpg"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--host", "0.0.0.0"), "--token"),
        (("--token", "short"), "--token"),
        (("--runs", "nowhere"), "--runs"),
        (("--index", "nowhere"), "no index there"),
    ],
)
def test_wrong_use_is_told_before_anything_is_loaded(shop, run, words, said):
    done = run("serve", "--index", "i", *words, cwd=shop[0])
    assert done.returncode in (1, 2) and said in done.stderr
    assert len(done.stderr.splitlines()) <= 3 and not done.stdout


def test_how_fast_it_answers_can_be_measured(shop):
    speed = measure_server(shop[0] / "i", shop[0] / "query.jpg", seconds=0.4, clients=2, runs=2)
    assert len(speed.single_client_ms) == 2 and min(speed.single_client_ms) > 0
    assert speed.errors == 0 and speed.per_second >= 0 and speed.engine_per_second >= 0
    if sys.platform == "linux":
        assert speed.memory_mib is not None and min(speed.memory_mib) > 50
