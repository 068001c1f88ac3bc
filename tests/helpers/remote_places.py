"""Places behind URLs on this machine: S3 and GCS services, an SFTP server, the web, and memory.

Each can be written to, goes down and comes up again, and can cut downloads short.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest


class Place:
    """A folder behind a URL; ``cut`` are names of files of which only a part arrives."""

    url: str

    def __init__(self) -> None:
        self.cut: set[str] = set()

    def write(self, name: str, data: bytes) -> None:
        raise NotImplementedError

    def remove(self, name: str) -> None:
        raise NotImplementedError

    def go_down(self) -> None:
        """Whoever asks from now on gets no answer."""
        raise NotImplementedError


class MemoryPlace(Place):
    """The memory of this process, which is never down."""

    url = "memory://photos/holiday"

    def __init__(self) -> None:
        super().__init__()
        self._fs = fsspec.filesystem("memory")

    def write(self, name: str, data: bytes) -> None:
        self._fs.pipe_file(f"/photos/holiday/{name}", data)

    def remove(self, name: str) -> None:
        self._fs.rm(f"/photos/holiday/{name}")


class FolderPlace(Place):
    """A place whose files lie in a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def write(self, name: str, data: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()


def _serve(handler: object) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)  # type: ignore[arg-type]
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


class WebPlace(FolderPlace):
    """A web server with pages of links. ``status`` is what it answers to everything."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.status = 0
        self.requests: list[str] = []
        place = self

        class Handler(SimpleHTTPRequestHandler):
            def send_head(self):  # type: ignore[no-untyped-def]
                place.requests.append(f"{self.command} {self.path}")
                if place.status:
                    self.send_error(place.status)
                    return None
                return super().send_head()

            def copyfile(self, source, outputfile):  # type: ignore[no-untyped-def]
                data = source.read()
                is_cut = Path(self.path).name in place.cut
                outputfile.write(data[: len(data) // 2] if is_cut else data)

            def log_message(self, *words: object) -> None:
                pass

        self._server = _serve(partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self._server.server_port}/holiday"
        self.folder = folder / "holiday"

    def go_down(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _S3Proxy(BaseHTTPRequestHandler):
    """Between client and S3 service; it cuts the connection in the middle of some files."""

    protocol_version = "HTTP/1.1"
    target: int
    place: Place

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        connection = http.client.HTTPConnection("127.0.0.1", self.target)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        is_head = self.command == "HEAD"
        length = answer.getheader("Content-Length") if is_head else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command == "GET" and Path(self.path.partition("?")[0]).name in self.place.cut:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        else:
            self.wfile.write(data)

    def __getattr__(self, name: str) -> object:
        if name.startswith("do_"):
            return self._forward
        raise AttributeError(name)

    def log_message(self, *words: object) -> None:
        pass


class S3Place(Place):
    """A bucket of an S3 service."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        from moto.server import ThreadedMotoServer

        # What a service of this process holds outlives it.
        self._bucket = f"photos-{secrets.token_hex(4)}"
        self.url = f"s3://{self._bucket}/holiday"

        self._service = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._service.start()
        _, port = self._service.get_host_and_port()
        handler = type("Proxy", (_S3Proxy,), {"target": port, "place": self})
        self._proxy = _serve(handler)
        for key, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "hush",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._proxy.server_port}",
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            patch.setenv(key, value)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem.retries = 1
        self._fs = s3fs.S3FileSystem(use_listings_cache=False)
        self._fs.mkdir(self._bucket)

    def write(self, name: str, data: bytes) -> None:
        self._fs.pipe_file(f"{self._bucket}/holiday/{name}", data)

    def remove(self, name: str) -> None:
        self._fs.rm_file(f"{self._bucket}/holiday/{name}")

    def go_down(self) -> None:
        with contextlib.suppress(Exception):
            self._proxy.shutdown()
            self._proxy.server_close()
        self._service.stop()


class GoogleStoragePlace(Place):
    """A bucket of an emulator of Google Cloud Storage."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        import gcsfs
        from gcp_storage_emulator.server import create_server

        self.url, port = "gs://photos/holiday", free_port()
        self._server = create_server("127.0.0.1", port, in_memory=True, default_bucket="photos")
        self._server.start()
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        gcsfs.GCSFileSystem.clear_instance_cache()
        self._fs = gcsfs.GCSFileSystem(token="anon", use_listings_cache=False)

    def write(self, name: str, data: bytes) -> None:
        self._fs.pipe_file(f"photos/holiday/{name}", data)

    def remove(self, name: str) -> None:
        self._fs.rm_file(f"photos/holiday/{name}")

    def go_down(self) -> None:
        self._server.stop()


class SftpPlace(FolderPlace):
    """An SFTP server; the client's key and the server's lie in ``~/.ssh``, as people have them."""

    def __init__(self, folder: Path, home: Path, patch: pytest.MonkeyPatch) -> None:
        super().__init__(folder / "holiday")
        import asyncssh

        ssh = home / ".ssh"
        ssh.mkdir(parents=True)
        patch.setenv("HOME", str(home))
        key, host_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        key.write_private_key(ssh / "id_ed25519")
        (ssh / "id_ed25519").chmod(0o600)
        key.write_public_key(ssh / "authorized")
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

        async def listen() -> asyncssh.SSHAcceptor:
            return await asyncssh.listen(
                "127.0.0.1",
                0,
                server_host_keys=[host_key],
                authorized_client_keys=str(ssh / "authorized"),
                sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=str(folder)),
            )

        self._acceptor = asyncio.run_coroutine_threadsafe(listen(), self._loop).result()
        port = self._acceptor.get_port()
        public = host_key.export_public_key().decode().strip()
        (ssh / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}\n")
        self.url = f"sftp://{os.environ.get('USER', 'someone')}@127.0.0.1:{port}/holiday"

    def go_down(self) -> None:
        async def close() -> None:
            self._acceptor.close()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result()
        fsspec.get_filesystem_class("sftp").clear_instance_cache()


@contextlib.contextmanager
def place_of(kind: str, folder: Path) -> Iterator[Place]:
    """A place of that kind: "memory", "s3", "gs", "sftp" or "http"."""
    with pytest.MonkeyPatch.context() as patch:
        if kind == "s3":
            pytest.importorskip("s3fs")
            pytest.importorskip("moto.server")
            place: Place = S3Place(patch)
        elif kind == "gs":
            pytest.importorskip("gcsfs")
            pytest.importorskip("gcp_storage_emulator")
            place = GoogleStoragePlace(patch)
        elif kind == "sftp":
            pytest.importorskip("sshfs")
            place = SftpPlace(folder, folder.parent / "home", patch)
        elif kind == "http":
            pytest.importorskip("aiohttp")
            place = WebPlace(folder)
        else:
            place = MemoryPlace()
        try:
            yield place
        finally:
            if kind == "memory":
                with contextlib.suppress(FileNotFoundError):
                    fsspec.filesystem("memory").rm("/photos", recursive=True)
            else:
                with contextlib.suppress(Exception):
                    place.go_down()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
