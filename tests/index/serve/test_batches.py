"""Batches of queries, queries of several photos, and marks over HTTP."""

from __future__ import annotations

import csv
import io
import time
from urllib.parse import quote

import pytest
from bad_photos import encoded
from dots import dots

from index import ImageIndex
from index.serve import batches


def photo(seed: int) -> bytes:
    return encoded(dots(seed).pixels(), "PNG")


def finished(client, address: str) -> dict:
    for _ in range(600):
        answer = client.get(address)
        assert answer.status_code == 200, answer.text
        if answer.json()["status"] != "working":
            return answer.json()
        time.sleep(0.05)
    raise AssertionError("never done")


def test_a_batch_answers_each_photo_and_becomes_a_table(client):
    files = [("image", ("a=.png", photo(3))), ("image", ("bad.jpg", b"no photo")),
             ("image", ("=1+1.png", photo(999)))]  # fmt: skip
    begun = client.post("/api/queries?k=2", files=files)
    assert begun.status_code == 202 and begun.json()["total"] == 3
    done = finished(client, begun.headers["location"])
    assert (done["status"], done["done"], done["failed"]) == ("done", 3, 1)
    first, bad, unknown = done["results"]
    assert first["query"] == "a=.png" and len(first["hits"]) == 2
    assert first["hits"][0]["id"] in ("plain/003.png", "räume/again.png")
    assert "hits" in bad and bad["error"] and unknown["answer"]["verdict"] == "none"
    table = client.get(begun.headers["location"] + ".csv")
    assert table.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(table.text.removeprefix("\ufeff"))))
    assert [row["query"] for row in rows] == ["a=.png", "bad.jpg", "'=1+1.png"]
    assert rows[0]["answer"] in ("sure", "probably") and rows[1]["error"]
    assert client.delete(begun.headers["location"]).status_code == 200
    assert client.get(begun.headers["location"]).status_code == 404


def test_filters_hold_for_all_photos_of_a_batch(client):
    files = [("image", ("a.png", photo(3))), ("image", ("b.png", photo(5)))]
    begun = client.post("/api/queries", files=files, data={"where": "label=even", "k": "5"})
    for result in finished(client, begun.headers["location"])["results"]:
        assert {hit["label"] for hit in result["hits"]} == {"even"}


@pytest.mark.parametrize(
    ("address", "status"),
    [("?k=1000", 422), ("?id=plain/003.png", 422), ("?box=0,0,9,9", 422), ("?plus=x", 422)],
)
def test_what_does_not_fit_a_batch_is_refused(client, address, status):
    files = [("image", ("a.png", photo(3)))]
    assert client.post(f"/api/queries{address}", files=files).status_code == status


def test_batches_are_limited(serve, monkeypatch):
    client = serve(batches=1, batch_photos=2, batch_mib=1)
    three = [("image", (f"{n}.png", photo(n))) for n in range(3)]
    assert client.post("/api/queries", files=three).status_code == 422
    assert client.post("/api/queries").status_code == 422
    large = [("image", ("a.png", b"x" * (2 << 20)))]
    assert client.post("/api/queries", files=large).status_code == 413
    client.model.pause = 0.5
    first = client.post("/api/queries", files=three[:2])
    assert client.post("/api/queries", files=three[:1]).status_code == 503
    # Queries of people do not wait for it.
    assert client.post("/api/query", content=photo(5)).status_code == 200
    assert client.delete(first.headers["location"]).json()["status"] == "cancelled"
    client.model.pause = 0
    begun = client.post("/api/queries", files=three[:1])
    finished(client, begun.headers["location"])
    monkeypatch.setattr(batches, "_KEEP_SECONDS", -1.0)
    assert client.get(begun.headers["location"]).status_code == 404


@pytest.mark.parametrize("trick", ["%2e%2e", "%2e%2e%2fstats", "%2e%2e.csv", "%00", "ü"])
def test_no_other_name_is_a_batch(client, trick):
    assert client.get(f"/api/queries/{trick}").status_code in (404, 422)


def verified(answer) -> set[str]:
    assert answer.status_code == 200, answer.text
    return {hit["id"] for hit in answer.json()["hits"] if hit["verified"]}


def test_several_photos_are_one_query(client):
    two = [("image", ("a.png", photo(3))), ("image", ("b.png", photo(5)))]
    both = {"plain/003.png", "räume/again.png", "plain/005.png"}
    assert verified(client.post("/api/query", files=two)) == both
    less = client.post("/api/query", files=[*two, ("minus", ("c.png", photo(5)))])
    assert verified(less) == both - {"plain/005.png"}
    ids = {"id": "plain/003.png", "plus": ["plain/005.png", "plain/007.png"]}
    by_id = client.post("/api/query", params=ids)
    assert verified(by_id) == {"räume/again.png"} and by_id.json()["hits"][0]["photo"] == 0
    other = client.post("/api/query", params={"minus": "räume/again.png"}, content=photo(3))
    assert verified(other) == set()
    assert client.post("/api/query?plus=nothing", content=photo(3)).status_code == 404
    many = {"plus": ["x"] * 9}
    assert client.post("/api/query", params=many, content=photo(3)).status_code == 422


