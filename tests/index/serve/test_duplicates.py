"""Near-duplicates over HTTP: listed, decided on, exported."""

from __future__ import annotations

import time

import pytest

HX = {"hx-request": "true"}
PAIR = {"plain/003.png", "räume/again.png"}


@pytest.fixture
def writer(serve):
    client = serve(writable=True)
    client.get("/duplicates")
    listed(client)
    return client


def listed(client, **params) -> dict:
    until = time.monotonic() + 30
    while (answer := client.get("/api/duplicates", params=params).json())["status"] == "working":
        assert time.monotonic() < until
        time.sleep(0.05)
    return answer


def ids_of(group: dict) -> set[str]:
    return {*group["keep"], *group["remove"]}


def decide(client, action: str, **fields) -> str:
    files = [("action", (None, action))]
    files += [(name, (None, value)) for name, values in fields.items() for value in values]
    return client.post("/duplicates/decide", files=files, headers=HX).text


def test_the_better_one_is_suggested_removed_and_restored(writer):
    [group] = listed(writer)["groups"]
    assert ids_of(group) == PAIR and len(group["keep"]) == 1 and group["kind"] == "same file"
    page = writer.get("/duplicates", headers=HX).text
    assert page.count("checked") == 1 and page.count("best quality") == 1
    [gone] = group["remove"]
    text = decide(writer, "remove", ids=[gone], group=[gone])
    assert "1 photo removed" in text and gone in text
    assert listed(writer)["total"] == 0 and "No duplicates found." in writer.get("/duplicates").text
    assert writer.get("/api/trash").json()["images"][0]["id"] == gone
    form = {"ids": (None, gone)}
    assert "1 photo restored" in writer.post("/trash/restore", files=form, headers=HX).text
    # What came back is listed again, without another search.
    assert ids_of(listed(writer)["groups"][0]) == PAIR


def test_an_ignored_group_is_remembered_and_listed_apart(writer, serve):
    assert "Ignored" in decide(writer, "ignore", group=["plain/003.png"])
    assert listed(writer) | {"groups": []} == listed(serve()) | {"groups": []}
    assert (listed(writer)["total"], listed(writer)["ignored"]) == (0, 1)
    assert "besides those that were ignored" in writer.get("/duplicates").text
    assert ids_of(listed(writer, ignored=True)["groups"][0]) == PAIR
    assert "List it again" in writer.get("/duplicates?ignored=true").text
    assert writer.post("/api/duplicates/heed", params={"ids": "plain/003.png"}).status_code == 200
    assert listed(writer)["total"] == 1
    assert writer.post("/api/duplicates/heed", params={"ids": "plain/003.png"}).status_code == 404


def test_no_group_loses_all_photos_and_no_others_are_removed(writer):
    for ids, status in ((list(PAIR), 422), (["plain/004.png"], 404), ([], 422), (["../x"], 404),
                        (["plain/003.png", "plain/004.png"], 404)):  # fmt: skip
        answer = writer.post("/api/duplicates/remove", params={"ids": ids})
        assert answer.status_code == status and answer.json()["error"]
    assert writer.post("/api/duplicates/ignore", params={"ids": "plain/004.png"}).status_code == 404
    assert writer.post("/duplicates/decide", files={"action": (None, "x")}).status_code == 422
    assert writer.get("/api/trash").json()["total"] == 0


def test_the_table_is_that_of_the_command(writer):
    rows = writer.get("/api/duplicates.csv").text.splitlines()
    assert rows[0].lstrip("\ufeff").startswith("group,kind,id,decision") and len(rows) == 3
    assert sorted(row.split(",")[3] for row in rows[1:]) == ["keep", "remove"]


def test_photos_that_are_added_are_compared(writer, stock):
    photo = (stock / "photos/plain/005.png").read_bytes()
    assert writer.post("/api/images?id=copy.png", content=photo).status_code == 201
    groups = listed(writer)["groups"]
    assert {"copy.png", "plain/005.png"} in [ids_of(group) for group in groups]


def test_a_server_that_may_not_write_decides_nothing(serve):
    reader = serve()
    assert listed(reader)["total"] == 1
    page = reader.get("/duplicates", headers=HX).text
    assert "best quality" in page and "checkbox" not in page and "<button" not in page
    for path in ("/duplicates/decide", "/api/duplicates/remove", "/api/duplicates/ignore"):
        assert reader.post(path, params={"ids": "plain/003.png"}).status_code in (404, 405)


def test_a_failed_search_says_why_and_is_not_repeated(serve, monkeypatch):
    calls = []

    def fail(*_: object, **__: object) -> None:
        calls.append(1)
        raise ValueError("no")

    monkeypatch.setattr("index.image_index.ImageIndex.duplicates", fail)
    client = serve()
    assert listed(client)["status"] == "failed" and "see the server" in listed(client)["error"]
    assert "see the server" in client.get("/duplicates").text
    assert client.get("/api/duplicates.csv").status_code == 409
    assert calls == [1]
