"""Who may come in, and what browsers may do."""

from __future__ import annotations

import socket

import pytest

from delg.errors import UsageError
from delg.settings import parse
from index.serve.places import Places, TooBusyError, network_of
from index.serve.settings import ServeSettings

TOKEN = "a-token-of-some-length"
PATHS = (
    "/",
    "/browse",
    "/api/stats",
    "/api/facets",
    "/api/marks",
    "/api/marks.csv",
    "/api/trash",
    "/api/changes",
    "/changes",
    "/api/duplicates",
    "/api/duplicates.csv",
    "/api/searches",
    "/api/groups",
    "/api/groups.csv",
    "/api/groups/labels.csv",
    "/api/pairs",
    "/api/pairs.csv",
    "/api/queries/none",
    "/metrics",
    "/api/images/plain%2F000.png/thumb",
    "/openapi.json",
    "/nope",
)


# What changes something on a writable server.
WRITING = (
    "/trash/restore",
    "/trash/empty",
    "/changes/undo",
    "/api/trash/restore",
    "/api/trash/empty",
    "/api/images/plain%2F000.png/undo",
    "/duplicates/decide",
    "/api/duplicates/remove",
    "/api/duplicates/ignore",
    "/api/duplicates/heed",
    "/groups/compare",
    "/groups/merge",
    "/groups/split",
    "/api/groups",
    "/api/groups/merge",
    "/api/groups/split",
    "/pairs/compare",
    "/pairs/decide",
    "/api/pairs",
    "/api/pairs/decide",
)


@pytest.mark.parametrize("path", [*PATHS, "/health", "/static/app.js", "/login"])
def test_every_answer_has_a_strict_policy(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy
    assert "unsafe" not in policy and "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    "path",
    [*PATHS, "/stats", "/health", "/static/app.css", "/login", "/image?id=plain/003.png",
     "/api/images/plain%2F000.png", "/duplicates?page=x"],
)  # fmt: skip
def test_head_is_answered_like_get_without_a_body(client, path):
    get, head = client.get(path), client.head(path)
    assert head.status_code == get.status_code != 405 and not head.content
    for name in ("content-type", "etag", "cache-control", "content-security-policy"):
        assert head.headers.get(name) == get.headers.get(name)
    assert int(head.headers["content-length"]) > 0


def test_head_is_refused_like_get(client, serve):
    assert client.head("/search").status_code == 405
    assert client.head("/", headers={"host": "evil.example"}).status_code == 403
    refused = serve(token=TOKEN).head("/api/stats")
    assert refused.status_code == 401 and not refused.content


@pytest.mark.parametrize(
    "page",
    [
        "/",
        "/browse",
        "/labels",
        "/batch",
        "/map",
        "/places",
        "/searches",
        "/duplicates",
        "/failures",
        "/trash",
        "/changes",
        "/groups",
        "/pairs",
        "/stats",
        "/api",
    ],
)
def test_pages_load_nothing_from_outside_and_hold_no_script(client, page):
    text = client.get(page).text
    assert "//" not in text.replace("http://127.0.0.1", "")
    assert " style=" not in text and " onclick" not in text
    assert all('<script src="/static/' in part for part in text.split("\n") if "<script" in part)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "localhost@evil", "[", "10.0.0.1:80"]
)
def test_a_local_server_answers_only_to_local_names(client, host):
    assert client.get("/api/stats", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:9", "[::1]:80"])
def test_local_names_are_known(client, host):
    assert client.get("/api/stats", headers={"host": host}).status_code == 200


def test_further_names_can_be_allowed(serve):
    client = serve(allow_hosts=("photos.example",))
    assert client.get("/api/stats", headers={"host": "photos.example"}).status_code == 200


def test_an_open_server_answers_to_addresses_and_its_own_name_alone(serve):
    client = serve(host="0.0.0.0", no_auth=True, allow_hosts=("photos.example",))
    for host in ("192.168.1.5:8000", "[fe80::1]", "photos.example", socket.gethostname()):
        assert client.get("/api/stats", headers={"host": host}).status_code == 200
    assert client.get("/api/stats", headers={"host": "evil.example"}).status_code == 403
    behind = serve(host="0.0.0.0", token=TOKEN)
    headers = {"host": "any.example", "authorization": f"Bearer {TOKEN}"}
    assert behind.get("/api/stats", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"}, {"origin": "http://127.0.0.1:81"},
    ],
)  # fmt: skip
def test_pages_of_other_sites_can_change_nothing(serve, headers):
    client = serve(writable=True)
    assert client.post("/api/images", headers=headers).status_code == 403
    assert client.delete("/api/images/plain%2F000.png", headers=headers).status_code == 403
    assert client.post("/search", headers=headers).status_code == 403
    for path in ("/api/queries", "/api/marks?query=x", "/api/query"):
        assert client.post(path, headers=headers).status_code == 403
    assert client.delete("/api/queries/x", headers=headers).status_code == 403
    image = "/api/images/plain%2F000.png"
    assert client.patch(f"{image}?label=x", headers=headers).status_code == 403
    assert client.post(f"{image}/restore", headers=headers).status_code == 403
    for path in WRITING:
        assert client.post(path, headers=headers).status_code == 403
    assert client.get("/api/images/plain%2F000.png").status_code == 200


