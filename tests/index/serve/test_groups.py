"""Groups of the same instance, and pairs of photos, over HTTP."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pages import parse

HX = {"hx-request": "true"}
PAIR = ["plain/003.png", "räume/again.png"]


def wait_for(client, path: str, **params) -> dict:
    until = time.monotonic() + 60
    while (answer := client.get(path, params=params).json())["status"] == "working":
        assert time.monotonic() < until
        time.sleep(0.05)
    return answer


def ids(answer: dict) -> list[list[str]]:
    return [[member["id"] for member in group["members"]] for group in answer["groups"]]


def form(**fields) -> list:
    return [(name, (None, value)) for name, values in fields.items() for value in values]


def test_groups_are_compared_listed_merged_split_and_exported(serve, place):
    client = serve(writable=True)
    client.get("/groups")
    before = wait_for(client, "/api/groups")
    # Copies of a file are known without comparing.
    assert (before["pending"], before["photos"], ids(before)) == (60, 60, [PAIR])
    assert "were not compared yet" in client.get("/groups").text
    client.post("/groups/compare")
    after = wait_for(client, "/api/groups")
    assert (after["pending"], after["status"], ids(after)) == (0, "done", [PAIR])
    assert "Compare them" not in client.get("/groups", headers=HX).text
    # Merged, and shown so at once.
    page = client.post("/groups/merge", files=form(ids=[PAIR[0], "plain/004.png"]))
    assert "3 photos marked as one thing." in parse(page.text).words
    three = sorted([*PAIR, "plain/004.png"])
    assert ids(client.get("/api/groups").json()) == [three]
    page = parse(client.get("/group", params={"id": PAIR[1]}).text)
    assert {box.attrs["value"] for box in page.all("input")} == set(three)
    assert len(client.get("/api/groups.csv").text.splitlines()) == 4
    labels = client.get("/api/groups/labels.csv").text.splitlines()
    assert labels[0] == "id,label" and len({line.split(",")[1] for line in labels[1:]}) == 1
    # Split, and merged again though the photos were marked as different.
    page = client.post("/groups/split", files=form(ids=["plain/004.png"]))
    assert "1 photo marked as something else." in parse(page.text).words
    assert ids(client.get("/api/groups").json()) == [PAIR]
    assert client.get("/group?id=plain/004.png").status_code == 404
    merging = client.post("/api/groups/merge", params={"ids": ["plain/004.png", PAIR[1]]})
    assert sorted(merging.json()["ids"]) == three
    assert ids(client.get("/api/groups").json()) == [three]
    assert ids(client.get("/api/groups?order=weakest&offset=1").json()) == []
    for path, chosen, status in (
        ("merge", PAIR, 422), ("merge", PAIR[:1], 422), ("merge", [PAIR[0], "../x"], 404),
        ("split", three, 422), ("split", [], 422), ("split", ["plain/009.png"], 422),
        ("split", [PAIR[0], "plain/009.png"], 422), ("split", ["nothing"], 404),
    ):  # fmt: skip
        answer = client.post(f"/api/groups/{path}", params={"ids": chosen})
        assert answer.status_code == status, (path, chosen)
    assert ids(client.get("/api/groups").json()) == [three]
    # A server that may not write shows them, and what it may not.
    reader = serve()
    wait_for(reader, "/api/groups")
    page = reader.get("/groups", headers=HX).text
    assert "3 photos" in page and "checkbox" not in page and "<button" not in page
    for path in ("/groups/compare", "/groups/merge", "/groups/split", "/api/groups/split"):
        assert reader.post(path, files=form(ids=PAIR)).status_code in (404, 405)


def test_pairs_within_one_index_are_accepted_rejected_and_exported(serve):
    client = serve(writable=True)
    assert client.get("/api/pairs").json()["status"] == "idle"
    assert "were not compared with each other" in parse(client.get("/pairs").text).words
    assert client.get("/api/pairs.csv").status_code == 409
    client.post("/pairs/compare")
    listed = wait_for(client, "/api/pairs")
    [pair] = listed["pairs"]
    assert sorted([pair["a"], pair["b"]]) == PAIR and pair["same_file"] and listed["current"]
    assert "The same file" in client.get("/pairs", headers=HX).text
    fields = {"a": [pair["a"]], "b": [pair["b"]]}
    text = client.post("/pairs/decide", files=form(verdict=["rejected"], **fields), headers=HX).text
    assert text.count('aria-pressed="true"') == 1 and 'value="none" aria-pressed="true"' in text
    assert client.get("/api/pairs").json()["total"] == 0
    assert client.get("/api/pairs?show=rejected").json()["pairs"][0]["decision"] == "rejected"
    assert "rejected" in client.get("/api/pairs.csv?show=all").text
    assert client.get("/api/pairs?show=all&max_similarity=0.9").json()["total"] == 0
    decided = {"a": pair["a"], "b": pair["b"], "verdict": "none"}
    assert client.post("/api/pairs/decide", params=decided).json()["decision"] is None
    assert client.get("/api/pairs").json()["total"] == 1
    for wrong, status in (
        ({"a": "nothing"}, 404), ({"verdict": "x"}, 422), ({"other": "nothing"}, 404),
        ({"a": "../x"}, 404), ({"b": ""}, 422),
    ):  # fmt: skip
        answer = client.post("/api/pairs/decide", params={**decided, **wrong})
        assert answer.status_code == status, wrong
    assert client.get("/api/pairs?other=..%2F..").status_code == 404
    assert client.get("/pairs?min_similarity=x").status_code == 422
    # Removed photos are no pair any more.
    client.delete(f"/api/images/{pair['a'].replace('/', '%2F')}")
    assert client.get("/api/pairs").json()["pairs"] == []
    assert "Compare them again" in client.get("/pairs").text


def test_a_server_that_may_not_write_decides_on_no_pair(client):
    assert client.post("/pairs/decide").status_code in (404, 405)
    assert client.post("/api/pairs/decide").status_code in (404, 405)


@pytest.mark.parametrize("path", ["/group?id=nothing", "/group?id=%ed%a0%80", "/group?id=../x"])
def test_a_group_that_is_none_is_said(client, path):
    wait_for(client, "/api/groups")
    assert client.get(path).status_code == 404


def test_the_folder_is_named_where_it_must_be_done_elsewhere(client):
    wait_for(client, "/api/groups")
    folder = Path(client.service.shared.path)
    assert f"delg index groups --index {folder}" in parse(client.get("/groups").text).words
