"""The disk is full while an index is written: a clear error, and the index none the worse."""

from pathlib import Path

import pytest
from dots import contents, dots, gallery

from index import ImageIndex, IndexSettings


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    gallery(folder, 150)
    return folder


@pytest.fixture
def place(tmp_path, dot_model_folder, model, many) -> Path:
    """An index of the first 20 photos."""
    settings = IndexSettings.model_validate({"store": {"segment_images": 10}})
    with ImageIndex.create(tmp_path / "i", str(dot_model_folder), settings=settings) as images:
        images.use(model)
        images.add(sorted(many.iterdir())[:20])
    return tmp_path / "i"


def check_said(answer: dict, place: Path) -> None:
    assert "error" in answer, "there was room enough"
    assert str(place) in answer["message"]
    # Nothing is broken, so nobody must be told to throw it away.
    assert "restore" not in answer["message"] and "new index" not in answer["message"]


# With little room it is a segment that cannot be written, with more the catalog.
@pytest.mark.parametrize("size", [2_000, 20_000, 34_000, 50_000])
def test_adding_fails_clearly_and_continues_when_there_is_room(place, many, work, model, size):
    before = contents(place)
    # An open reader holds the small files that SQLite needs to open a catalog at all.
    with ImageIndex.open(place):
        code, answer = work("add", place, many, "--disk", size)
    assert code == 0
    check_said(answer, place)
    remaining = contents(place)
    assert {name: remaining[name] for name in before} == before
    with ImageIndex.open(place) as images:
        images.use(model)
        assert images.check().problems == []
        assert images.query(dots(3).pixels(), k=1)[0].id == "003.png"
        model.extracted = 0
        report = images.add(many)
        assert report.added == model.extracted == 150 - len(remaining)
        report = images.check()
        assert report.problems == report.notes == []
    assert len(contents(place)) == 150


@pytest.mark.parametrize("command", ["remove", "compact"])
def test_removing_and_compacting_fail_clearly_too(place, work, model, command):
    with ImageIndex.open(place) as images:
        images.remove(["000.png"])
    gone = ["001.png"] if command == "remove" else []
    with ImageIndex.open(place):
        code, answer = work(command, place, *gone, "--disk", 0)
    assert code == 0
    check_said(answer, place)
    with ImageIndex.open(place) as images:
        images.use(model)
        assert len(images) == 19
        assert images.check().problems == []
        assert images.query(dots(3).pixels(), k=1)[0].id == "003.png"
        images.compact()
        assert images.check().problems == images.check().notes == []


def test_reading_needs_no_room(place, many, work):
    code, answer = work("query", place, many / "003.png", "--disk", 0)
    assert code == 0 and answer["hits"][0]["id"] == "003.png"


def test_creating_fails_clearly_and_can_be_done_again(tmp_path, work):
    place = tmp_path / "new.index"
    for size in (2_000, 20_000):
        code, answer = work("create", place, "--disk", size)
        assert code == 0 and "catalog.sqlite: cannot be written" in answer["message"]
        assert not ImageIndex.exists(place)
    assert work("create", place) == (0, {})
    with ImageIndex.open(place) as images:
        assert images.check().problems == []
