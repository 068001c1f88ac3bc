"""More requests than there is room for, slow ones, and ones that go away."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from bad_photos import encoded
from dots import DotModel, dots, gallery
from servers import at_port

from delg.images.decode import is_quick
from index import ImageIndex
from index.serve.app import make_app
from index.serve.job_queue import GoneError, JobQueue, never
from index.serve.places import TooBusyError
from index.serve.service import Service
from index.serve.settings import ServeSettings
from index.serve.shared_index import SharedIndex

PHOTO = encoded(dots(3).pixels(), "PNG")
# One for all: to make one takes longer than most requests.
CLIENT = httpx.Client(timeout=60)
HEAD = "POST /api/query HTTP/1.1\r\nhost: 127.0.0.1\r\n"


class HeldModel(DotModel):
    """A model of dots that looks at no photo while ``free`` is not set."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.free = threading.Event()
        self.free.set()

    def extract(self, *arguments, **named):
        assert self.free.wait(60)
        return super().extract(*arguments, **named)


def wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture
def site(place, dot_model_folder):
    """Settings -> the address of a server, its service and its model."""
    closing = []

    def start(**settings):
        model = HeldModel(dot_model_folder)
        service = Service(SharedIndex(place, extractor=model), ServeSettings(**settings))
        running = at_port(make_app(service), service.settings)
        closing.append(running)
        return running.__enter__(), service, model

    yield start
    for running in closing:
        running.__exit__(None, None, None)


def ask(address: str, **values) -> httpx.Response:
    values.setdefault("orientations", "1")
    return CLIENT.post(f"{address}/api/query", params=values, content=PHOTO)


def test_beyond_the_queue_the_answer_is_503_and_the_rest_is_answered(site):
    address, service, model = site(workers=1, queue=2)
    model.free.clear()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, address) for _ in range(8)]
        wait_until(lambda: sum(one.done() for one in asked) == 5)
        assert CLIENT.get(f"{address}/health").status_code == 200
        model.free.set()
    answers = [one.result() for one in asked]
    counts = [answer.status_code for answer in answers]
    assert counts.count(200) == 3 and counts.count(503) == 5
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["retry-after"] and "again" in refused.json()["error"]
    assert ask(address).status_code == 200
    assert service.jobs.active == 0


def test_the_server_answers_while_it_works(site):
    address, service, model = site(workers=1)
    model.free.clear()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask, address)
        wait_until(lambda: service.jobs.active == 1)
        assert CLIENT.get(f"{address}/health").status_code == 200
        assert CLIENT.get(f"{address}/browse").status_code == 200
        assert not slow.done()
        model.free.set()
        assert slow.result().status_code == 200


def test_a_query_that_takes_too_long_is_given_up(site):
    address, service, model = site(workers=1, seconds=0.8)
    model.free.clear()
    answer = ask(address)
    assert answer.status_code == 503 and "0.8 s" in answer.json()["error"]
    # Its thread ends by itself; until then its place is taken.
    assert service.jobs.active == 1
    model.free.set()
    wait_until(lambda: service.jobs.active == 0)


def test_queries_of_clients_that_hang_up_while_waiting_are_dropped(site):
    address, service, model = site(workers=1, queue=8)
    model.free.clear()
    port = int(address.rpartition(":")[2])
    head = f"{HEAD.replace('query', 'query?orientations=1')}content-length: {len(PHOTO)}\r\n\r\n"
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
    for client in clients:
        client.sendall(head.encode() + PHOTO)
    wait_until(lambda: service.jobs.active == 5)
    for client in clients:
        client.close()
    wait_until(lambda: service.jobs.active == 1)
    model.free.set()
    wait_until(lambda: service.jobs.active == 0)
    # One had begun; those that waited were never looked at.
    assert model.extracted == 1
    assert ask(address).status_code == 200


@pytest.mark.parametrize("sent", ["head", "half"])
def test_a_client_killed_while_it_sends_leaves_nothing(site, sent):
    address, service, _ = site()
    port = int(address.rpartition(":")[2])
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(HEAD.encode())
            if sent == "half":
                connection.sendall(f"content-length: {len(PHOTO)}\r\n\r\n".encode() + PHOTO[:50])
    # It may still be about to receive from some of them.
    wait_until(lambda: ask(address).status_code == 200)
    wait_until(lambda: service.receiver.active == service.jobs.active == 0)
    assert service.login_receiver.active == 0


