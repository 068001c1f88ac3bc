"""The HTTP API, on an index of dots."""

from __future__ import annotations

import hashlib
import io
from urllib.parse import quote

import numpy as np
import pytest
from bad_photos import BAD, encoded
from dots import DotModel, dots
from PIL import Image

from delg.errors import DelgError
from index import ImageIndex
from index.storage.ann_index import AnnIndex
from index.storage.store import Store

STRANGE = "räume/a b&c?d#e%2F/x..png"
MOVED = np.array([[1.2, 0.1, 8], [-0.1, 1.2, 12], [0, 0, 1]])


def photo(seed: int = 3) -> bytes:
    """Most of the dots of a photo of the index, moved."""
    return encoded(dots(seed).moved(MOVED, (220, 180)).pixels(), "PNG")


def ids(answer) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]]


def address(image_id: str) -> str:
    return f"/api/images/{quote(image_id, safe='')}"


def without_times(answer) -> dict:
    assert answer.status_code == 200, answer.text
    return {**answer.json(), "timing_ms": None}


def test_form_and_raw_bytes_answer_what_python_answers(client, dot_model_folder):
    form = client.post("/api/query", files={"image": ("q.png", photo())}, data={"k": "4"})
    raw = client.post(
        "/api/query?k=4", content=photo(), headers={"content-type": "application/octet-stream"}
    )
    images = ImageIndex.open(client.service.shared.path)
    images.use(DotModel(dot_model_folder))
    wanted = images.query(photo(), k=4).as_json("q.png", str(images.path))
    assert without_times(form) == {**wanted, "timing_ms": None}
    assert set(form.json()["timing_ms"]) == {"extract", "search", "rerank"}
    assert without_times(raw) == {**without_times(form), "query": "image"}
    first = form.json()["hits"][0]
    assert first["id"] in ("plain/003.png", "räume/again.png") and first["verified"]


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "application/octet-stream", None])
def test_raw_bytes_of_any_image_type_are_taken(client, kind):
    headers = {} if kind is None else {"content-type": kind}
    assert ids(client.post("/api/query?k=1", content=photo(5), headers=headers)) == [
        "plain/005.png"
    ]


