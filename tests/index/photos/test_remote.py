"""Photos behind URLs: the same calls on S3, GCS, SFTP, the web and memory, against real servers."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data
from dots import contents, dots, gallery
from PIL import Image

pytest.importorskip("fsspec")
from remote_places import Place, WebPlace, free_port, place_of

from delg.errors import UsageError
from delg.images.scan import scan
from index import ImageIndex

KINDS = ("memory", "s3", "gs", "sftp", "http")


def photo(number: int) -> bytes:
    """The bytes of a photo of its own dots."""
    file = io.BytesIO()
    Image.fromarray(dots(number).pixels()).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(params=KINDS)
def place(request, tmp_path) -> Place:
    """A place of each kind with five photos, a text, and a hidden folder."""
    (tmp_path / "served").mkdir()
    with place_of(request.param, tmp_path / "served") as place:
        for number in range(3):
            place.write(f"{number:03d}.png", photo(number))
        place.write("deep/er/003.png", photo(3))
        place.write("a name & ümlaut%20.PNG", photo(4))
        place.write("notes.txt", b"no photo")
        place.write(".hidden/005.png", photo(5))
        yield place


IDS = ["000.png", "001.png", "002.png", "a name & ümlaut%20.PNG", "deep/er/003.png"]


def test_photos_behind_urls_are_indexed_changed_and_removed_like_those_in_folders(
    place, make_index, model, tmp_path
):
    images = make_index()
    report = images.add(place.url)
    assert (report.added, report.failed, report.passed_over) == (5, [], {".txt": 1})
    assert sorted(images.ids()) == IDS
    row = images.image("deep/er/003.png")
    assert row is not None and row.path == f"{place.url}/deep/er/003.png"
    # What is stored is what the same photos in a folder give.
    for number, image_id in enumerate(sorted(IDS)):
        path = tmp_path / "local" / image_id
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo([0, 1, 2, 4, 3][number]))
    local = make_index("local.index")
    local.add(tmp_path / "local")
    assert contents(images.path) == contents(local.path)

    extracted = model.extracted
    report = images.add(place.url)
    assert (report.unchanged, model.extracted) == (5, extracted)

    place.write("000.png", photo(10))
    place.write("001.png", photo(1))  # Another time, the same bytes.
    place.write("moved.png", photo(2))
    place.remove("002.png")
    place.remove("deep/er/003.png")
    report = images.add(place.url)
    assert (report.updated, report.unchanged, report.added) == (1, 2, 0)
    assert report.moved == {"002.png": "moved.png"}
    assert report.vanished == ["deep/er/003.png"] and not report.unreachable
    [hit, *_] = images.query(f"{place.url}/moved.png", k=1)
    assert hit.id == "moved.png" and hit.verified and hit.path == f"{place.url}/moved.png"
    assert images.remove_vanished(force=True) == ["deep/er/003.png"]
    assert images.missing().gone == [] and len(images) == 4


def test_a_download_that_is_cut_short_is_a_failure_and_tried_again(place, make_index):
    if not hasattr(place, "cut") or place.url.startswith(("memory", "gs", "sftp")):
        pytest.skip("this server cannot cut downloads")
    images = make_index()
    place.cut = {"001.png"}
    report = images.add(place.url)
    assert report.added == 4
    [failure] = report.failed
    assert failure.path == f"{place.url}/001.png" and "cannot be read: " in failure.reason
    assert images.failures() == {"001.png": failure.reason}
    place.cut = set()
    report = images.add(place.url)
    assert (report.added, report.failed) == (1, [])
    # A photo that was read before keeps its features.
    place.write("001.png", photo(11))
    place.cut = {"001.png"}
    assert len(images.add(place.url).failed) == 1 and len(images) == 5


def test_what_cannot_be_reached_has_not_vanished(place, make_index):
    if place.url.startswith(("memory", "gs")):
        pytest.skip("memory is always there; GCS's library tries again for a minute")
    images = make_index()
    images.add(place.url)
    place.go_down()
    with pytest.raises(UsageError, match="cannot be looked at"):
        images.add(place.url)
    missing = images.missing()
    assert missing.gone == [] and sorted(missing.unreachable) == IDS
    assert images.remove_vanished(force=True) == [] and len(images) == 5


@pytest.mark.parametrize("status", [401, 403, 500, 503, 410])
def test_only_a_server_that_says_so_makes_photos_vanish(tmp_path, make_index, status):
    with place_of("http", tmp_path) as place:
        assert isinstance(place, WebPlace)
        place.write("000.png", photo(0))
        images = make_index()
        images.add(place.url)
        place.status = status
        missing = images.missing()
        assert missing.gone == (["000.png"] if status == 410 else [])
        if status != 410:
            assert str(status) in missing.unreachable["000.png"]


def test_lists_of_urls_and_single_photos(tmp_path, make_index, run):
    with place_of("http", tmp_path / "served") as place:
        place.write("000.png", photo(0))
        place.write("a b.png", photo(1))
        host = place.url.partition("://")[2]
        text = f"# photos\n\n{place.url}/000.png\n{place.url}/a%20b.png\n{place.url}/gone.png\n"
        (tmp_path / "urls.txt").write_text(text)
        images = make_index()
        report = images.add(f"@{tmp_path / 'urls.txt'}")
        assert sorted(images.ids()) == [f"{host}/000.png", f"{host}/a b.png"]
        assert [(f.path, f.reason) for f in report.failed] == [
            (f"{place.url}/gone.png", "cannot be read: no such file")
        ]
        assert images.add(f"@{tmp_path / 'urls.txt'}").unchanged == 2
        assert scan([f"{place.url}/000.png"]).photos[0].id == "000.png"
        (tmp_path / "urls.txt").write_text(f"{place.url}/x.png?X-Amz-Signature=hush\n")
        with pytest.raises(UsageError, match=r"urls.txt, line 1: .*presigned") as error:
            images.add(f"@{tmp_path / 'urls.txt'}")
        assert "hush" not in str(error.value)
        with pytest.raises(UsageError, match=r"no-list\.txt: cannot be read: No such file"):
            images.add("@no-list.txt")


def test_relocation_between_folders_and_urls(tmp_path, make_index, model):
    with place_of("http", tmp_path / "served") as place:
        gallery(tmp_path / "photos" / "a b", 3)
        for path in (tmp_path / "photos" / "a b").iterdir():
            place.write(f"a b/{path.name}", path.read_bytes())
        images = make_index()
        images.add(tmp_path / "photos")
        assert images.relocate(tmp_path / "photos", place.url).absent == []
        row = images.image("a b/000.png")
        assert row is not None and row.path == f"{place.url}/a%20b/000.png"
        extracted = model.extracted
        assert images.add(place.url).unchanged == 3 and model.extracted == extracted
        place.remove("a b/001.png")
        assert images.relocate(place.url, place.url + "/").absent == ["a b/001.png"]
        assert images.relocate(place.url, tmp_path / "photos").absent == []
        row = images.image("a b/000.png")
        assert row is not None and row.path == str(tmp_path / "photos" / "a b" / "000.png")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://AKIA:hush@bucket/photos", "credentials"),
        ("sftp://me:hush@host/photos", "credentials"),
        ("https://hush@host/photos", "credentials"),
        ("https://host/a.jpg?X-Amz-Signature=hush", "presigned"),
        ("zip://a::https://me:hush@host/x.zip", "not a plain URL"),
        ("ftp://me:hush@host/photos", "not read"),
        ("s3://", "names no bucket"),
        (Path("s3://bucket/photos"), "cannot be a pathlib.Path"),
    ],
)
def test_urls_that_are_refused_say_why_and_keep_secrets(make_index, run, tmp_path, url, message):
    with pytest.raises(UsageError, match=message) as error:
        make_index().add(url)
    assert "hush" not in str(error.value)
    words = ("index", "build", url, "--index", tmp_path / "i")
    done = run(*words)
    assert done.returncode == 2 and "hush" not in done.stderr + done.stdout
    assert not (tmp_path / "i").exists()


def test_secrets_of_redirected_urls_are_not_recorded(tmp_path, make_index):
    from delg.remote_path import redact

    said = "403, message='Forbidden', url='https://me:pw@h/a.jpg?X-Amz-Signature=hush&x=1'"
    assert redact(said) == "403, message='Forbidden', url='https://…@h/a.jpg?…'"


def test_a_server_that_is_down_is_said_at_the_command_line(run, tmp_path):
    url = f"http://127.0.0.1:{free_port()}/photos"
    done = run("index", "build", url, "--index", tmp_path / "i")
    assert done.returncode == 2 and f"{url}: cannot be looked at" in done.stderr
    assert not (tmp_path / "i").exists()


def test_the_command_line_keeps_urls_whole(tmp_path, run):
    with place_of("http", tmp_path / "served") as place:
        for name in ("rocket", "coffee"):
            file = io.BytesIO()
            Image.fromarray(getattr(skimage.data, name)()).save(file, "JPEG", quality=90)
            place.write(f"{name}.jpg", file.getvalue())
        done = run("index", "build", place.url, "--index", "i", "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        query = f"{place.url}/rocket.jpg"
        words = ("query", query, "--index", "i", "--json", "--html", "p.html", "--draw", "d")
        done = run(*words, cwd=tmp_path)
        answer = json.loads(done.stdout)
        assert answer["query"] == query and answer["hits"][0]["path"] == query
        assert query in (tmp_path / "p.html").read_text()
        assert (tmp_path / "d" / "rocket-01-rocket.jpg").exists()

        with ImageIndex.open(tmp_path / "i") as images:
            assert images.image("rocket.jpg").path == query
        done = run("match", query, f"{place.url}/coffee.jpg", "--json", cwd=tmp_path)
        assert json.loads(done.stdout)["a"] == query


def test_machines_without_urls_import_no_library_for_them(tmp_path):
    gallery(tmp_path / "photos", 1)
    code = (
        "import sys\nfrom delg.images.scan import scan\n"
        "import index, index.cli.index, delg.cli.main\n"
        f"assert len(scan([{str(tmp_path / 'photos')!r}]).photos) == 1\n"
        "print(sorted({'fsspec', 'aiohttp', 's3fs', 'sshfs'} & set(sys.modules)))\n"
        "sys.modules['fsspec'] = None\nscan(['s3://bucket'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.stdout == "[]\n"
    assert "s3:// needs an extra: pip install 'delg-retrieval[remote]'" in done.stderr


def test_the_server_shows_photos_behind_urls_and_fetches_no_others(tmp_path, make_index, model):
    from starlette.testclient import TestClient

    from index.serve.app import make_app
    from index.serve.service import Service
    from index.serve.settings import ServeSettings
    from index.serve.shared_index import SharedIndex

    with place_of("http", tmp_path / "served") as place:
        assert isinstance(place, WebPlace)
        place.write("a b.png", photo(0))
        place.write("secret.png", photo(1))
        images = make_index()
        images.add(f"{place.url}/a%20b.png")
        service = Service(SharedIndex(images.path, extractor=model), ServeSettings())
        app = make_app(service)
        with TestClient(app, base_url="http://127.0.0.1") as client:
            place.requests.clear()
            thumbnail = client.get("/api/images/a%20b.png/thumb")
            assert thumbnail.status_code == 200 and thumbnail.content[:2] == b"\xff\xd8"
            asked = len(place.requests)
            assert asked and client.get("/api/images/a%20b.png/thumb").content == thumbnail.content
            assert len(place.requests) == asked
            answer = client.post("/api/query", files={"id": (None, "a b.png")})
            assert answer.status_code == 200 and answer.json()["hits"] == []
            for name in (f"{place.url}/secret.png", "secret.png"):
                assert client.get(f"/api/images/{name}/thumb").status_code == 404
                answer = client.post("/api/query", files={"id": (None, name)})
                assert answer.status_code == 404
            assert not any("secret" in request for request in place.requests)
            place.go_down()
            answer = client.get("/api/images/a%20b.png/photo")
            assert answer.status_code == 404 and "cannot be shown" in answer.text