def test_its_own_pages_may_ask(client):
    headers = {"origin": "http://127.0.0.1", "sec-fetch-site": "same-origin"}
    assert client.post("/api/query?id=plain/003.png", headers=headers).status_code == 200


def test_without_the_token_only_the_door_answers(serve):
    client = serve(token=TOKEN, writable=True)
    for path in PATHS:
        assert client.get(path).status_code == 401
    for wrong in ("", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ü"):
        headers = {"authorization": f"Bearer {wrong}".encode()}
        assert client.get("/api/stats", headers=headers).status_code == 401
        cookie = {"cookie": f"delg_token={wrong}".encode()}
        assert client.get("/api/stats", headers=cookie).status_code == 401
    assert client.post("/api/images", content=b"x").status_code == 401
    assert client.delete("/api/images/plain%2F000.png").status_code == 401
    assert all(client.post(path).status_code == 401 for path in WRITING)
    assert client.get("/health").status_code == client.get("/static/app.css").status_code == 200
    good = {"authorization": f"Bearer {TOKEN}"}
    assert client.get("/api/stats", headers=good).status_code == 200
    assert "plain/000.png" in client.get("/browse", headers=good).text


def test_people_come_in_by_a_form_and_leave_again(serve):
    client = serve(token=TOKEN)
    door = client.get("/browse?q=x", headers={"accept": "text/html"}, follow_redirects=False)
    assert door.status_code == 303 and door.headers["location"] == "/login?next=%2Fbrowse%3Fq%3Dx"
    wrong = client.post("/login", files={"token": (None, "wrong")})
    assert wrong.status_code == 401 and "Wrong token" in wrong.text and not client.cookies
    fields = {"token": (None, TOKEN), "next": (None, "/browse?q=x")}
    right = client.post("/login", files=fields, follow_redirects=False)
    assert right.status_code == 303 and right.headers["location"] == "/browse?q=x"
    cookie = right.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and TOKEN not in cookie
    assert client.get("/browse").status_code == 200
    client.post("/logout")
    assert client.get("/browse").status_code == 401


@pytest.mark.parametrize(
    "bad", ["//evil.example", "https://evil.example", "/\\evil", "evil", "/a\nb"]
)
def test_the_door_leads_nowhere_else(serve, bad):
    fields = {"token": (None, TOKEN), "next": (None, bad)}
    answer = serve(token=TOKEN).post("/login", files=fields, follow_redirects=False)
    assert answer.headers["location"] == "/"


def test_parts_of_pages_send_the_whole_page_to_the_door(serve):
    answer = serve(token=TOKEN).post("/search", headers={"hx-request": "true"})
    assert answer.status_code == 401 and answer.headers["hx-redirect"] == "/login"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "photos.example"])
def test_a_host_that_others_reach_needs_a_token_or_a_word(host):
    settings = parse(ServeSettings, {"host": host}, "test")
    with pytest.raises(UsageError, match="--token"):
        settings.check()
    parse(ServeSettings, {"host": host, "token": TOKEN}, "test").check()
    parse(ServeSettings, {"host": host, "no_auth": True}, "test").check()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_a_local_host_needs_none(host):
    parse(ServeSettings, {"host": host}, "test").check()


@pytest.mark.parametrize("token", ["", "short", "with\nline-breaks-in-it", "schlüssel-zum-haus"])
def test_a_token_that_is_too_short_or_fits_no_header_is_refused(token):
    with pytest.raises(UsageError, match="token"):
        parse(ServeSettings, {"token": token}, "test").check()


def test_too_many_requests_at_once_are_sent_away(serve):
    client = serve(requests=1)
    places = client.app._places
    places.take("testclient")
    answer = client.get("/api/stats")
    assert answer.status_code == 503 and answer.headers["retry-after"]
    # Who has no place still gets one.
    places.leave("testclient")
    places.take("203.0.113.7")
    assert client.get("/api/stats").status_code == 200


def test_nobody_takes_all_places():
    places = Places(3, "full")
    for _ in range(3):
        places.take("a")
    with pytest.raises(TooBusyError, match="full"):
        places.take("a")
    for other in "bcd":
        places.take(other)
    with pytest.raises(TooBusyError):
        places.take("e")
    places.leave("a")
    places.take("e")
    assert places.taken == 6
    for address, client in (
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("", ""),
    ):
        assert network_of(address) == client
