import socket
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delg.errors import DelgError
from delg.images.decode import decode
from index.demo import photos as demo_photos
from index.demo.photos import DemoQuery, make_gallery


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, list[DemoQuery]]:
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:

        def offline(*args: object, **named: object) -> None:
            raise AssertionError("the demo must not use the network")

        patch.setattr(socket, "create_connection", offline)
        patch.setattr(socket.socket, "connect", offline)
        patch.setattr(urllib.request, "urlopen", offline)
        return folder, make_gallery(folder)


def test_the_layout_is_gallery_and_queries(demo):
    folder, queries = demo
    assert {path.name for path in folder.iterdir()} == {"gallery", "queries"}
    assert {query.path for query in queries} == set((folder / "queries").iterdir())
    assert len(list((folder / "gallery").iterdir())) == len(demo_photos.GALLERY)
    assert 15 <= len(queries) <= 25


def test_every_expected_photo_is_in_the_gallery_and_some_queries_have_none(demo):
    folder, queries = demo
    gallery = {path.name for path in (folder / "gallery").iterdir()}
    assert {query.expected for query in queries} - {None} <= gallery
    absent = [query for query in queries if query.expected is None]
    assert 1 <= len(absent) <= 3
    for query in absent:
        assert f"{query.path.name.split('-')[0]}.jpg" not in gallery


def test_every_photo_decodes_and_each_variant_has_words(demo):
    folder, queries = demo
    for path in folder.rglob("*.jpg"):
        assert min(decode(path).shape[:2]) >= 100
    assert all(query.variant for query in queries)


def test_queries_differ_from_their_photo(demo):
    folder, queries = demo
    for query in queries:
        if query.expected is None:
            continue
        with Image.open(folder / "gallery" / query.expected) as photo:
            own = np.asarray(photo.convert("L").resize((32, 32)), float)
        with Image.open(query.path) as other:
            changed = np.asarray(other.convert("L").resize((32, 32)), float)
        assert np.abs(own - changed).mean() > 1, query.path.name


def test_the_motorcycle_is_a_true_second_view(demo):
    folder, queries = demo
    query = next(query for query in queries if "second-view" in query.path.name)
    assert query.expected == "motorcycle.jpg"
    assert decode(query.path).shape == decode(folder / "gallery" / query.expected).shape


def test_making_it_again_gives_the_same_bytes(demo, tmp_path):
    folder, queries = demo
    again = make_gallery(str(tmp_path / "new" / "demo"))
    assert files(tmp_path / "new" / "demo") == files(folder)
    assert [(q.path.name, q.expected, q.variant) for q in again] == [
        (q.path.name, q.expected, q.variant) for q in queries
    ]


def test_photos_that_are_missing_are_skipped_and_change_nothing_else(demo, tmp_path, monkeypatch):
    folder, _ = demo
    read = demo_photos.read_photo
    gone = {"astronaut.png", "gravel.png", "motorcycle_left.png", "coffee.png"}
    monkeypatch.setattr(demo_photos, "read_photo", lambda f: None if f in gone else read(f))
    names = {query.path.name for query in make_gallery(tmp_path)}
    assert not {name for name in names if name.startswith(("astronaut", "motorcycle", "coffee"))}
    assert "camera-gravel.jpg" in names
    left, all_of_it = files(tmp_path), files(folder)
    same = {name for name in left if left[name] == all_of_it[name]}
    assert set(left) - same == {"queries/camera-gravel.jpg"}


def test_a_file_the_package_does_not_have_is_none():
    assert demo_photos.read_photo("no-such-photo.png") is None


def test_without_any_photo_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_photos, "read_photo", lambda file: None)
    with pytest.raises(DelgError, match="pip install scikit-image"):
        make_gallery(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DelgError, match=r"file.gallery"):
        make_gallery(tmp_path / "file")
