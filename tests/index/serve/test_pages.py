"""Pages, as text."""

from __future__ import annotations

import functools
import re
import time

import pytest
from bad_photos import encoded
from dots import DotModel, dots
from starlette.testclient import TestClient

from index import ImageIndex
from index.collection.duplicates import Limits
from index.labels import GivenLabels, Label
from index.serve.app import make_app
from index.serve.duplicate_finder import DuplicateFinder
from index.serve.pagination import Pagination
from index.serve.service import Service
from index.serve.settings import ServeSettings
from index.serve.shared_index import SharedIndex

HX = {"hx-request": "true"}
_MORE = re.compile(r'data-group="(\d+)" aria-expanded="false">(\d+) more')


def shown(text: str) -> list[str]:
    """Ids of the cards of a page."""
    return re.findall(r'<p class="id"><a href="/image\?id=([^"]+)"', text)


def finished(client: TestClient) -> str:
    """The part about duplicates once they have been looked for."""
    until = time.monotonic() + 120
    while "hx-trigger" in (text := client.get("/duplicates", headers=HX).text):
        assert time.monotonic() < until
        time.sleep(0.05)
    return text


def test_browse_turns_pages_and_keeps_its_filter(client):
    first, second = client.get("/browse").text, client.get("/browse?page=2").text
    assert len(shown(first)) == 48 and len(shown(second)) == 12
    assert not set(shown(first)) & set(shown(second))
    assert "1–48 of 60 photos" in first and 'href="/browse?page=2" rel="next"' in first
    odd = client.get("/browse?label=odd&key=collection&value=wing+1").text
    assert len(shown(odd)) == 10 and "10 photos" in odd
    assert "No photo matches" in client.get("/browse?q=nothing").text
    assert "no such page" in client.get("/browse?page=99").text


@pytest.mark.parametrize("page", ["0", "-1", "x", "99999999999999999999"])
def test_a_page_that_cannot_be_is_an_error_page(client, page):
    answer = client.get(f"/browse?page={page}")
    assert answer.status_code == 422 and "<h1>Error</h1>" in answer.text


def test_labels_are_searched_and_shown(client):
    text = client.get("/labels").text
    assert "2 labels" in text and text.index(">even<") < text.index(">odd<")
    assert "1 label of 2" in client.get("/labels?q=OD", headers=HX).text.replace(
        "1 labels", "1 label"
    )
    typical = client.get("/label?name=odd").text
    more = client.get("/label?name=odd&sort=different", headers=HX).text
    assert len(shown(typical)) == 28 and shown(more) == shown(typical)[::-1]
    suspicious = client.get("/label?name=odd&sort=suspicious").text
    assert "/label/review?name=odd" in suspicious and not shown(suspicious)
    assert client.get("/label?name=nothing").status_code == 404
    assert client.get("/label/review?name=nothing").status_code == 404
    assert client.get("/label?name=odd&sort=x").status_code == 422
    until = time.monotonic() + 120
    while "Comparing photos" in (review := client.get("/label/review?name=odd").text):
        assert time.monotonic() < until
        time.sleep(0.05)
    # Every photo of dots shows dots of its own.
    assert "28 photos of 28 looked at" in review and "Match no photo of their label" in review


@pytest.mark.parametrize("sort", ["newest", "largest", "label"])
def test_browse_sorts_and_scrolls_on(client, sort):
    first = client.get(f"/browse?sort={sort}").text
    assert f'hx-get="/browse?sort={sort}&amp;page=2"' in first
    rest = client.get(f"/browse?sort={sort}&page=2", headers=HX).text
    assert "<html" not in rest and "hx-get" not in rest
    assert len(set(shown(first)) | set(shown(rest))) == 60
    assert client.get("/browse?sort=x").status_code == 422