def connect(address: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
    connection.settimeout(60)
    return connection


def trickle(connection: socket.socket, seconds: float = 20.0) -> tuple[float, bytes]:
    """Send a byte now and then until nobody listens: seconds that took, and what was said."""
    started, received = time.monotonic(), b""
    connection.settimeout(0.05)
    while time.monotonic() < started + seconds:
        with contextlib.suppress(TimeoutError):
            try:
                connection.sendall(b"x")
                part = connection.recv(4000)
            except ConnectionError:
                part = b""
            if not part:
                break
            received += part
    return time.monotonic() - started, received


@pytest.mark.parametrize("sent", ["", "GET", "GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nx: "])
def test_a_head_that_trickles_is_cut_off(site, sent):
    address, _, _ = site(head_seconds=0.4)
    with connect(address) as connection:
        connection.sendall(sent.encode())
        took, received = trickle(connection)
    assert 0.3 < took < 9 and received == b""


def test_a_connection_that_asks_nothing_or_no_second_time_is_cut_off(site):
    address, _, _ = site(head_seconds=0.4)
    with connect(address) as idle:
        assert idle.recv(10) == b""
    with connect(address) as connection:
        for _ in range(3):
            # Longer in all than the limit, which counts for each request.
            time.sleep(0.2)
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            received = b""
            while not received.endswith(b"}"):
                received += connection.recv(4000)
        connection.sendall(b"GET /hea")
        assert trickle(connection)[0] < 9


@pytest.mark.parametrize("head", ["POST /api/query", "POST /login", "GET /health"])
def test_a_body_that_trickles_is_cut_off(site, head):
    address, service, _ = site(upload_seconds=0.4, head_seconds=0.4)
    with connect(address) as connection:
        connection.sendall(
            f"{head} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 9999\r\n\r\n".encode()
        )
        took, received = trickle(connection)
    assert took < 9
    if head.startswith("POST"):
        assert b" 503 " in received and b"too slow" in received
    assert service.receiver.active == service.login_receiver.active == 0


def test_who_has_no_token_keeps_nobody_from_searching(site):
    token = "a-token-for-the-tests"
    address, service, _ = site(uploads=2, token=token)
    head = b"POST /login HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 999\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(connect(address)).sendall(head)
        headers = {"authorization": f"Bearer {token}"}
        assert ask(address).status_code == 401
        answer = CLIENT.post(f"{address}/api/query", content=PHOTO, headers=headers)
        assert answer.status_code == 200
        assert service.login_receiver.active == 2


def test_idle_connections_of_one_client_keep_no_other_out(site):
    address, _, _ = site(connections=4)
    host, port = address.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(12)]
        time.sleep(0.2)
        with socket.create_connection((host, int(port)), source_address=("127.0.0.2", 0)) as other:
            other.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            assert b" 200 " in other.recv(4000)
        closed = 0
        for connection in idle:
            connection.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                with contextlib.suppress(ConnectionError):
                    assert connection.recv(1) == b""
                closed += 1
        assert closed >= 8


def test_photos_of_the_index_are_decoded_within_a_limit_of_time_too(site, place):
    address, service, _ = site(decode_seconds=0.02)
    pixels = np.random.default_rng(0).integers(0, 255, (2100, 2100, 3)).astype(np.uint8)
    with service.shared.reading() as images:
        path = images.paths(["plain/003.png"])["plain/003.png"]
    assert not is_quick(encoded(pixels, "PNG"))
    shutil.copy(path, place / "kept")
    try:
        Path(path).write_bytes(encoded(pixels, "PNG"))
        answer = CLIENT.get(f"{address}/api/images/plain%2F003.png/thumb")
        assert answer.status_code == 404 and "takes more than 0.02 s" in answer.text
        # As if the photo were missing, its stored features answer.
        answer = CLIENT.post(f"{address}/api/query", params={"id": "plain/003.png"})
        assert answer.status_code == 200 and answer.json()["hits"]
    finally:
        shutil.copy(place / "kept", path)


def test_segments_that_arrive_after_the_catalog_are_noticed(
    place, tmp_path, site, monkeypatch, caplog
):
    monkeypatch.setattr("index.serve.shared_index._LOOK_SECONDS", 0.0)
    (place / "segments").rename(tmp_path / "on the way")
    address, _, _ = site()
    assert ask(address).json()["hits"] == [] and "are missing or unreadable" in caplog.text
    assert CLIENT.get(f"{address}/api/stats").json()["unreadable_segments"] == 1
    (tmp_path / "on the way").rename(place / "segments")
    assert ask(address).json()["hits"][0]["id"] == "plain/003.png"
    assert CLIENT.get(f"{address}/api/stats").json()["unreadable_segments"] == 0


def test_a_slow_upload_that_goes_on_is_received(site):
    address, _, _ = site(upload_seconds=0.2, upload_pace_kib=0.01, head_seconds=0.2)
    step = len(PHOTO) // 6 + 1
    with connect(address) as connection:
        head = (
            f"{HEAD.replace('query', 'query?orientations=1')}content-length: {len(PHOTO)}\r\n\r\n"
        )
        connection.sendall(head.encode())
        for start in range(0, len(PHOTO), step):
            connection.sendall(PHOTO[start : start + step])
            time.sleep(0.1)
        assert b" 200 " in connection.recv(4000)


def test_an_answer_that_nobody_takes_is_cut_off(site):
    address, _, _ = site(answer_seconds=0.4)
    ask_on = b"GET /static/htmx.min.js HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    with connect(address) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        until = time.monotonic() + 60
        with pytest.raises(ConnectionError):
            while time.monotonic() < until:
                connection.sendall(ask_on)
                time.sleep(0.01)
    assert CLIENT.get(f"{address}/health").status_code == 200


