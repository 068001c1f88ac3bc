"""Pulling models: a local server that breaks off, lies and says no; archives that mean harm."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from delg.errors import DelgError, UsageError
from delg.zoo import download as download_module
from delg.zoo import unpack as unpack_module
from delg.zoo.cache import HOME_VARIABLE
from delg.zoo.download import download
from delg.zoo.pull import pull, pullable
from delg.zoo.registry import find_model
from delg.zoo.unpack import BadArchiveError, unpack

NAME, ARCHIVE = "delg-r50-gldv2", "r50delg_gldv2clean_20200914"


@dataclass
class Server:
    """What the server gives and how it behaves; ``ranges`` records what was asked."""

    content: bytes = np.random.default_rng(0).bytes(700_000)
    etag: str | None = '"1"'
    cut_after: list[int] = field(default_factory=list)
    status: int = 200
    ignore_ranges: bool = False
    wrong_range: bool = False
    say_length: bool = True
    ranges: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested = self.headers.get("Range")
            state.ranges.append(requested)
            if state.status != 200:
                self.send_error(state.status)
                return
            start = 0
            same = self.headers.get("If-Range") == state.etag
            if requested and same and not state.ignore_ranges:
                start = int(requested.removeprefix("bytes=").removesuffix("-"))
            if start >= len(state.content) and start:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                shown = start + 1 if state.wrong_range else start
                end = len(state.content)
                self.send_header("Content-Range", f"bytes {shown}-{end - 1}/{end}")
            if state.say_length:
                self.send_header("Content-Length", str(len(state.content) - start))
            if state.etag:
                self.send_header("ETag", state.etag)
            self.end_headers()
            body = state.content[start:]
            self.wfile.write(body[: state.cut_after.pop(0)] if state.cut_after else body)

        def log_message(self, *words: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{running.server_port}/a.tar.gz"
    yield state
    running.shutdown()
    running.server_close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    return tmp_path / "home"


# Downloads.


def test_a_file_arrives_whole_with_progress(server, tmp_path) -> None:
    progress: list[tuple[int, int]] = []
    download(server.url, tmp_path / "d" / "f", lambda done, total: progress.append((done, total)))
    assert (tmp_path / "d" / "f").read_bytes() == server.content
    assert progress[-1] == (700_000, 700_000)
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["f"]


def test_a_broken_connection_is_continued_where_it_broke(server, tmp_path) -> None:
    server.cut_after = [300_000, 100_000]
    download(server.url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == server.content
    assert server.ranges == [None, "bytes=300000-", "bytes=400000-"]


def test_the_next_call_continues_what_an_earlier_one_had_to_leave(server, tmp_path) -> None:
    server.cut_after = [100_000] * 4
    with pytest.raises(DelgError, match=r"400,000|100,000.*the same command continues"):
        download(server.url, tmp_path / "f")
    assert not (tmp_path / "f").exists()
    download(server.url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == server.content
    assert server.ranges[-1] == "bytes=400000-"


def test_another_version_on_the_server_is_fetched_from_the_start(server, tmp_path) -> None:
    server.cut_after = [300_000, 0, 0, 0]
    with pytest.raises(DelgError):
        download(server.url, tmp_path / "f")
    server.content, server.etag = server.content[::-1], '"2"'
    download(server.url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == server.content


@pytest.mark.parametrize("trouble", ["ignore_ranges", "wrong_range", "no mark", "weak mark"])
def test_a_server_that_cannot_continue_starts_over(server, tmp_path, trouble) -> None:
    if trouble.endswith("mark"):
        server.etag = None if trouble == "no mark" else 'W/"1"'
    else:
        setattr(server, trouble, True)
    server.cut_after = [300_000]
    download(server.url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == server.content


def test_a_part_that_is_longer_than_the_file_is_thrown_away(server, tmp_path) -> None:
    (tmp_path / "f.part").write_bytes(bytes(800_000))
    (tmp_path / "f.part.json").write_text(json.dumps({"url": server.url, "mark": '"1"'}))
    download(server.url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == server.content


def test_a_part_without_its_mark_is_not_trusted(server, tmp_path) -> None:
    (tmp_path / "f.part").write_bytes(bytes(1000))
    (tmp_path / "f.part.json").write_text("damaged")
    download(server.url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == server.content


def test_a_file_of_unknown_length_arrives(server, tmp_path) -> None:
    server.say_length = False
    download(server.url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == server.content


@pytest.mark.parametrize(
    ("status", "message"), [(404, "there is no such file"), (403, "Forbidden"), (500, "Internal")]
)
def test_a_server_that_says_no_is_quoted(server, tmp_path, status, message) -> None:
    server.status = status
    with pytest.raises(DelgError, match=rf"{message}.*\({status}\)"):
        download(server.url, tmp_path / "f")
    assert len(server.ranges) == 1


def test_no_network_names_the_way_without(tmp_path) -> None:
    with pytest.raises(DelgError, match=r"cannot be reached.*--from FILE"):
        download("http://127.0.0.1:1/a", tmp_path / "f")
    with pytest.raises(DelgError, match="not an address"):
        download("nonsense", tmp_path / "f")


def test_a_file_that_never_ends_is_stopped(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(download_module, "MAX_BYTES", 500_000)
    for server.say_length in (True, False):
        with pytest.raises(DelgError, match="larger than"):
            download(server.url, tmp_path / "f")


def test_a_full_disk_keeps_what_came(server, tmp_path, monkeypatch) -> None:
    real = Path.open

    class Full(io.FileIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(path: Path, mode: str = "r", *more: object, **named: object):
        return Full(path, "a") if mode in ("ab", "wb") else real(path, mode, *more, **named)

    server.cut_after = [300_000, 0, 0, 0]
    with pytest.raises(DelgError):
        download(server.url, tmp_path / "f")
    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(
        DelgError, match=r"No space left on device; what arrived is kept, make room"
    ):
        download(server.url, tmp_path / "f")
    monkeypatch.undo()
    download(server.url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == server.content
    assert server.ranges[-1] == "bytes=300000-"


# Archives.


def packed(path: Path, *members: tuple[tarfile.TarInfo | str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(content) if info.isfile() else 0
            tar.addfile(info, io.BytesIO(content))
    return path


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_the_one_folder_of_an_archive_is_taken_off(tmp_path) -> None:
    deep = packed(tmp_path / "a.tar.gz", ("m/x", b"1"), ("m/v/y", b"2"))
    unpack(deep, tmp_path / "out")
    assert (tmp_path / "out" / "v" / "y").read_bytes() == b"2"
    flat = packed(tmp_path / "b.tar.gz", ("x", b"1"), ("y", b"2"))
    unpack(flat, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["x", "y"]


@pytest.mark.parametrize(
    "member",
    [
        "../evil",
        "m/../../evil",
        special("m/link", tarfile.SYMTYPE, "/etc/passwd"),
        special("m/hard", tarfile.LNKTYPE, "m/x"),
        special("m/pipe", tarfile.FIFOTYPE),
        special("m/device", tarfile.CHRTYPE),
    ],
    ids=lambda member: member if isinstance(member, str) else member.name,
)
def test_nothing_leaves_the_folder(tmp_path, member) -> None:
    archive = packed(tmp_path / "in" / "a.tar.gz", ("m/x", b"1"), (member, b"evil"))
    with pytest.raises(BadArchiveError, match=r"a\.tar\.gz: .*(outside|neither)"):
        unpack(archive, tmp_path / "out" / "m")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar.gz", "in", "out"]


def test_absolute_names_are_taken_as_relative_ones(tmp_path) -> None:
    place = tmp_path / "elsewhere" / "evil"
    unpack(packed(tmp_path / "a.tar.gz", ("x", b"1"), (str(place), b"2")), tmp_path / "out")
    assert not place.exists()
    assert (tmp_path / "out").joinpath(*place.parts[1:]).read_bytes() == b"2"


def test_an_old_python_that_cannot_unpack_safely_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(DelgError, match=r"cannot unpack archives safely; use 3\.10\.12"):
        unpack(packed(tmp_path / "a.tar.gz", ("m/x", b"1")), tmp_path / "out")


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(unpack_module, "MAX_BYTES", 1 << 20)
    archive = packed(tmp_path / "a.tar.gz", ("m/x", bytes(2 << 20)))
    with pytest.raises(BadArchiveError, match="would unpack to more than"):
        unpack(archive, tmp_path / "out")
    monkeypatch.setattr(unpack_module, "MAX_MEMBERS", 3)
    archive = packed(tmp_path / "b.tar.gz", *((f"m/{n}", b"") for n in range(5)))
    with pytest.raises(BadArchiveError, match="3 files"):
        unpack(archive, tmp_path / "out")


def test_a_broken_archive_is_named_and_leaves_what_was_there(tmp_path) -> None:
    good = packed(tmp_path / "a.tar.gz", ("m/x", np.random.default_rng(0).bytes(50_000)))
    unpack(good, tmp_path / "out")
    complete = good.read_bytes()
    for content in (
        b"",
        b"no archive",
        complete[:30_000],
        complete[:20_000] + bytes(9) + complete[20_009:],
    ):
        good.write_bytes(content)
        with pytest.raises(BadArchiveError, match=r"a\.tar\.gz: a broken archive"):
            unpack(good, tmp_path / "out")
    assert len((tmp_path / "out" / "x").read_bytes()) == 50_000
    assert not list(tmp_path.glob(".out*"))


# Models.


def model_archive(path: Path, seed: int = 0) -> Path:
    data = np.random.default_rng(seed).bytes(5000)
    return packed(
        path, (f"{ARCHIVE}/saved_model.pb", data), (f"{ARCHIVE}/variables/variables.index", b"v")
    )


def test_all_published_weights_can_be_pulled() -> None:
    assert sorted(pullable()) == [
        "delf-gldv1", "delg-lite-clip", "delg-r101-gldv1", "delg-r101-gldv2", "delg-r50-gldv1",
        "delg-r50-gldv2", "rn101-arcface-gldv2",
    ]  # fmt: skip


def test_a_pulled_model_is_found_by_its_name(server, home, tmp_path) -> None:
    server.content = model_archive(tmp_path / "a.tar.gz").read_bytes()
    server.cut_after = [1000]
    done = pull(NAME, url=server.url)
    assert done.first
    assert done.sha256 == hashlib.sha256(server.content).hexdigest()
    assert done.folder == home / "models" / ARCHIVE
    assert find_model(NAME).has_weights
    assert len(find_model(NAME).fingerprint) == 16
    assert list((home / "downloads").iterdir()) == []
    assert pull(NAME, url=server.url).sha256 == ""


def test_a_checksum_is_recorded_and_enforced(server, home, tmp_path) -> None:
    import shutil

    first = model_archive(tmp_path / "a.tar.gz")
    assert pull(NAME, from_file=first).first
    shutil.rmtree(home / "models")
    other = model_archive(tmp_path / "b.tar.gz", seed=1)
    with pytest.raises(DelgError, match=r"b\.tar\.gz: its SHA-256 is .*checksums\.json"):
        pull(NAME, from_file=other)
    server.content = other.read_bytes()
    with pytest.raises(DelgError, match="its SHA-256 is"):
        pull(NAME, url=server.url)
    assert not find_model(NAME).has_weights
    assert not pull(NAME, from_file=first).first
    assert other.exists()


def test_a_broken_archive_is_fetched_again(server, home, tmp_path) -> None:
    server.content = b"no archive at all"
    with pytest.raises(DelgError, match="a broken archive"):
        pull(NAME, url=server.url)
    server.content = model_archive(tmp_path / "a.tar.gz").read_bytes()
    assert pull(NAME, url=server.url).first


def test_an_archive_of_something_else_is_refused(home, tmp_path) -> None:
    archive = packed(tmp_path / "a.tar.gz", ("m/readme", b"hello"))
    with pytest.raises(DelgError, match=rf"not {NAME}, it lacks saved_model\.pb"):
        pull(NAME, from_file=archive)
    assert not (home / "models" / ARCHIVE).exists()
    assert not (home / "checksums.json").exists()


def test_what_cannot_be_pulled_is_told_what_can(home, tmp_path) -> None:
    for name in ("delg-lite", "delg-r51"):
        with pytest.raises(UsageError, match=rf"'{name}' cannot be pulled.*{NAME}"):
            pull(name)
    with pytest.raises(UsageError, match="no such file"):
        pull(NAME, from_file=tmp_path / "gone.tar.gz")


def test_a_damaged_list_of_checksums_is_not_passed_over(home, tmp_path) -> None:
    home.mkdir()
    (home / "checksums.json").write_text("{")
    with pytest.raises(DelgError, match=r"checksums\.json: cannot be read.*repair or remove"):
        pull(NAME, from_file=model_archive(tmp_path / "a.tar.gz"))