def test_rerank_zero_verifies_nothing_and_box_looks_at_a_part(client):
    fast = client.post("/api/query?rerank=0&k=3", content=photo())
    assert [hit["inliers"] for hit in fast.json()["hits"]] == [0, 0, 0]
    both = np.full((120, 340, 3), 128, np.uint8)
    both[:, :160], both[:, 180:] = dots(7).pixels(), dots(9).pixels()
    upload = {"image": encoded(both, "PNG")}
    right = client.post("/api/query", files=upload, data={"box": "180,0,160,120", "k": "1"})
    left = client.post("/api/query?box=0,0,160,120&k=1", files=upload)
    assert (ids(left), ids(right)) == (["plain/007.png"], ["plain/009.png"])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"k": "0"}, "k"), ({"k": "many"}, "k"), ({"k": "100000"}, "k"),
        ({"rerank": "-1"}, "rerank"),
        ({"box": "1,2,3"}, "box"), ({"box": "a,b,c,d"}, "box"), ({"box": "0,0,-5,5"}, "box"),
        ({"box": "nan,0,5,5"}, "box"), ({"box": "0,0,inf,5"}, "box"),
        ({"box": "5000,5000,10,10"}, "no area"), ({"orientations": "2"}, "orientations"),
        ({"where": "label"}, "KEY=VALUE"), ({"where": "=x"}, "KEY=VALUE"),
        ({"min_probability": "2"}, "min_probability"),
        ({"verified_only": "perhaps"}, "verified_only"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_named(client, values, said):
    for answer in (
        client.post("/api/query", files={"image": photo()}, data=values),
        client.post("/api/query", params=values, content=photo()),
    ):
        assert answer.status_code == 422 and said in answer.json()["error"]


@pytest.mark.parametrize("name", BAD)
def test_a_bad_upload_gets_its_reason(client, name):
    data, status, said = BAD[name]
    for answer in (
        client.post("/api/query", files={"image": ("x.jpg", data)}),
        client.post("/api/query", content=data),
    ):
        assert answer.status_code == status, answer.text
        assert said in answer.json()["error"] and answer.json()["error"]
    page = client.post("/search", files={"image": ("x.jpg", data)}, headers={"hx-request": "true"})
    assert (
        page.status_code == status and 'class="error"' in page.text and "<script" not in page.text
    )


def test_no_photo_and_other_bodies_are_refused(client):
    assert client.post("/api/query").status_code == 422
    assert client.post("/api/query", files={"image": ("x.jpg", b"")}).status_code == 422
    assert client.post("/api/query", files={"file": ("x.jpg", photo())}).status_code == 422
    many = [("image", (f"{n}.png", photo())) for n in range(9)]
    assert client.post("/api/query", files=many).status_code == 422
    assert client.post("/api/query", json={"image": "file:///etc/passwd"}).status_code == 415
    assert client.post("/api/query", data={"image": "http://127.0.0.1/x.jpg"}).status_code == 415
    broken = {"content-type": "multipart/form-data; boundary=x"}
    assert client.post("/api/query", content=b"--y\r\n\r\n", headers=broken).status_code == 422
    unbounded = {"content-type": "multipart/form-data"}
    assert client.post("/api/query", content=b"abc", headers=unbounded).status_code == 422


def test_queries_can_be_limited_to_some_images(client):
    where = {"where": ["label=odd", "collection=Wing 0", "collection=Wing 1"], "k": "50"}
    wanted = {f"plain/{n:03d}.png" for n in range(1, 40, 2)}
    form = client.post("/api/query", files={"image": photo()}, data=where)
    raw = client.post("/api/query", params=where, content=photo())
    like = client.post("/api/query", params={**where, "id": "plain/003.png"})
    assert set(ids(form)) == set(ids(raw)) == wanted
    assert set(ids(like)) == wanted - {"plain/003.png"}
    assert ids(form)[0] == "plain/003.png"
    proven = client.post("/api/query?verified_only=true&k=50", content=photo())
    assert set(ids(proven)) == {"plain/003.png", "räume/again.png"}
    assert ids(client.post("/api/query?where=label=%27%20OR%201=1--", content=photo())) == []


def test_the_answer_says_what_the_photo_shows(client):
    answer = client.post("/api/query", content=photo()).json()["answer"]
    assert answer["verdict"] in ("sure", "probably")
    assert answer["text"].startswith(f"{answer['verdict']}: ")
    assert {answer["label"], answer["id"]} & {"odd", "räume/again.png"}
    unknown = client.post("/api/query", content=photo(999)).json()["answer"]
    assert unknown["verdict"] == "none" and unknown["id"] is unknown["label"] is None


def test_facets_count_what_is_left_to_choose(client):
    everything = client.get("/api/facets").json()
    assert everything["images"] == 60
    assert everything["facets"]["label"] == [["even", 28], ["odd", 28]]
    assert dict(everything["facets"]["collection"]) == {"Wing 0": 20, "Wing 1": 20, "Wing 2": 16}
    chosen = {"where": ["label=odd", "collection=Wing 2"], "limit": 2}
    some = client.get("/api/facets", params=chosen).json()
    # A key's own condition does not limit its counts.
    assert some["images"] == 8 and some["facets"]["label"] == [["even", 8], ["odd", 8]]
    assert some["facets"]["collection"] == [["Wing 0", 10], ["Wing 1", 10]]
    assert client.get("/api/facets?where=nonsense").status_code == 422
    assert client.get("/api/facets?where=label=%ED%A0%80").status_code in (200, 422)


def test_a_photo_of_the_index_is_looked_for_by_id_and_not_found_itself(client):
    found_ids = ids(client.post("/api/query", params={"id": "plain/003.png", "k": 3}))
    assert found_ids[0] == "räume/again.png" and "plain/003.png" not in found_ids
    assert client.post("/api/query?id=nothing").status_code == 404


def test_without_its_file_an_image_is_looked_for_by_its_features(serve, tmp_path):
    client = serve()
    with client.service.shared.writing() as images:
        new = tmp_path / "gone.png"
        dots(3).save(new)
        images.add([new])
    new.unlink()
    answer = client.post("/api/query", params={"id": "gone.png", "k": 2})
    assert set(ids(answer)) == {"plain/003.png", "räume/again.png"}
    assert client.get(address("gone.png") + "/thumb").status_code == 404


@pytest.mark.parametrize("image_id", [STRANGE, "räume/ü.png", "thumb.png", "plain/000.png"])
def test_any_id_leads_to_its_image(client, image_id):
    info = client.get(address(image_id))
    assert info.status_code == 200 and info.json()["id"] == image_id
    for ending, side in (("thumb", 360), ("photo", 1600)):
        picture = client.get(f"{address(image_id)}/{ending}")
        assert picture.headers["content-type"] == "image/jpeg"
        width, height = Image.open(io.BytesIO(picture.content)).size
        assert max(width, height) <= side and (width, height) == (160, 120)
        tag = {"if-none-match": picture.headers["etag"]}
        again = client.get(f"{address(image_id)}/{ending}", headers=tag)
        assert again.status_code == 304 and not again.content
    page = client.get("/image", params={"id": image_id})
    assert page.status_code == 200 and "Search with this photo" in page.text


@pytest.mark.parametrize(
    "path",
    [
        "/api/images/..%2F..%2F..%2Fetc%2Fpasswd", "/api/images/%2Fetc%2Fpasswd",
        "/api/images/..%2Fi%2Fcatalog.sqlite/photo", "/api/images/%252e%252e%252fx/thumb",
        "/api/images/%00", "/api/images/%ff%fe", "/api/images/plain%2F..%2Fplain%2F000.png/photo",
        "/api/images//etc/passwd/photo", "/api/images/catalog.sqlite/photo",
        "/static/..%2f..%2fcatalog.py", "/static/%2e%2e/app.py", "/static/",
        "/image?id=../../etc/passwd", "/image?id=%00", "/?id=..%2f..%2fx",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_index(client, path):
    answer = client.get(path)
    assert answer.status_code == 404, answer.text
    assert b"root:" not in answer.content and b"SQLite" not in answer.content


def test_stats_health_and_description(client):
    stats = client.get("/api/stats").json()
    assert (stats["images"], stats["failed"], stats["labels"]) == (60, 1, 2)
    assert client.get("/health").json() == {"status": "ok"}
    described = client.get("/openapi.json").json()
    assert {"/api/query", "/api/images/{image_id}", "/api/stats", "/health"} <= set(
        described["paths"]
    )
    assert "post" not in described["paths"].get("/api/images", {})
    # Without a network, the description that comes with the package.
    assert client.get("/docs").url.path == "/api"


def test_nothing_can_be_changed_unless_asked_for(client):
    assert client.post("/api/images", files={"image": ("n.png", photo())}).status_code == 405
    assert client.delete(address("plain/000.png")).status_code == 405
    assert client.get(address("plain/000.png")).status_code == 200


def test_a_photo_is_added_found_and_removed(serve, place):
    client = serve(writable=True)
    new = encoded(dots(500).pixels(), "PNG")
    fields = {"id": "neu/ü 1.png", "label": "new", "metadata": '{"room": "7"}'}
    added = client.post("/api/images", files={"image": ("x.png", new)}, data=fields)
    assert added.status_code == 201, added.text
    info = added.json()
    assert (info["id"], info["label"], info["metadata"]) == ("neu/ü 1.png", "new", {"room": "7"})
    assert info["sha256"] == hashlib.sha256(new).hexdigest()
    kept = list((place / "photos").iterdir())
    assert len(kept) == 1 and kept[0].read_bytes() == new
    assert ids(client.post("/api/query?k=1", content=new)) == ["neu/ü 1.png"]
    again = client.post("/api/images", files={"image": ("x.png", new)}, data=fields)
    assert again.status_code == 409
    assert client.delete(address("neu/ü 1.png")).json() == {"removed": "neu/ü 1.png"}
    assert client.delete(address("neu/ü 1.png")).status_code == 404
    # Until a compaction it can be restored.
    assert list((place / "photos").iterdir()) == kept
    assert "neu/ü 1.png" not in ids(client.post("/api/query?k=100", content=new))


def test_removing_leaves_photos_that_were_not_added_over_http(serve, stock):
    client = serve(writable=True)
    assert client.delete(address("plain/001.png")).status_code == 200
    assert (stock / "photos/plain/001.png").exists()
    assert client.get(address("plain/001.png")).status_code == 404


@pytest.mark.parametrize("name", ["text", "bomb", "small", "cut JPEG"])
def test_a_bad_photo_leaves_nothing_behind(serve, place, name):
    client = serve(writable=True)
    data, status, _ = BAD[name]
    assert client.post("/api/images?id=bad.jpg", content=data).status_code == status
    assert client.get(address("bad.jpg")).status_code == 404
    assert not (place / "photos").exists() or not list((place / "photos").iterdir())


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "a\nb"}, {"id": ".."}, {"id": "x" * 2000}, {"id": "a\u202eb"},
        {"metadata": "[1]", "id": "m"}, {"metadata": '{"a": 1}', "id": "m"},
        {"metadata": "{", "id": "m"},
    ],
)  # fmt: skip
def test_an_id_or_metadata_that_make_no_sense_are_refused(serve, fields):
    answer = serve(writable=True).post("/api/images", params=fields, content=photo())
    assert answer.status_code == 422 and next(iter(fields)) in answer.json()["error"]


