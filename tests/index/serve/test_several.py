"""Several indexes in one server."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from bad_photos import encoded
from dots import DotModel, dots, gallery
from starlette.testclient import TestClient

from index import ImageIndex
from index.serve.app import make_app
from index.serve.service import Service
from index.serve.settings import ServeSettings
from index.serve.several import IndexSwitch
from index.serve.shared_index import SharedIndex

TOKEN = "a-token-of-some-length"
NAMES = ["first", "zwei ü"]


@pytest.fixture
def two(tmp_path, dot_model_folder):
    apps, services = {}, []
    for number, name in enumerate(NAMES):
        gallery(tmp_path / f"photos{number}", 3, first=10 * number)
        images = ImageIndex.create(tmp_path / name, str(dot_model_folder))
        images.use(DotModel(dot_model_folder))
        images.add(tmp_path / f"photos{number}")
        images.close()
        shared = SharedIndex(tmp_path / name, extractor=DotModel(dot_model_folder))
        services.append(Service(shared, ServeSettings(token=TOKEN, writable=True), NAMES))
        apps[name] = make_app(services[-1])
    with TestClient(IndexSwitch(apps), base_url="http://127.0.0.1") as client:
        client.headers["authorization"] = f"Bearer {TOKEN}"
        yield client
    for service in services:
        with pytest.raises(RuntimeError):
            service.jobs._pool.submit(print)


def test_each_index_has_its_api(two):
    assert two.get("/api/indexes").json() == {"indexes": NAMES}
    photo = encoded(dots(11).pixels(), "PNG")
    second = f"/indexes/{quote(NAMES[1])}"
    found = two.post(f"{second}/api/query", content=photo).json()["hits"]
    assert found[0]["id"] == "011.png" and found[0]["verified"]
    for root in ("", "/indexes/first"):
        found = two.post(f"{root}/api/query", content=photo).json()["hits"]
        assert not any(hit["verified"] for hit in found)
    assert two.get(f"{second}/api/images/011.png").status_code == 200
    assert two.get("/api/images/011.png").status_code == 404
    begun = two.post(f"{second}/api/queries", files={"image": ("q.png", photo)})
    assert begun.headers["location"].startswith(f"{second}/api/queries/")
    assert two.get(begun.headers["location"]).status_code == 200
    assert two.get("/browse").status_code == 200


@pytest.mark.parametrize(
    "path", ["/indexes/first/browse", "/indexes/none/api/stats", "/indexes/", "/indexes/first",
             "/indexes/first/..%2f..%2fapi/stats", "/indexes/%2e%2e/api/stats",
             "/indexes//api/stats"],
)  # fmt: skip
def test_nothing_else_lies_below(two, path):
    assert two.get(path).status_code == 404


def test_every_index_asks_for_the_token(two):
    two.headers.pop("authorization")
    for root in ("", "/indexes/first", f"/indexes/{quote(NAMES[1])}"):
        assert two.get(f"{root}/api/stats").status_code == 401
        assert two.post(f"{root}/api/query").status_code == 401
        assert two.get(f"{root}/health").status_code == 200
    two.headers["authorization"] = f"Bearer {TOKEN}"
    evil = {"origin": "http://evil.example"}
    address = "/indexes/first/api/images/001.png"
    assert two.delete(address, headers=evil).status_code == 403
    assert two.get("/indexes/first/api/stats", headers={"host": ""}).status_code in (401, 403)
