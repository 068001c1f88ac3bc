"""Saved searches: kept until they expire, bounded, and attacked."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from bad_photos import encoded
from dots import dots

from delg.errors import DelgError
from index.results import Hit, QueryResult
from index.serve.saved_export import export_csv, file_name
from index.serve.saved_search import FurtherPhoto, SavedSearch
from index.serve.saved_searches import FullError, Limits, SavedSearches
from index.serve.uploads import NotFoundError

PHOTO = encoded(dots(3).pixels(), "PNG")
EVIL = '<img src=x onerror="alert(1)">'


def make_result(hits: int = 2) -> QueryResult:
    points = np.array([[1.25, 2.5], [3, 4]], np.float32)
    transform = np.array([[1, 2e-7, 3], [0, 1, 0], [1e-9, 0, 1]])
    found = tuple(
        Hit(n + 1, f"id {n}", "/p", None, 1.5, 0.5, 2, 0.75, n == 0, transform, {"a": "ü"},
            points, points + 1, 640, 480)
        for n in range(hits)
    )  # fmt: skip
    return QueryResult(found, "m", 90, 800, 600, (1.0, 2.0, 3.0, 4.0), {"search": 1.5})


def test_a_result_comes_back_as_it_was(tmp_path):
    store = SavedSearches(tmp_path / "s.sqlite", Limits(10, 1 << 20, 1))
    assert store.list(10) == ([], 0) and not (tmp_path / "s.sqlite").exists()
    wanted = make_result()
    saved = store.save("  a\n title ", "q.jpg", {"k": "2"}, b"a private one", wanted)
    assert (saved.title, saved.hits, saved.verified) == ("a title", 2, 1)
    assert store.get(saved.id) == saved and store.photo(saved.id) == b"a private one"
    result = store.result(saved.id)
    for name in ("model", "orientation", "width", "height", "box", "timing_ms"):
        assert getattr(result, name) == getattr(wanted, name)
    for hit, other in zip(result, wanted, strict=True):
        assert hit.as_json() == other.as_json() and hit.metadata == other.metadata
        assert np.array_equal(hit.query_points, other.query_points)
        assert np.array_equal(hit.points, other.points) and hit.points.dtype == np.float32
    store.delete(saved.id)
    with pytest.raises(NotFoundError):
        store.result(saved.id)
    # What is deleted does not stay readable in the file.
    assert b"a private one" not in (tmp_path / "s.sqlite").read_bytes()


def test_what_is_kept_is_bounded(tmp_path, monkeypatch):
    store = SavedSearches(tmp_path / "s.sqlite", Limits(3, 20_000, 1))
    first = store.save("1", "q", {}, b"", make_result())
    store.save("2", "q", {}, b"", make_result())
    with pytest.raises(FullError, match="delete some"):
        store.save("too large", "q", {}, bytes(20_000), make_result())
    store.save("3", "q", {}, b"", make_result())
    with pytest.raises(FullError):
        store.save("4", "q", {}, b"", make_result())
    assert [search.title for search in store.list(2)[0]] == ["3", "2"] and store.list(2)[1] == 3
    day_after = time.time() + 25 * 3600
    monkeypatch.setattr(time, "time", lambda: day_after)
    assert store.list(10) == ([], 0)
    with pytest.raises(NotFoundError, match="expired"):
        store.get(first.id)
    store.save("4", "q", {}, b"", make_result())
    with sqlite3.connect(tmp_path / "s.sqlite") as db:
        assert db.execute("SELECT count(*) FROM searches").fetchone() == (1,)


@pytest.mark.parametrize("damage", [b"no database", None])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "s.sqlite"
    store = SavedSearches(path, Limits(3, 1 << 20, None))
    saved = store.save("1", "q", {}, b"", make_result())
    if damage:
        path.write_bytes(damage * 100)
    else:
        with sqlite3.connect(path) as db:
            db.execute("UPDATE searches SET result = x'00'")
    with pytest.raises(DelgError, match=re.escape(str(path))):
        store.result(saved.id)


_SAVE_UNTIL_KILLED = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_saved import make_result
from index.serve.saved_searches import Limits, SavedSearches
store = SavedSearches(Path(sys.argv[1]), Limits(10_000, 1 << 30, None))
while True:
    print(store.save("x", "q", {}, b"p" * 50_000, make_result()).id, flush=True)
"""


