"""Fixtures for tests of the server: an index of dots behind it, in memory or at a port."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import new_browser
from dots import DotModel, dots, gallery
from starlette.testclient import TestClient

from delg.settings import parse
from index import ImageIndex
from index.serve.app import make_app
from index.serve.service import Service
from index.serve.settings import ServeSettings
from index.serve.shared_index import SharedIndex

LOCAL = "http://127.0.0.1"
STRANGE = "räume/a b&c?d#e%2F/x..png"


@pytest.fixture(scope="session")
def stock(tmp_path_factory, dot_model_folder) -> Path:
    """A folder with ``photos``, labels and an index of them, ``i``; only to be copied.

    60 photos of dots under odd names; two are the same file, one is broken."""
    folder = tmp_path_factory.mktemp("stock")
    gallery(folder / "photos" / "plain", 56)
    for number, name in ((100, STRANGE), (101, "räume/ü.png"), (102, "thumb.png")):
        dots(number).save(folder / "photos" / name)
    shutil.copy(folder / "photos/plain/003.png", folder / "photos/räume/again.png")
    (folder / "photos" / "broken.jpg").write_bytes(b"no photo")
    lines = ["id,label,collection"]
    lines += [f"plain/{n:03d}.png,{('even', 'odd')[n % 2]},Wing {n // 20}" for n in range(56)]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    images = ImageIndex.create(folder / "i", str(dot_model_folder))
    images.use(DotModel(dot_model_folder))
    images.add(folder / "photos", str(folder / "labels.csv"))
    images.close()
    return folder


@pytest.fixture
def place(stock, tmp_path) -> Path:
    """An index of its own."""
    return Path(shutil.copytree(stock / "i", tmp_path / "i"))


@pytest.fixture
def serve(stock, place, dot_model_folder) -> Iterator[Callable[..., TestClient]]:
    """Settings of the server -> a client; ``client.service`` and ``client.model`` are behind it."""
    with contextlib.ExitStack() as stack:

        def start(**settings: object) -> TestClient:
            model = DotModel(dot_model_folder)
            service = Service(
                SharedIndex(place, extractor=model), parse(ServeSettings, settings, "test")
            )
            app = make_app(service)
            client = TestClient(app, base_url=LOCAL, raise_server_exceptions=False)
            client.service, client.model = service, model
            return stack.enter_context(client)

        yield start


@pytest.fixture(scope="session")
def client(stock, dot_model_folder) -> Iterator[TestClient]:
    """Of a server with the usual settings, over an index that nobody changes."""
    service = Service(
        SharedIndex(stock / "i", extractor=DotModel(dot_model_folder)), ServeSettings()
    )
    with TestClient(make_app(service), base_url=LOCAL, raise_server_exceptions=False) as client:
        client.service = service
        yield client


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Any]:
    with new_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser, request) -> Iterator[Any]:
    """A page, by default of a desk's width; whatever it complains of fails the test."""
    settings = {"viewport": {"width": 1280, "height": 800}, **getattr(request, "param", {})}
    context = browser.new_context(**settings)
    context.set_default_timeout(120_000)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console", lambda message: errors.append(message.text) if message.type == "error" else None
    )
    yield page
    context.close()
    # The page itself reports a refused upload or a missing photo.
    expected = re.compile(r"status of (4|503)|Status Error Code|ERR_CONNECTION_REFUSED|^htmx:")
    assert [error for error in errors if not expected.search(error)] == []