def test_texts_of_the_index_are_only_text(serve, tmp_path):
    client = serve()
    name = '<img src=x onerror="alert(1)">.png'
    dots(900).save(tmp_path / "odd" / name)
    with client.service.shared.writing() as images:
        images.add(tmp_path / "odd")
    with client.service.shared.writing() as images:
        images.add(tmp_path / "odd", GivenLabels({name: Label(name)}))
    pages = [("/browse", {"q": "onerror"}), ("/image", {"id": name}), ("/label", {"name": name})]
    for page in (client.get(path, params=params) for path, params in pages):
        assert page.status_code == 200 and "<img src=x" not in page.text
    results = client.post(
        "/search", files={"image": encoded(dots(900).pixels(), "PNG")}, headers=HX
    )
    assert "&lt;img src=x" in results.text and "<img src=x" not in results.text
    assert "<img" not in client.get("/browse", params={"q": '"><img src=y>'}).text.split("<ul")[0]


def test_results_come_as_a_part_or_as_a_page(client):
    upload = {"image": ("q.png", encoded(dots(4).pixels(), "PNG"))}
    part = client.post("/search", files=upload, headers=HX).text
    page = client.post("/search", files=upload).text
    assert "<html" not in part and "<html" in page
    for text in (part, page):
        assert "1 of 10 hits verified" in text and "q.png" in text
        assert "This is" in text and "even" in text and text.count('class="mat open"') == 10
        # Of the best label, six are shown at once; of any other, one.
        hidden = re.findall(r'data-in-group="(\d+)" hidden', text)
        shown = {group: int(count) for group, count in _MORE.findall(text)}
        assert {group: hidden.count(group) for group in set(hidden)} == shown


def test_where_nothing_is_verified_it_is_said(client):
    upload = {"image": ("q.png", encoded(dots(5000).pixels(), "PNG"))}
    text = client.post("/search", files=upload, headers=HX).text
    assert "Not in this collection" in text and "This is" not in text
    assert text.count("mat open") == 10


def test_hits_are_filtered_and_facets_have_counts(client):
    facets = client.get("/facets").text
    assert 'data-where="collection=Wing 0"' in facets and 'data-where="label=even"' in facets
    values = {"id": "plain/003.png", "where": ["label=odd", "collection=Wing 0"], "k": "20"}
    text = client.post("/search", params=values, headers=HX).text
    assert text.count("mat open") == 9 and "even" not in text
    none = client.post("/search?id=plain/003.png&verified_only=true&where=label=odd", headers=HX)
    assert "none passes the filters" in none.text


def test_outliers_are_the_matches_that_do_not_fit(client):
    both = dots(6).pixels()
    # A few dots of the photo, moved elsewhere.
    moved = both[90:].copy()
    both[90:] = moved[:, ::-1]
    data = encoded(both, "PNG")
    answer = client.post("/api/query?k=1&orientations=1", content=data).json()["hits"][0]
    assert answer["id"] == "plain/006.png" and answer["transform"]
    fields = {"hit": answer["id"], "transform": str(answer["transform"]), "orientations": "1"}
    wrong = client.post("/outliers", files={"image": data}, data=fields).json()
    assert len(wrong) > 3 and all(abs(y1 - y2) < 1 and y1 >= 89 for _, y1, _, y2 in wrong)
    everything = client.post("/outliers", files={"image": data}, data={"hit": answer["id"]}).json()
    assert len(everything) == len(wrong) + answer["inliers"]


@pytest.mark.parametrize("value", ["x", "[1]", "[[1,2,3],[4,5,6],[7,8,NaN]]", "[[[[", '{"a":1}'])
def test_a_transform_that_is_none_is_refused(client, value):
    files = {"image": encoded(dots(6).pixels(), "PNG")}
    fields = {"hit": "plain/006.png", "transform": value}
    assert client.post("/outliers", files=files, data=fields).status_code == 422
    assert client.post("/outliers", files=files, data={"hit": "none"}).status_code == 404


def test_a_photo_of_the_index_starts_a_search(client):
    page = client.get("/?id=plain/003.png").text
    assert 'value="plain/003.png"' in page
    part = client.post("/search", data={}, params={"id": "plain/003.png"}, headers=HX).text
    assert "räume/<wbr>again.png" in part


