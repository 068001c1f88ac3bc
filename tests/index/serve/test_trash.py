"""The trash and the log of changes: pages and API."""

from __future__ import annotations

import time
from html import unescape
from urllib.parse import quote

import pytest
from pages import HOSTILE, parse

HX = {"hx-request": "true"}
ID, STRANGE = "plain/000.png", "räume/a b&c?d#e%2F/x..png"


def wait_until_empty(client) -> dict:
    until = time.monotonic() + 30
    while client.get("/api/trash").json()["emptying"]:
        assert time.monotonic() < until
        time.sleep(0.05)
    return client.get("/api/trash").json()


def remove(client, image_id: str) -> None:
    assert client.delete(f"/api/images/{quote(image_id, safe='')}").status_code == 200


def rows(client) -> list[str]:
    return [row.words for row in parse(client.get("/changes").text).all("tr")[1:]]


def test_removed_photos_are_listed_restored_and_emptied(serve):
    client = serve(writable=True)
    assert "The trash is empty" in client.get("/trash").text
    for image_id in (ID, "plain/001.png", "plain/002.png"):
        remove(client, image_id)
    page = parse(client.get("/trash").text)
    boxes = [box.attrs["value"] for box in page.all("input") if box.attrs["name"] == "ids"]
    assert boxes == ["plain/002.png", "plain/001.png", ID]
    thumb = page.all("img", "thumb")[0].attrs["src"]
    assert client.get(thumb).headers["content-type"] == "image/jpeg"
    assert client.get(thumb.partition("?")[0]).status_code == 404
    # Nothing is restored where one of them cannot be.
    for wrong in ("plain/003.png", "nothing", ".."):
        answer = client.post("/api/trash/restore", params={"ids": [ID, wrong]})
        assert answer.status_code == 404 and answer.json()["error"]
    assert client.post("/api/trash/restore").status_code == 422
    assert client.get("/api/trash?limit=1&offset=2").json()["images"][0]["id"] == ID
    form = [("ids", (None, ID)), ("ids", (None, "plain/001.png"))]
    answer = client.post("/trash/restore", files=form)
    assert "2 photos restored." in answer.text and client.get(f"/image?id={ID}").status_code == 200
    assert client.post("/trash/empty").status_code == 200
    assert wait_until_empty(client) | {"images": []} == {
        "images": [], "total": 0, "emptying": False, "error": "",
    }  # fmt: skip
    assert "The trash was emptied" in client.get("/trash", headers=HX).text
    answer = client.post("/api/trash/restore", params={"ids": "plain/002.png"})
    assert answer.status_code == 404


def test_changes_say_who_did_what_and_are_undone(serve):
    client = serve(writable=True)
    image = "/api/images/plain%2F000.png"
    client.patch(image, params={"label": "new", "metadata": '{"collection": null, "room": "7"}'})
    remove(client, ID)
    changes = client.get("/api/changes").json()["changes"]
    assert [(x["action"], x["by"], x["can_undo"]) for x in changes] == [
        ("remove", "testclient", True), ("edit", "testclient", False),
    ]  # fmt: skip
    removed, edited = rows(client)
    assert "removed" in removed and "Undo" in removed and "Undo" not in edited
    assert "label: even new" in edited and "room: 7" in edited and "collection: Wing 0" in edited
    # One after the other, the last one first; what is undone is logged as well.
    answer = client.post("/changes/undo", files={"id": (None, ID)})
    assert f"The last change of {ID} was undone." in parse(answer.text).words
    assert client.get(image).json()["label"] == "new"
    client.post(f"{image}/undo")
    assert client.get(image).status_code == 404
    client.post(f"{image}/undo")
    client.patch(image, params={"label": "third"})
    assert client.post(f"{image}/undo").json()["after"]["label"] == "third"
    assert client.get(image).json()["label"] == "new"
    assert client.post(f"{image}/undo").status_code == 200
    assert client.get(image).json()["label"] == "third"
    # What the trash no longer has stays removed.
    remove(client, ID)
    client.post("/api/trash/empty")
    wait_until_empty(client)
    assert client.get("/api/changes").json()["changes"][0]["can_undo"] is False
    for wrong in ("plain%2F000.png", "nothing", "plain%2F005.png", "%2e%2e", "%ed%a0%80"):
        assert client.post(f"/api/images/{wrong}/undo").status_code == 404


def test_an_edit_is_undone_to_the_value(serve):
    client = serve(writable=True)
    image = "/api/images/plain%2F000.png"
    before = client.get(image).json()
    client.patch(image, params={"label": "", "metadata": '{"collection": null, "room": "7"}'})
    assert client.get(image).json()["metadata"] == {"room": "7"}
    client.post(f"{image}/undo")
    assert client.get(image).json() == before


def test_a_server_that_may_not_write_shows_the_log_alone(serve):
    client = serve(writable=True)
    remove(client, STRANGE)
    client.patch("/api/images/plain%2F000.png", params={"label": HOSTILE})
    reader = serve()
    assert "Undo" not in reader.get("/changes").text and len(rows(reader)) == 2
    page = reader.get("/changes").text
    assert "<script>alert" not in page and HOSTILE in unescape(page)
    trash = reader.get("/trash").text
    assert "checkbox" not in trash and STRANGE in parse(trash).words
    for path in ("/trash/restore", "/trash/empty", "/changes/undo", "/api/trash/restore",
                 "/api/trash/empty", "/api/images/plain%2F000.png/undo"):  # fmt: skip
        assert reader.post(path, files={"ids": (None, STRANGE)}).status_code in (404, 405)
    assert reader.get("/api/trash").json()["total"] == 1


@pytest.mark.parametrize("page", ["/trash?page=9", "/changes?page=9", "/trash?restored=x"])
def test_pages_beyond_the_last_are_empty_and_odd_numbers_refused(serve, page):
    assert serve().get(page).status_code == (422 if "=x" in page else 200)
