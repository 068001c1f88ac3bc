"""Shards behind URLs: uploaded, fetched into the cache, and verified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dots import contents, gallery

pytest.importorskip("fsspec")
from remote_places import FolderPlace, MemoryPlace, place_of

from delg.errors import DelgError, UsageError
from delg.remote_path import RemotePath
from index import ImageIndex
from index.sharding.locations import local_folder, upload_shard
from index.storage.lock import CHECKSUMS_FILE, BusyError, writer_lock


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DELG_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_a_shard_comes_back_as_it_was_sent_and_only_what_is_new_travels(
    kind, make_index, photos, tmp_path
):
    (tmp_path / "served").mkdir()
    with place_of(kind, tmp_path / "served") as place:
        url = RemotePath.parse(f"{place.url}/shard 1")
        images = make_index(store={"segment_images": 5})
        images.add(photos)
        size = upload_shard(images.path, url)
        folder = local_folder(str(url), tmp_path)
        assert folder.is_relative_to(tmp_path / "home")
        assert contents(folder) == contents(images.path)
        assert local_folder(str(url), tmp_path) == folder

        gallery(photos, 1, first=50)
        images.add(photos)
        images.remove(["000.png"])
        assert 0 < upload_shard(images.path, url) < size
        newer = local_folder(str(url), tmp_path)
        assert newer != folder and contents(newer) == contents(images.path)
        with ImageIndex.open(newer) as fetched, pytest.raises(DelgError, match="fetched copy"):
            fetched.remove(["001.png"])
        # Whoever has the older version open goes on with it.
        assert len(contents(folder)) == 12
        assert upload_shard(images.path, url) < size
        images.compact()
        upload_shard(images.path, url)
        assert contents(local_folder(str(url), tmp_path)) == contents(images.path)
        assert not folder.exists() and newer.exists()
        with writer_lock(images.path), pytest.raises(BusyError):
            upload_shard(images.path, url)


def test_damage_on_the_way_is_noticed(make_index, photos, tmp_path):
    with place_of("memory", tmp_path) as place:
        assert isinstance(place, MemoryPlace)
        images = make_index()
        images.add(photos)
        url = RemotePath.parse(f"{place.url}/shard")
        upload_shard(images.path, url)
        good = (images.path / "segments" / "000001.h5").read_bytes()
        for damaged in (good[:-10], good[:-1] + b"x", good + b"x"):
            place.write("shard/segments/000001.h5", damaged)
            with pytest.raises(DelgError, match=r"000001\.h5: its checksum is not that"):
                local_folder(str(url), tmp_path)
        place.remove("shard/segments/000001.h5")
        with pytest.raises(DelgError, match=r"000001\.h5: cannot be fetched: no such file"):
            local_folder(str(url), tmp_path)
        # The next attempt fetches it anew.
        place.write("shard/segments/000001.h5", good)
        assert len(contents(local_folder(str(url), tmp_path))) == 12


@pytest.mark.parametrize(
    "files",
    [
        {"../../evil": {"bytes": 1, "sha256": "0" * 64}},
        {"/evil": {"bytes": 1, "sha256": "0" * 64}},
        {"a": {"bytes": "1", "sha256": "0" * 64}},
        {"a": {"bytes": 1, "sha256": "x"}},
        {"a": {"bytes": 1}},
        ["a"],
    ],
)
def test_lists_of_strangers_lead_nowhere_else(files, tmp_path):
    with place_of("memory", tmp_path) as place:
        text = json.dumps({"format": 1, "files": files})
        place.write(f"shard/{CHECKSUMS_FILE}", text.encode())
        with pytest.raises(DelgError, match="not a list of checksums"):
            local_folder(f"{place.url}/shard", tmp_path)


def test_what_is_no_shard_says_so(tmp_path, make_index):
    with place_of("http", tmp_path) as place:
        assert isinstance(place, FolderPlace)
        with pytest.raises(DelgError, match="no shard can be read there: no such file"):
            local_folder(place.url, tmp_path)
        images = make_index()
        with pytest.raises(UsageError, match="web servers are only read"):
            upload_shard(images.path, RemotePath.parse(f"{place.url}/shard"))
    assert local_folder("shards/1", Path("/i")) == Path("/i/shards/1")
    assert local_folder("/elsewhere/1", Path("/i")) == Path("/elsewhere/1")
    with pytest.raises(DelgError, match="no index there"):
        ImageIndex.open(local_folder("shards/1", tmp_path))