@pytest.mark.parametrize("form", [False, True])
@pytest.mark.parametrize("declared", [False, True])
def test_too_many_bytes_are_refused_whether_declared_or_not(site, form, declared):
    address, service, model = site(max_upload_mib=1)
    body = b"x" * 1_300_000
    headers = {}
    if form:
        body = (
            b'--b\r\ncontent-disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
            + body + b"\r\n--b--\r\n"
        )  # fmt: skip
        headers["content-type"] = "multipart/form-data; boundary=b"
    chunks = (body[i : i + 65536] for i in range(0, len(body), 65536))
    answer = CLIENT.post(
        f"{address}/api/query", content=body if declared else chunks, headers=headers
    )
    assert answer.status_code == 413 and "1 MiB" in answer.json()["error"]
    assert model.extracted == 0 and service.receiver.active == service.login_receiver.active == 0


def test_the_server_follows_the_index(site, place, tmp_path, dot_model_folder):
    address, _, _ = site()
    images = ImageIndex.open(place)
    images.use(DotModel(dot_model_folder))
    new = dots(700)
    query = encoded(new.pixels(), "PNG")
    new.save(tmp_path / "new" / "700.png")

    def first() -> str:
        answer = CLIENT.post(f"{address}/api/query?k=1&orientations=1", content=query)
        return answer.json()["hits"][0]["id"]

    assert first() != "700.png"
    images.add(tmp_path / "new")
    assert first() == "700.png"
    images.remove(["700.png"])
    assert first() != "700.png"
    images.compact()
    assert first() != "700.png"
    # Made anew under the same name.
    images.close()
    shutil.rmtree(place)
    gallery(tmp_path / "other", 3, first=800)
    with ImageIndex.create(place, str(dot_model_folder)) as renewed:
        renewed.use(DotModel(dot_model_folder))
        renewed.add(tmp_path / "other")
    assert CLIENT.get(f"{address}/api/stats").json()["images"] == 3


def test_an_index_that_breaks_leaves_the_last_state_readable(site, place):
    address, _, _ = site()
    catalog = place / "catalog.sqlite"
    for log in place.glob("catalog.sqlite-*"):
        log.unlink()
    intact = catalog.read_bytes()
    catalog.unlink()
    catalog.write_bytes(b"damaged" * 1000)
    assert ask(address, k=1).status_code == 200
    catalog.unlink()
    catalog.write_bytes(intact)
    assert ask(address, k=1).status_code == 200


def test_many_clients_at_once_get_what_one_gets(site):
    address, service, _ = site(workers=2, queue=64)
    seeds = list(range(24))

    def first(seed: int) -> str:
        answer = CLIENT.post(
            f"{address}/api/query?k=2", content=encoded(dots(seed).pixels(), "PNG")
        )
        return answer.json()["hits"][0]["id"]

    with ThreadPoolExecutor(8) as pool:
        first_ids = list(pool.map(first, seeds))
    same = {"plain/003.png", "räume/again.png"}
    for image_id, seed in zip(first_ids, seeds, strict=True):
        assert image_id == f"plain/{seed:03d}.png" or image_id in same
    assert service.jobs.active == 0


def test_workers_refuse_drop_and_pass_errors_on():
    async def story() -> None:
        jobs = JobQueue(1, 1, 60.0)
        release = threading.Event()
        first = asyncio.create_task(jobs.run(release.wait, never))
        await asyncio.sleep(0.05)
        runs: list[int] = []

        async def hang_up() -> None:
            await asyncio.sleep(0.1)

        second = asyncio.create_task(jobs.run(lambda: runs.append(1), hang_up))
        await asyncio.sleep(0.02)
        with pytest.raises(TooBusyError):
            await jobs.run(lambda: None, never)
        with pytest.raises(GoneError):
            await second
        release.set()
        assert await first is True
        with pytest.raises(ZeroDivisionError):
            await jobs.run(lambda: 1 / 0, never)
        assert runs == [] and jobs.active == 0
        jobs.close()

    asyncio.run(story())


def test_told_to_stop_workers_finish_what_runs_and_refuse_what_waits():
    async def story() -> None:
        jobs = JobQueue(1, 4, 60.0)
        begun, release = threading.Event(), threading.Event()

        def work() -> str:
            begun.set()
            release.wait(60)
            return "done"

        first = asyncio.create_task(jobs.run(work, never))
        waiting = [asyncio.create_task(jobs.run(work, never)) for _ in range(3)]
        await asyncio.to_thread(begun.wait, 60)
        jobs.close()
        for task in waiting:
            with pytest.raises(TooBusyError, match="stopping"):
                await task
        with pytest.raises(TooBusyError, match="stopping"):
            await jobs.run(work, never)
        release.set()
        assert await first == "done" and jobs.active == 0

    asyncio.run(story())
