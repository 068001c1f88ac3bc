"""Sharded indexes are built, changed, split, joined and moved; what is missing is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml
from dots import DotModel, contents, dots, gallery
from hypothesis import given
from hypothesis import strategies as st

from delg.errors import DelgError, UsageError
from index import ImageIndex
from index.search.shard import ShardLostError
from index.serve.shared_index import SharedIndex
from index.sharding.reshard import move, reshard
from index.sharding.shards import FILE, ShardMap, shard_number

QUERY = dots(4).moved([[0.8, -0.5, 70], [0.5, 0.8, 10], [0, 0, 1]], (210, 190)).pixels()


def stored(folder: Path) -> dict[str, tuple]:
    """All that the shards know of their images: id -> facts."""
    entries = ShardMap.read(folder).shards
    parts = [contents(folder / entry.location) for entry in entries]
    assert sum(map(len, parts)) == len(set().union(*parts))
    return {image: facts for part in parts for image, facts in part.items()}


def rows(folder: Path) -> dict[str, int]:
    """Id -> row number, of images that can be found."""
    with ImageIndex.open(folder) as images:
        return {image_id: images.image(image_id).row for image_id in images.ids()}


def in_order(folder: Path) -> list[str]:
    """Ids in the order of addition."""
    numbers = rows(folder)
    assert len(set(numbers.values())) == len(numbers)
    return sorted(numbers, key=lambda image_id: numbers[image_id])


@pytest.fixture
def copied(several, tmp_path) -> Path:
    """A copy of the sharded index, to be changed."""
    return Path(shutil.copytree(several.path, tmp_path / "copy.index"))


@pytest.fixture
def reopen(words_model):
    def open_it(folder: Path) -> ImageIndex:
        images = ImageIndex.open(folder)
        images.share_model(partial(DotModel, words_model))
        return images

    return open_it


@given(st.text(), st.integers(1, 50))
def test_every_id_has_one_shard_whatever_its_unicode_form(text, count):
    import unicodedata

    numbers = {shard_number(unicodedata.normalize(form, text), count) for form in ("NFC", "NFD")}
    assert len(numbers) == 1 and numbers <= set(range(count))


def test_photos_are_spread_evenly():
    counts = [0] * 8
    for n in range(8000):
        counts[shard_number(f"folder/{n}.jpg", 8)] += 1
    assert min(counts) > 850 and max(counts) < 1150


def test_shards_hold_what_one_index_holds(one, several):
    assert stored(several.path) == contents(one.path)
    # So that equal photos come in the same order.
    assert in_order(several.path) == in_order(one.path)


def test_building_again_extracts_only_what_is_new(copied, reopen, sharded_photos, tmp_path):
    photos = Path(shutil.copytree(sharded_photos, tmp_path / "photos"))
    with reopen(copied) as images:
        images.relocate(sharded_photos, photos)
        calls: list[tuple[int, int, int]] = []
        report = images.add(photos, progress=lambda *numbers: calls.append(numbers))
        assert (report.added, report.updated, report.unchanged) == (0, 0, 35)
        assert [failure.path for failure in report.failed] == [str(photos / "broken.png")]
        gallery(photos, 4, first=200)
        dots(300).save(photos / "003.png")
        (photos / "004.png").unlink()
        (photos / "broken.png").unlink()
        calls.clear()
        report = images.add(photos, progress=lambda *numbers: calls.append(numbers))
        assert (report.added, report.updated, report.unchanged) == (4, 1, 33)
        assert set(report.vanished) == {"004.png", "broken.png"} and len(images) == 39
        assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
        assert calls[-1] == (5, 5, 0)
        assert images.query(dots(201).pixels())[0].id == "201.png"
        assert images.remove_vanished() == ["004.png", "broken.png"]
        assert images.remove(["005.png"]) == 1 and "005.png" not in images.ids()
        with pytest.raises(UsageError, match=r"has no image 005\.png"):
            images.remove(["006.png", "005.png"])
        assert "006.png" in images.ids()
        images.compact()
        assert images.check().problems == []


def test_a_missing_shard_is_named_and_the_rest_is_searched(copied, reopen):
    lost = copied / ShardMap.read(copied).shards[shard_number("004.png", 2)].location
    lost.rename(copied / "away")
    with reopen(copied) as images:
        result = images.query(QUERY, k=40)
        assert [missing.shard for missing in result.partial] == [lost.name]
        assert str(lost) in result.partial[0].reason
        assert result.as_json("q", "i")["partial"] == [vars(result.partial[0])]
        assert {hit.id for hit in result} == set(images.ids()) and "004.png" not in images.ids()
        assert 0 < len(images) < 35
        with pytest.raises(DelgError, match="part of the index cannot be searched"):
            images.search(QUERY).ranking(9)
        with pytest.raises(ShardLostError, match=rf"004\.png: its shard {lost.name} is missing"):
            images.image("004.png")
        with pytest.raises(ShardLostError, match="shards are missing"):
            images.remove([images.ids()[0]])
        assert any(lost.name in problem for problem in images.check().problems)
    (copied / "away").rename(lost)
    with reopen(copied) as images:
        assert not images.query(QUERY).partial and len(images) == 35


def test_a_shard_of_another_model_is_refused(copied, dot_model_folder):
    place = copied / ShardMap.read(copied).shards[1].location
    shutil.rmtree(place)
    ImageIndex.create(place, str(dot_model_folder)).close()
    with pytest.raises(DelgError, match="shard 0001 has the vocabulary none"):
        ImageIndex.open(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard": []}, "shard: Extra inputs"),
        ({"shards": []}, "shards: "),
        ({"version": 2}, "version: "),
        ({"replicas": 0}, "replicas: "),
        ({"shards": [{"name": "a", "location": "x"}] * 2}, "two shards have the same name"),
    ],
)
def test_a_wrong_index_yaml_says_what_is_wrong(copied, change, message):
    values = yaml.safe_load((copied / FILE).read_text())
    (copied / FILE).write_text(yaml.safe_dump({**values, **change}))
    with pytest.raises(DelgError, match=message):
        ImageIndex.open(copied)


def test_split_and_join_without_extraction(one, several, tmp_path):
    reshard([one.path], tmp_path / "four.index", 4)
    assert stored(tmp_path / "four.index") == contents(one.path)
    assert rows(tmp_path / "four.index") == rows(one.path)
    reshard([tmp_path / "four.index"], tmp_path / "one.index", None)
    assert contents(tmp_path / "one.index") == contents(one.path)
    assert rows(tmp_path / "one.index") == rows(one.path)
    with ImageIndex.open(tmp_path / "one.index") as images:
        assert images.check().problems == []
    with ImageIndex.open(tmp_path / "four.index") as images:
        assert images.check().problems == []
    assert not list(tmp_path.glob("*.partial"))


def test_joining_independent_indexes(one, words_model, tmp_path):
    with ImageIndex.create(tmp_path / "more.index", str(words_model)) as more:
        more.use(DotModel(words_model))
        gallery(tmp_path / "more", 5, first=400)
        more.add(tmp_path / "more")
        more.add_upload("up.png", (tmp_path / "more" / "401.png").read_bytes(), label_of("x"))
        with pytest.raises(UsageError, match=r"is in .*more\.index and in"):
            reshard([more.path, more.path], tmp_path / "twice.index", 2)
    reshard([one.path, tmp_path / "more.index"], tmp_path / "both.index", 2)
    shutil.rmtree(tmp_path / "more.index")
    assert len(set(rows(tmp_path / "both.index").values())) == 41
    with ImageIndex.open(tmp_path / "both.index") as both:
        both.share_model(partial(DotModel, words_model))
        hits = both.query(dots(401).pixels(), k=2)
        assert [hit.id for hit in hits] == ["401.png", "up.png"]
        assert Path(hits[1].path).is_file() and both.missing().gone == []


def label_of(text):
    from index.labels import Label

    return Label(text)


def test_an_interrupted_split_goes_on(one, tmp_path, monkeypatch):
    from index.storage.store import Store

    commit, left = Store.copy_in, [1]

    def fail(self, *arguments):
        if not left[0]:
            raise DelgError("killed")
        left[0] -= 1
        commit(self, *arguments)

    out = tmp_path / "out.index"
    monkeypatch.setattr(Store, "copy_in", fail)
    with pytest.raises(DelgError, match="killed"):
        reshard([one.path], out, 3)
    assert not out.exists() and out.with_name("out.index.partial").exists()
    monkeypatch.undo()
    with pytest.raises(UsageError, match="left by another attempt"):
        reshard([one.path], out, 2)
    reshard([one.path], out, 3)
    assert stored(out) == contents(one.path)


@pytest.mark.parametrize("kind", ["memory", "s3", "sftp"])
def test_a_shard_moves_to_a_url_where_it_is_only_read(
    kind, copied, one, reopen, tmp_path, monkeypatch
):
    pytest.importorskip("fsspec")
    from remote_places import place_of

    monkeypatch.setenv("DELG_HOME", str(tmp_path / "home"))
    (tmp_path / "served").mkdir()
    first, second = ShardMap.read(copied).shards
    with place_of(kind, tmp_path / "served") as place:
        url = f"{place.url}/part"
        assert move(copied, first.name, url) == url
        assert not (copied / first.location).exists()
        assert ShardMap.read(copied).shards[0].location == url
        with reopen(copied) as images:
            assert images.ids() == sorted(one.ids()) and images.check().problems == []
            answers = [[(hit.id, hit.score) for hit in i.query(QUERY, k=35)] for i in (images, one)]
            assert answers[0] == answers[1]
            there = next(name for name in images.ids() if images.shard_of(name) == first.name)
            with pytest.raises(DelgError, match="fetched copy"):
                images.remove([there])
        with pytest.raises(UsageError, match="is not moved from there"):
            move(copied, first.name, str(tmp_path / "back"))
        # What cannot be sent stays where it is.
        before = contents(copied / second.location)
        with pytest.raises(DelgError, match="cannot be sent"):
            move(copied, second.name, "https://127.0.0.1:9/part")
        assert contents(copied / second.location) == before


def test_a_shard_is_moved(copied, one, reopen, tmp_path):
    entry = ShardMap.read(copied).shards[1]
    target = move(copied, entry.name, str(tmp_path / "disk2" / "part"))
    assert not (copied / entry.location).exists() and target == str(tmp_path / "disk2" / "part")
    with reopen(copied) as images:
        assert len(images) == 35 and images.check().problems == []
    for name, to, message in (
        ("9", tmp_path / "x", "has no shard 9; it has 0000, 0001"),
        ("0000", target, "exists; choose another place"),
    ):
        with pytest.raises(UsageError, match=message):
            move(copied, name, str(to))
    with pytest.raises(UsageError, match="no sharded index"):
        move(one.path, "0000", str(tmp_path / "x"))


def test_a_server_reads_shards_and_follows_them(copied, words_model, tmp_path):
    shared = SharedIndex(copied, extractor=DotModel(words_model))
    with shared.reading() as images:
        assert images.query(QUERY, k=1)[0].id == "004.png"
    with shared.writing() as images:
        images.add_upload("up.png", dots(500).save(tmp_path / "a.png").read_bytes(), label_of("x"))
    with shared.reading() as images:
        assert images.query(dots(500).pixels(), k=1)[0].id == "up.png"
    shared.close()


def test_commands_take_shards_as_they_take_one_index(run, one, tmp_path):
    index, merged = tmp_path / "many.index", tmp_path / "merged.index"
    done = run("index", "shard", "--index", one.path, "--out", index, "--shards", "3")
    assert done.returncode == 0 and "35 photos in" in done.stdout
    info = json.loads(run("index", "info", "--index", index, "--json").stdout)
    assert (info["images"], info["shards"], info["failed"]) == (35, 3, 1)
    assert run("index", "check", "--index", index).returncode == 0

    def hits(folder: Path) -> list[dict]:
        done = run("query", "--like", "004.png", "--index", folder, "--json")
        assert done.returncode == 0
        return json.loads(done.stdout)["hits"]

    assert hits(index) == hits(one.path)
    shard = ShardMap.read(index).shards[0]
    assert run("index", "move", shard.name, tmp_path / "b", "--index", index).returncode == 0
    assert run("index", "merge", index, "--out", merged).returncode == 0
    assert hits(merged) == hits(one.path) == hits(index)
    for refused, message in (
        (("index", "tune", "--index", index), "a sharded index cannot"),
        (("query", "--like", "004.png", "--index", one.path, "--ray", "auto"), "is not sharded"),
        (("index", "merge", index, "--out", merged), "exists"),
        (("index", "build", tmp_path, "--index", index, "--shards", "2"), "has 3 shards"),
        (
            ("index", "build", tmp_path, "--index", tmp_path / "n", "--ray", "auto"),
            "needs --shards",
        ),
    ):
        done = run(*refused)
        assert done.returncode == 2 and message in done.stderr, done.stderr
    shutil.rmtree(tmp_path / "b")
    like = next(f"{n:03d}.png" for n in range(24) if shard_number(f"{n:03d}.png", 3))
    done = run("query", "--like", like, "--index", index, "--json")
    assert done.returncode == 3 and "not searched" in done.stderr
    assert [missing["shard"] for missing in json.loads(done.stdout)["partial"]] == [shard.name]


def test_a_build_as_typed(run, real_photos, tmp_path):
    index = tmp_path / "real.index"
    words = ("index", "build", real_photos, "--index", index, "--shards", "2")
    done = run(*words)
    assert done.returncode == 0 and "6 photos added" in done.stdout, done.stderr
    assert "6 unchanged" in run(*words).stdout
    done = run("query", real_photos / "cat.jpg", "--index", index, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["hits"][0]["id"] == "cat.jpg"
    assert "partial" not in json.loads(done.stdout)


def test_a_partial_answer_over_http_has_a_header(copied, words_model):
    from fastapi.testclient import TestClient

    from index.serve.app import make_app
    from index.serve.service import Service
    from index.serve.settings import ServeSettings

    settings, shared = ServeSettings(), SharedIndex(copied, extractor=DotModel(words_model))
    lost = copied / ShardMap.read(copied).shards[1 - shard_number("004.png", 2)].location
    with TestClient(make_app(Service(shared, settings)), "http://127.0.0.1") as client:
        reply = client.post("/api/query", files={"id": (None, "004.png")})
        assert reply.status_code == 200 and "x-delg-partial" not in reply.headers
        lost.rename(copied / "away")
        (copied / FILE).touch()
        reply = client.post("/api/query", files={"id": (None, "004.png")})
        assert reply.headers["x-delg-partial"] == lost.name
        assert [missing["shard"] for missing in reply.json()["partial"]] == [lost.name]
        page = client.post("/search", files={"id": (None, "004.png")}).text
        assert "Not searched" in page


def test_one_machine_does_not_import_ray():
    code = (
        "import sys, index.image_index, index.cli, index.serve.app, index.sharding.sharded_index; "
        "assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_images_are_edited_removed_and_restored_in_their_shards(copied, reopen):
    before = stored(copied)
    with reopen(copied) as images:
        ids = images.ids()[:4]
        edited = images.edit(ids, "new", {"shelf": "1"})
        assert [(row.id, row.label) for row in edited] == [(image_id, "new") for image_id in ids]
        assert {row.id for row in images.select(["shelf=1"])} == set(ids)
        images.remove(ids)
        assert {row.id for row, _ in images.trash()} == set(ids) and images.count_trash() == 4
        assert images.trash(2, 1) == images.trash()[1:3]
        assert images.undo(ids[3]).action == "remove" and images.image(ids[3]) is not None
        images.remove(ids[3:])
        with pytest.raises(UsageError, match="nothing"):
            images.restore([ids[0], "nothing"])
        assert images.restore(ids) == ids
        log = images.changes()
        assert {change.action for change in log} == {"edit", "remove", "restore"}
        assert images.changes(3, 2) == log[2:5] and set(images.last_changes(ids)) == set(ids)
        with pytest.raises(UsageError, match="no image"):
            images.edit([ids[0], "nothing"], "x")
    assert stored(copied).keys() == before.keys()