def test_a_kill_loses_nothing_that_was_saved(tmp_path):
    path = tmp_path / "s.sqlite"
    folder = str(__file__).rpartition("/")[0]
    command = [sys.executable, "-c", _SAVE_UNTIL_KILLED, str(path), folder, *sys.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ids = [process.stdout.readline().strip() for _ in range(5)]
        process.kill()
        ids += process.stdout.read().split()
    store = SavedSearches(path, Limits(10_000, 1 << 30, None))
    whole = [each for each in ids if len(each) == len(ids[0])]
    assert len(whole) >= 5 and all(len(store.result(each)) == 2 for each in whole)


def save(client, **fields: str) -> str:
    answer = client.post(
        "/searches", files={"image": ("q.png", PHOTO)}, data=fields, follow_redirects=False
    )
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def test_a_saved_search_has_an_address_and_exports(serve):
    client = serve()
    address = save(client, title=EVIL, k="4")
    page = client.get(address)
    assert page.status_code == 200 and EVIL not in page.text and "&lt;img src=x" in page.text
    assert page.text.count("mat open") == 4 and "Save this search" not in page.text
    assert EVIL not in client.get("/searches").text
    assert client.get(f"{address}/original").content == PHOTO
    assert client.get(f"{address}/photo").headers["content-type"] == "image/jpeg"
    rows = list(
        csv.DictReader(io.StringIO(client.get(f"/api{address}/hits.csv").text.lstrip("\ufeff")))
    )
    assert len(rows) == 4 and rows[0]["verified"] == "yes" and rows[0]["collection"] == "Wing 0"
    archive = zipfile.ZipFile(io.BytesIO(client.get(f"/api{address}/hits.zip").content))
    names = archive.namelist()
    assert len(names) == 5 and archive.testzip() is None
    assert all(re.fullmatch(r"[A-Za-z0-9_. -]+", name) for name in names)
    report = client.get(f"/api{address}/report.html")
    assert report.status_code == 200 and "attachment" in report.headers["content-disposition"]
    assert "unsafe-inline" not in report.headers["content-security-policy"].split("style")[0]
    assert client.post(f"{address}/delete", follow_redirects=False).status_code == 303
    for ending in ("", "/photo", "/original"):
        assert client.get(address + ending).status_code == 404
    for ending in ("", "/hits.csv", "/hits.zip", "/report.html"):
        assert client.get(f"/api{address}{ending}").status_code == 404


def test_programs_and_the_command_do_what_the_page_does(serve, place, run, tmp_path):
    client = serve()
    saved = client.post("/api/searches?title=first&k=3", content=PHOTO)
    assert saved.status_code == 201 and saved.json()["hits"] == 3 and saved.json()["expires"]
    assert saved.json()["id"].isalnum()
    address = f"/api/searches/{saved.json()['id']}"
    [listed] = client.get("/api/searches").json()["searches"]
    assert listed == saved.json()
    result = client.get(address).json()["result"]
    wanted = client.post("/api/query?k=3", content=PHOTO).json()
    assert [hit["id"] for hit in result["hits"]] == [hit["id"] for hit in wanted["hits"]]
    assert client.patch(address, params={"title": EVIL}).json()["title"] == EVIL
    assert client.patch(address, params={"title": "x" * 201}).status_code == 422
    page = f"/searches/{saved.json()['id']}"
    assert EVIL not in client.get(page).text
    renamed = client.post(f"{page}/rename", files={"title": (None, "second")})
    assert "second" in renamed.text and client.get(address).json()["title"] == "second"
    # The command, on the file that the server writes.
    index, key = ("--index", place), saved.json()["id"]
    assert f"{key}  " in run("index", "searches", "list", *index).stdout
    shown = json.loads(run("index", "searches", "show", key, "--json", *index).stdout)
    assert shown["result"]["hits"] == result["hits"] and shown["title"] == "second"
    out = tmp_path / "hits.zip"
    assert run("index", "searches", "export", key, "--out", out, *index).returncode == 0
    assert len(zipfile.ZipFile(out).namelist()) == 4
    assert run("index", "searches", "rename", key, "third", *index).stdout == "third\n"
    assert client.get(address).json()["title"] == "third"
    assert run("index", "searches", "delete", key, *index).returncode == 0
    assert client.get(address).status_code == 404
    gone = run("index", "searches", "show", key, *index)
    assert gone.returncode == 1 and "no such saved search" in gone.stderr
    assert client.delete(address).status_code == 404


OTHER, AGAINST = (encoded(dots(number).pixels(), "PNG") for number in (5, 7))


def test_a_search_with_several_photos_is_saved_with_all_of_them(serve, run, place, tmp_path):
    client, evil = serve(), EVIL.replace('"', "")
    photos = [
        ("image", ("first.png", PHOTO)),
        ("image", (f"{evil}.png", OTHER)),
        ("minus", ("not.png", AGAINST)),
    ]
    fields = {"plus": "plain/009.png", "minus": ["plain/011.png"], "k": "4"}
    saved = client.post("/api/searches", files=photos, data=fields).json()
    assert [(each["sign"], each["name"]) for each in saved["further"]] == [
        ("plus", f"{evil}.png"),
        ("minus", "not.png"),
    ]
    assert {(each["width"], each["height"]) for each in saved["further"]} == {
        dots(5).pixels().shape[1::-1]
    }
    assert saved["bytes"] > len(PHOTO) + len(OTHER) + len(AGAINST)
    address = f"/searches/{saved['id']}"
    result = client.get(f"/api{address}").json()["result"]
    wanted = client.post("/api/query", files=photos, data=fields).json()
    assert [hit["id"] for hit in result["hits"]] == [hit["id"] for hit in wanted["hits"]]
    for number, photo in enumerate((PHOTO, OTHER, AGAINST)):
        assert client.get(f"{address}/original?number={number}").content == photo
        answer = client.get(f"{address}/photo?number={number}")
        assert answer.headers["content-type"] == "image/jpeg"
    for number in ("3", "-1", "x", "99"):
        assert client.get(f"{address}/original?number={number}").status_code in (404, 422)
    page = client.get(address).text
    assert evil not in page and "plain/<wbr>009.png" not in page and "plain/011.png" in page
    again = unescape(re.search('href="(/[?]saved=[^"]*)"', page).group(1))
    assert "plus=plain" in again and json.loads(
        unescape(re.search('data-saved="([^"]*)"', client.get(again).text).group(1))
    ) == {
        "id": saved["id"],
        "indexed": None,
        "name": "first.png",
        "further": saved["further"],
    }
    assert evil not in client.get(again).text
    assert "and 4 other photos" in client.get("/searches").text
    report = client.get(f"/api{address}/report.html")
    assert report.status_code == 200 and report.text.count("framed further") == 2
    shown = run("index", "searches", "show", saved["id"], "--index", place).stdout
    assert "but not not.png" in shown and "and plain/009.png" in shown
    listed = run("index", "searches", "list", "--index", place).stdout
    assert "first.png and 4 more" in listed
    out = tmp_path / "page.html"
    exported = run("index", "searches", "export", saved["id"], "--out", out, "--index", place)
    assert exported.returncode == 0 and out.read_text().count("framed further") == 2
    # Nothing of it stays.
    client.delete(f"/api{address}")
    assert client.get(f"{address}/original?number=1").status_code == 404
    file = (place / "saved_searches.sqlite").read_bytes()
    assert not any(photo[40:200] in file for photo in (PHOTO, OTHER, AGAINST))


def test_indexed_photos_and_uploads_are_one_query_and_saved(serve):
    client = serve()
    more = {"image": ("more.png", OTHER)}
    both = client.post("/api/query?id=plain/003.png&k=3", files=more).json()
    assert both["hits"][0]["id"] == "plain/005.png" and both["query"] == "plain/003.png"
    saved = client.post("/api/searches?id=plain/003.png", files=more).json()
    assert saved["query"] == "plain/003.png" and saved["further"][0]["name"] == "more.png"
    page = client.get(f"/searches/{saved['id']}").text
    assert "/api/images/plain%2F003.png/photo" in page and f"/?saved={saved['id']}&amp;id=" in page
    # By ids alone, the first of them is the query.
    ids = {"plus": ["plain/003.png", "plain/005.png"]}
    saved = client.post("/api/searches", params=ids).json()
    assert saved["query"] == "plain/003.png" and saved["params"]["plus"] == "plain/005.png"
    assert client.get(f"/api/searches/{saved['id']}/report.html").status_code == 200


def test_a_file_of_an_earlier_version_is_read_and_gets_room_for_several(tmp_path):
    path = tmp_path / "s.sqlite"
    store = SavedSearches(path, Limits(3, 1 << 20, None))
    first = store.save("1", "q", {}, b"photo", make_result())
    with sqlite3.connect(path) as db:
        db.execute("DROP TRIGGER delete_further")
        db.execute("DROP TABLE further")
    assert store.get(first.id) == first and store.list(3) == ([first], 1)
    with pytest.raises(NotFoundError):
        store.photo(first.id, 1)
    further = FurtherPhoto("minus", "b.png", 3, 4), b"other"
    second = store.save("2", "q", {}, b"photo", make_result(), [further])
    assert store.get(second.id).further == (further[0],) and store.photo(second.id, 1) == b"other"


def test_a_search_with_an_indexed_photo_is_saved_without_it(serve, place):
    client = serve()
    answer = client.post("/searches?id=plain/003.png", headers={"hx-request": "true"})
    assert answer.status_code == 204
    address = answer.headers["hx-redirect"]
    page = client.get(address).text
    assert "/api/images/plain%2F003.png/photo" in page and "/?id=plain%2F003.png" in page
    assert client.get(f"{address}/original").status_code == 404
    assert client.get(f"/api{address}/report.html").status_code == 200
    assert client.service.saved.list(1)[0][0].bytes < 20_000
    with client.service.shared.writing() as images:
        images.remove(["plain/003.png"])
    assert client.get(address).status_code == 200
    assert client.get(f"/api{address}/report.html").status_code == 404


def test_attacks_on_saved_searches(serve):
    client = serve(saved_searches=1)
    address = save(client)
    evil = {"origin": "http://evil.example"}
    for path in ("/searches", f"{address}/delete", f"{address}/rename", "/api/searches"):
        assert client.post(path, headers=evil).status_code == 403
    assert client.delete(f"/api{address}", headers=evil).status_code == 403
    assert client.patch(f"/api{address}?title=x", headers=evil).status_code == 403
    for bad in ("%2e%2e", "%00", "%2e%2e%2fcatalog.sqlite", "' OR 1=1 --", "%ed%a0%80", "x" * 5000):
        for path in (f"/searches/{bad}", f"/searches/{bad}/photo?number=1", f"/api/searches/{bad}",
                     f"/api/searches/{bad}/hits.zip"):  # fmt: skip
            assert client.get(path).status_code == 404, path
    again = client.post("/searches", files={"image": ("q.png", PHOTO)})
    assert again.status_code == 409 and "delete some" in again.text
    assert client.post("/searches", files={"image": ("q.png", b"no photo")}).status_code == 422
    none = serve(saved_searches=0)
    assert "Save this search" not in none.post("/search?id=plain/003.png").text


def test_no_text_is_a_formula():
    search = SavedSearch("i", "t", 0, "=1+1", {}, 1, 1, 0)
    hit = replace(make_result(1)[0], id="@x", label="-2+1", metadata={"+k": "\tv"})
    line = export_csv(search, replace(make_result(1), hits=(hit,))).decode().splitlines()[1]
    assert line.startswith("'=1+1,1,'@x,'-2+1,") and line.endswith("'\tv")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("../../etc/passwd", "passwd"), ("a/b.jpg", "b"), ("ü\n\"x", "x"), ("...", "photo"),
     ("x" * 300, "x" * 80)],
)  # fmt: skip
def test_names_of_files_are_plain(text, wanted):
    assert file_name(text) == wanted
