"""``delg eval speed shards``, ``growth`` and ``sources``, with tiny numbers."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dots import gallery

from delg.errors import DelgError
from eval.speed import processes, shards, synthetic_shards, synthetic_vectors
from eval.speed.sources import build
from eval.speed.synthetic_shards import SyntheticShards
from index import ImageIndex


class InThisProcess(ThreadPoolExecutor):
    """In place of processes of their own, which take seconds to start."""

    def __init__(self, count, mp_context):
        super().__init__(count)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    for module in (processes, synthetic_shards):
        monkeypatch.setattr(module, "ProcessPoolExecutor", InThisProcess)


@pytest.fixture
def dot_index(tmp_path, model) -> Path:
    gallery(tmp_path / "photos", 12)
    with ImageIndex.create(tmp_path / "dots.index", model) as images:
        images.add(tmp_path / "photos")
    return tmp_path / "dots.index"


def test_an_index_is_compared_with_its_shards(dot_index, run):
    command = ("eval", "speed", "shards", dot_index, "--shards", 2, "--shards", 4, "--queries", 3)
    for photos in ((), ("--photos", dot_index.parent / "photos")):
        done = run(*command, *photos, "--json")
        assert done.returncode == 0, done.stderr
        rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
        assert set(rows) == {
            *("one_index", "shards_2", "shards_4"),
            *("one_index_rate", "shards_2_rate", "shards_4_rate"),
        }
        assert rows["shards_4"]["note"].startswith("3 of 3 answers equal")
        assert rows["shards_2"]["baseline_ms"] == rows["one_index"]["median_ms"]


def test_answers_that_differ_are_said_and_fail(dot_index, run, monkeypatch):
    def forget(sources, out, count):
        reshard([*sources], out, count)
        with ImageIndex.open(out) as images:
            images.remove(["003.png"])

    reshard = shards.reshard
    monkeypatch.setattr(shards, "reshard", forget)
    done = run("eval", "speed", "shards", dot_index, "--shards", 2, "--queries", 12, "--json")
    # Ten hits of twelve photos: those of two queries may lack that photo anyway.
    assert done.returncode == 1 and "12 of 12 answers equal" not in done.stdout
    assert "of 12 answers differ from those of one index" in done.stderr


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(synthetic_shards, "_POOL", 3)
    monkeypatch.setattr(synthetic_vectors, "_DEVIATIONS", 50)
    for module in (synthetic_shards, synthetic_vectors):
        monkeypatch.setattr(module, "CHUNK", 100)


def test_shards_of_synthetic_photos_are_sound_whatever_their_number(tmp_path, small_chunks):
    # Begun, and left.
    assert SyntheticShards(tmp_path, 2, 100, 5).fill(0) == 100
    made = SyntheticShards(tmp_path, 2, 250, 5)
    assert [made.fill(number) for number in range(2)] == [150, 250]
    (tmp_path / "shards" / "0000" / "global.faiss").unlink()
    assert made.fill(0) == 0 and (tmp_path / "shards" / "0000" / "global.faiss").exists()
    for count in (1, 2):
        with ImageIndex.open(made.first(count)) as images:
            assert images.check().problems == [] and len(images) == count * 250


def test_growth_is_measured_from_one_shard_on(tmp_path, run, small_chunks):
    command = ("eval", "speed", "growth", "--shards", 1, "--shards", 2, "--per-shard", 1000)
    command = (*command, "--features", 5, "--queries", 2, "--folder", tmp_path, "--json")
    done = run(*command)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    rows = {row["name"]: row for row in answer["rows"]}
    assert rows["growth_build"]["median"] > 0 and rows["growth_bytes"]["median"] > 1000
    for count in (1, 2):
        assert f"{count},000 photos" in rows[f"growth_{count}"]["note"]
        assert rows[f"growth_{count}"]["runs"] == rows[f"growth_{count}_apart_cpu"]["runs"] == 2
        assert rows[f"growth_{count}_apart"]["fastest_ms"] > 0
    assert {(point["series"], point["x"]) for point in answer["growth"]} == {
        (line, x) for line in ("one process", "a machine for each") for x in (1, 2)
    }
    # What is there is only searched.
    assert "growth_build" not in run(*command).stdout


def test_numbers_of_shards_that_do_not_divide_the_largest_are_refused(run):
    done = run("eval", "speed", "growth", "--shards", 2, "--shards", 3)
    assert done.returncode == 2 and "each must divide the largest, 3" in done.stderr


def test_builds_from_places_and_with_models_are_compared(tmp_path, run, model):
    gallery(tmp_path / "photos", 2)
    other = str(shutil.copytree(model, tmp_path / "other"))
    command = ("eval", "speed", "sources", tmp_path / "photos", "--runs", 1)
    done = run(*command, "--model", model, "--model", other, "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert set(rows) == {"source_1", "source_1_memory", "source_2", "source_2_memory"}
    for number, name in enumerate((model, other), 1):
        row = rows[f"source_{number}"]
        assert f"photos, {name}: 2 photos; for each" in row["note"] and row["median"] > 0
        assert rows[f"source_{number}_memory"]["median"] > 50
    with ImageIndex.create(tmp_path / "two.index", model) as images:
        images.add(tmp_path / "photos")
        assert f"{images.info()['bytes'] / 2048:.0f}." in rows["source_1"]["note"]
    done = run(*command, "--model", "delg-r50")
    assert done.returncode == 1 and "delg-r50 has no weights" in done.stderr
    (tmp_path / "photos" / "broken.png").write_bytes(b"no photo")
    with pytest.raises(DelgError, match="1 photos failed"):
        build(str(tmp_path / "photos"), model, tmp_path / "my.index")