def test_ids_are_never_taken_for_paths(serve, place, tmp_path):
    client = serve(writable=True)
    for image_id in ("../../evil.png", "/etc/evil.png", "a/../../b.png"):
        added = client.post("/api/images", params={"id": image_id}, content=photo(600))
        assert added.status_code == 201 and added.json()["id"] == image_id
    assert {path.parent for path in (place / "photos").iterdir()} == {place / "photos"}
    assert not list(tmp_path.rglob("*evil*"))


def test_another_writer_makes_a_change_wait(serve, place):
    client = serve(writable=True)
    other = ImageIndex.open(place)
    with other._store.lock():
        answer = client.post("/api/images?id=n.png", content=photo())
    assert answer.status_code == 503 and answer.headers["retry-after"]
    assert client.post("/api/images?id=n.png", content=photo()).status_code == 201


def test_a_disk_that_fills_up_behind_the_catalog_loses_no_upload(serve, place, monkeypatch):
    client = serve(writable=True)

    def full(*arguments):
        raise DelgError("global.faiss: cannot be written: No space left on device")

    monkeypatch.setattr(AnnIndex, "save", full)
    sent = client.post("/api/images", files={"image": ("new.png", photo(200))}, data={"id": "new"})
    assert sent.status_code == 201, sent.text
    [stored] = (place / "photos").iterdir()
    assert stored.read_bytes() == photo(200)
    assert ids(client.post("/api/query?k=1", content=photo(200))) == ["new"]
    assert client.delete(address("new")).status_code == 200
    assert client.get(address("new")).status_code == 404