def test_marks_are_kept_respected_and_exported(serve, place):
    client = serve(writable=True)
    result = client.post("/api/query", files={"image": ("q.png", photo(3))}).json()
    mark = {"query": result["key"], "image": "räume/again.png", "verdict": "different"}
    mark["name"] = "q.png"
    assert client.post("/api/marks", params=mark).json() == mark
    same = {**mark, "image": "plain/003.png", "verdict": "same"}
    form = {key: (None, text) for key, text in same.items()}
    assert client.post("/api/marks", files=form).json() == same
    again = client.post("/api/query", content=photo(3)).json()
    assert {hit["id"]: hit["mark"] for hit in again["hits"] if hit["mark"]} == {
        "räume/again.png": "different", "plain/003.png": "same",
    }  # fmt: skip
    assert again["answer"]["text"] == "sure: odd"
    marks = client.get("/api/marks", params={"query": result["key"]}).json()["marks"]
    assert {each["image"] for each in marks} == {"räume/again.png", "plain/003.png"}
    truth = client.get("/api/marks.csv").text.splitlines()
    assert truth == ["query,relevant", "q.png,plain/003.png"]
    # Other queries have none, and other programs see them.
    like = client.post("/api/query?id=plain/005.png").json()["hits"]
    assert all(hit["mark"] is None for hit in like)
    with ImageIndex.open(place) as images:
        assert len(list(images.marks)) == 2
    assert client.post("/api/marks", params={**mark, "verdict": "none"}).status_code == 200
    assert len(client.get("/api/marks").json()["marks"]) == 1


@pytest.mark.parametrize(
    ("change", "status"),
    [({"image": "nothing"}, 404), ({"query": "x"}, 422), ({"verdict": "perhaps"}, 422),
     ({"query": "../" * 21 + "a"}, 422), ({"name": "n" * 2000}, 422), ({"image": ""}, 422)],
)  # fmt: skip
def test_a_mark_that_makes_no_sense_is_refused(serve, change, status):
    client = serve(writable=True)
    values = {"query": "0" * 64, "image": "plain/003.png", "verdict": "same", **change}
    assert client.post("/api/marks", params=values).status_code == status
    assert client.get("/api/marks").json()["marks"] == []


def test_who_may_not_write_may_not_mark(client):
    address = f"/api/marks?query={'0' * 64}&image={quote('plain/003.png')}&verdict=same"
    assert client.post(address).status_code == 405
    assert client.get("/api/marks").json() == {"marks": []}


def test_images_are_edited_removed_and_restored(serve, place):
    client = serve(writable=True)
    image = f"/api/images/{quote('räume/ü.png', safe='')}"
    values = {"label": "new", "metadata": '{"room": "1", "gone": null}'}
    edited = client.patch(image, params=values)
    assert (edited.json()["label"], edited.json()["metadata"]) == ("new", {"room": "1"})
    form = {"metadata": (None, '{"room": null}')}
    assert client.patch(image, files=form).json()["metadata"] == {}
    assert client.delete(image).status_code == 200
    assert client.get(image).status_code == 404
    assert [each["id"] for each in client.get("/api/trash").json()["images"]] == ["räume/ü.png"]
    assert client.post(f"{image}/restore").json()["label"] == "new"
    assert client.get(image).status_code == 200
    changes = client.get("/api/changes").json()["changes"]
    assert [each["action"] for each in changes] == ["restore", "remove", "edit", "edit"]
    assert client.post(f"{image}/restore").status_code == 404
    for wrong in ({}, {"metadata": "[]"}, {"metadata": '{"a": 1}'}, {"metadata": "{"}):
        assert client.patch(image, params=wrong).status_code == 422
    assert client.patch("/api/images/nothing?label=x").status_code == 404


def test_an_uploaded_photo_survives_its_removal_until_compaction(serve, place):
    client = serve(writable=True)
    added = client.post("/api/images?id=new.png", content=photo(500))
    assert added.status_code == 201
    client.delete("/api/images/new.png")
    assert client.post("/api/images/new.png/restore").status_code == 200
    assert client.get("/api/images/new.png/thumb").status_code == 200
    client.delete("/api/images/new.png")
    client.post("/api/images?id=new.png", content=photo(501))
    assert client.post("/api/images/new.png/restore").status_code == 409
    client.delete("/api/images/new.png")
    with client.service.shared.writing() as images:
        images.compact()
        assert not list((images.path / "photos").iterdir())


def test_a_server_that_is_not_writable_changes_nothing(client):
    assert client.patch("/api/images/plain%2F003.png?label=x").status_code == 405
    for path in ("images/plain%2F003.png/restore", "images/plain%2F003.png/undo",
                 "trash/restore?ids=plain/003.png", "trash/empty"):  # fmt: skip
        assert client.post(f"/api/{path}").status_code in (404, 405)
    # What was changed can be looked at.
    assert client.get("/api/trash").json()["images"] == []
    assert client.get("/api/changes").json()["changes"] == []