def test_an_index_of_features_alone_is_searched_from_its_own(client, tmp_path):
    with client.service.shared.reading() as images:
        images.export(tmp_path / "out.npz", "npz")
        with ImageIndex.create_for_features(tmp_path / "f", images.feature_spec) as imported:
            imported.import_from([tmp_path / "out.npz"])
    service = Service(SharedIndex(tmp_path / "f"), ServeSettings())
    service.shared.warm()
    with TestClient(make_app(service), base_url="http://127.0.0.1") as alone:
        assert "a model that is not installed" in alone.get("/").text
        photo = encoded(dots(3).pixels(), "PNG")
        refused = alone.post("/api/query", content=photo)
        assert refused.status_code == 409 and "made elsewhere" in refused.json()["error"]
        hits = alone.post("/api/query?id=plain/003.png&k=1").json()["hits"]
        assert hits[0]["id"] == "räume/again.png" and hits[0]["verified"]
        for path in ("/browse", "/?id=plain/003.png", "/image?id=plain/003.png"):
            assert alone.get(path).status_code == 200
        assert alone.get("/api/images/plain%2F003.png/thumb").status_code == 404


def test_an_empty_index_has_pages_too(tmp_path, dot_model_folder):
    ImageIndex.create(tmp_path / "e", str(dot_model_folder)).close()
    shared = SharedIndex(tmp_path / "e", extractor=DotModel(dot_model_folder))
    shared.warm()
    app = make_app(Service(shared, ServeSettings()))
    with TestClient(app, base_url="http://127.0.0.1") as empty:
        for path in ("/", "/browse", "/failures", "/stats", "/duplicates"):
            assert empty.get(path).status_code == 200
        photo = encoded(dots(3).pixels(), "PNG")
        assert empty.post("/api/query", content=photo).json()["hits"] == []
        part = empty.post("/search", files={"image": photo}, headers=HX).text
        assert "No hits" in part and "The index is empty" in part
        assert "index is empty" in finished(empty) and "No duplicates" not in finished(empty)


def test_failures_say_why(client):
    text = client.get("/failures").text
    assert "broken.jpg" in text and "not an image of a known format" in text
    assert client.get("/image?id=broken.jpg").status_code == 200
    assert client.get("/api/images/broken.jpg/thumb").status_code == 404


def test_duplicates_are_looked_for_in_the_background(client):
    assert "<html" in client.get("/duplicates").text
    text = finished(client)
    assert "identical files" in text and "plain/003.png" in text.replace("<wbr>", "")
    assert "<html" not in text


@pytest.mark.parametrize("photos", [5, 1000])
def test_only_a_whole_search_for_duplicates_says_that_there_are_none(serve, monkeypatch, photos):
    finder = functools.partial(DuplicateFinder, limits=Limits(photos=photos))
    monkeypatch.setattr("index.serve.service.DuplicateFinder", finder)
    client = serve()
    client.service.remove("räume/again.png")
    text = finished(client)
    assert "No group" in text
    assert ("there may be more" in text) == ("No duplicates" not in text) == (photos == 5)


def test_the_index_and_what_programs_ask(client):
    text = client.get("/stats").text
    assert "even" in text and "collection" in text and "dots" in text
    assert "/api/query" in client.get("/api").text


def test_what_is_not_there_is_said_on_a_page(client):
    answer = client.get("/nothing")
    assert answer.status_code == 404 and "<html" in answer.text
    assert client.get("/image?id=nothing").status_code == 404
    assert client.get("/image").status_code == 422
    assert client.get("/search").status_code == 405


def test_pagination_counts():
    pagination = Pagination("/x", {"q": "a b", "label": ""}, 2, 100, 48)
    assert (pagination.first_entry, pagination.last_entry, pagination.last) == (49, 96, 3)
    assert (pagination.url(1), pagination.url(3)) == ("/x?q=a+b", "/x?q=a+b&page=3")
    assert Pagination("/x", {}, 1, 0, 48).first_entry == 0
    assert Pagination("/x", {}, 1, 0, 48).url(1) == "/x"


def test_what_others_changed_is_shown_to_the_next_visitor(serve):
    client = serve()
    assert "of another process" not in client.get("/labels").text
    with client.service.shared.writing() as images:
        images.edit(["plain/003.png"], "of another process")
    assert "of another process" in client.get("/labels").text