def test_a_disk_that_fills_up_before_the_catalog_leaves_nothing(serve, place, monkeypatch):
    client = serve(writable=True)

    def full(*arguments):
        raise DelgError("segment: cannot be written: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_segment", full)
        sent = client.post("/api/images", files={"image": ("new.png", photo(200))})
        assert sent.status_code >= 500
    assert list((place / "photos").iterdir()) == []
    assert client.post("/api/images", files={"image": ("new.png", photo(200))}).status_code == 201


def test_orphans_of_killed_uploads_go_with_the_next_start_or_a_repair(serve, place):
    serve(writable=True).post("/api/images", files={"image": ("new.png", photo(200))})
    orphans = [place / "photos" / ("0" * 64), place / "photos" / ".12-ab.tmp"]
    for path in orphans:
        path.write_bytes(photo(201))
    with ImageIndex.open(place) as images:
        notes = "\n".join(images.check().notes)
        assert all(str(path) in notes for path in orphans)
        assert set(images.repair()) == set(orphans)
        assert images.check().notes == []
    orphans[0].write_bytes(photo(201))
    serve(writable=True)
    assert len(list((place / "photos").iterdir())) == 1


def test_metrics_count_requests_by_route_and_docs_lead_to_the_api(client):
    pytest.importorskip("prometheus_client")
    client.get(address("plain/003.png"))
    client.get("/nonsense/of/my/own")
    client.post("/api/query", content=photo())
    text = client.get("/metrics").text
    image = 'delg_requests_total{method="GET",route="/api/images/{image_id:path}",status="200"}'
    assert image in text and "of/my/own" not in text and "003.png" not in text
    assert 'delg_query_seconds_count{stage="extract"}' in text and "delg_images 60.0" in text
    docs = client.get("/docs", follow_redirects=False)
    assert docs.headers["location"] == "/api" and "cdn" not in client.get("/docs").text
