"""Several indexes in one server."""

from __future__ import annotations

import re
import time
from html import unescape
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


@pytest.fixture(scope="module")
def server(tmp_path_factory, dot_model_folder):
    tmp_path = tmp_path_factory.mktemp("two")
    indexes = {}
    for number, name in enumerate(NAMES):
        gallery(tmp_path / f"photos{number}", 3, first=10 * number)
        images = ImageIndex.create(tmp_path / name, str(dot_model_folder))
        images.use(DotModel(dot_model_folder))
        if number:
            dots(1).save(tmp_path / f"photos{number}" / "copy.png")
        images.add(tmp_path / f"photos{number}")
        images.close()
        indexes[name] = SharedIndex(tmp_path / name, extractor=DotModel(dot_model_folder))
    settings = ServeSettings(token=TOKEN, writable=True)
    services = [Service(shared, settings, indexes) for shared in indexes.values()]
    apps = dict(zip(NAMES, map(make_app, services), strict=True))
    with TestClient(IndexSwitch(apps), base_url="http://127.0.0.1") as client:
        yield client
    for service in services:
        with pytest.raises(RuntimeError):
            service.jobs._pool.submit(print)


@pytest.fixture
def two(server):
    server.headers["authorization"] = f"Bearer {TOKEN}"
    server.cookies.clear()
    return server


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


LINK = r'(?:href|src|action|hx-get|hx-post|data-url|data-photo)="([^"]*)"'
PAGES = ["/", "/browse", "/image?id=011.png", "/labels", "/map", "/places", "/searches", "/batch",
         "/duplicates", "/groups", "/pairs", "/trash", "/changes", "/failures", "/stats", "/api",
         "/login"]  # fmt: skip


def test_each_index_has_its_pages_and_their_links_stay_below_it(two):
    second, inside = f"/indexes/{quote(NAMES[1])}", set()
    for page in PAGES:
        response = two.get(second + page)
        assert response.status_code == 200, page
        links = set(re.findall(LINK, response.text))
        elsewhere = {x for x in links if x and not x.startswith((second + "/", "/static/", "#"))}
        # The switch leads to the same page of the other index.
        assert elsewhere <= {page.partition("?")[0], "/"}, page
        inside |= links - elsewhere
    assert len(inside) > 30
    for link in inside:
        assert link[:1] in ("", "#") or two.get(unescape(link)).status_code in (200, 405), link


def test_signing_in_leads_back_to_the_page_of_the_same_index(two):
    two.headers.pop("authorization")
    second = f"/indexes/{quote(NAMES[1])}"
    asked = two.get(f"{second}/browse?q=1", headers={"accept": "text/html"}, follow_redirects=False)
    address = asked.headers["location"]
    assert address.startswith(f"{second}/login?next=") and NAMES[0] not in two.get(address).text
    form = {"token": (None, TOKEN), "next": (None, f"{second}/browse?q=1")}
    entered = two.post(f"{second}/login", files=form, follow_redirects=False)
    assert entered.headers["location"] == f"{second}/browse?q=1"
    assert two.get(entered.headers["location"]).status_code == 200
    left = two.post(f"{second}/logout", follow_redirects=False)
    assert left.headers["location"] == f"{second}/login"


@pytest.mark.parametrize(
    "path", ["/indexes/none/api/stats", "/indexes/none/", "/indexes/",
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


def test_pairs_of_two_indexes(two):
    first, other = f"/indexes/{NAMES[0]}", {"other": NAMES[1]}
    assert two.post(f"{first}/api/pairs", params=other).status_code == 202
    until = time.monotonic() + 30
    while (answer := two.get("/api/pairs", params=other).json())["status"] == "working":
        assert time.monotonic() < until
        time.sleep(0.05)
    [pair] = answer["pairs"]
    assert (pair["a"], pair["b"]) == ("001.png", "copy.png")
    page = two.get("/pairs", params=other).text
    second = f"/indexes/{quote(NAMES[1])}"
    assert f'src="{second}/api/images/copy.png/thumb"' in page
    assert 'src="/api/images/001.png/thumb"' in page
    decided = {**other, "a": "001.png", "b": "copy.png", "verdict": "accepted"}
    assert two.post("/api/pairs/decide", params=decided).status_code == 200
    table = two.get("/api/pairs.csv", params={**other, "show": "accepted"}).text
    assert len(table.splitlines()) == 2
    assert two.get("/api/pairs", params=other).json()["total"] == 0
    # Ids belong to their own index.
    swapped = {**decided, "a": "copy.png", "b": "001.png"}
    assert two.post("/api/pairs/decide", params=swapped).status_code == 404
