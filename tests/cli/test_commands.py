"""The command line as a user types it, in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import skimage.data
from PIL import Image


def delg(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "delg.cli", *map(str, words)],
        capture_output=True, text=True, timeout=240, cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in two folders, one broken, and an index of them."""
    folder = tmp_path_factory.mktemp("home")
    for name, label in (("astronaut", "people"), ("coffee", "things"), ("rocket", "things")):
        (folder / "photos" / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(getattr(skimage.data, name)()).save(
            folder / "photos" / label / f"{name}.jpg", quality=90
        )
    (folder / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff but no more")
    crop = Image.fromarray(skimage.data.astronaut()).crop((20, 10, 420, 400)).resize((500, 480))
    crop.save(folder / "query.jpg")
    built = delg(
        "index", "build", folder / "photos", "--index", folder / "i", "--labels", "folders"
    )
    assert built.returncode == 3, built.stderr
    assert "broken.jpg" in built.stderr and "3 photos added" in built.stdout
    return folder


def clean(done: subprocess.CompletedProcess[str]) -> bool:
    return "Traceback" not in done.stdout + done.stderr


def test_help_is_quick_and_loads_no_network() -> None:
    taken = []
    for _ in range(3):
        started = time.monotonic()
        done = delg("--help")
        taken.append(time.monotonic() - started)
    assert done.returncode == 0 and "query" in done.stdout
    show = "import sys, delg.cli, index.image_index; print([m for m in sys.modules if m in {}])"
    heavy = "('tensorflow', 'keras')"
    loaded = subprocess.run(
        [sys.executable, "-c", show.format(heavy)], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


def test_query_prints_the_contract(home: Path) -> None:
    done = delg(
        "query", home / "query.jpg", home / "photos" / "broken.jpg", home / "query.jpg",
        "--index", home / "i", "--json", "-k", 2, "--draw", home / "drawn", "--html",
        home / "hits.html",
    )  # fmt: skip
    assert done.returncode == 3 and clean(done)
    first, broken, again = map(json.loads, done.stdout.splitlines())
    assert first["query"] == str(home / "query.jpg") and first["index"] == str(home / "i")
    assert first["model"] == "delg-lite"
    assert {"extract", "search", "rerank"} == first["timing_ms"].keys()
    assert [hit["rank"] for hit in first["hits"]] == [1, 2]
    hit = first["hits"][0]
    assert hit.keys() == {
        "rank", "id", "path", "label", "score", "similarity", "inliers", "verified", "transform"
    }  # fmt: skip
    assert hit["id"] == "people/astronaut.jpg" and hit["label"] == "people" and hit["verified"]
    assert Path(hit["path"]).samefile(home / "photos" / "people" / "astronaut.jpg")
    assert hit["score"] > 1 > first["hits"][1]["score"] == first["hits"][1]["similarity"]
    # The crop starts at (20, 10) and is enlarged by 500/400 and 480/390.
    x, y, w = np.array(hit["transform"]) @ [250, 240, 1]
    assert abs(x / w - 220) < 10 and abs(y / w - 205) < 10
    assert broken["hits"] == [] and "broken.jpg" in broken["query"] and broken["error"]
    assert again["hits"] == first["hits"]
    assert list((home / "drawn").glob("query-01-astronaut.jpg"))
    assert "astronaut.jpg" in (home / "hits.html").read_text()


def test_build_again_continues_and_index_commands_answer(home: Path) -> None:
    again = delg("index", "build", home / "photos", "--index", home / "i", "--json")
    report = json.loads(again.stdout)
    assert (report["added"], report["unchanged"], again.returncode) == (0, 3, 3)
    info = json.loads(delg("index", "info", "--index", home / "i", "--json", "--failures").stdout)
    assert (info["images"], info["failed"]) == (3, 1) and "broken.jpg" in info["failures"]
    check = delg("index", "check", "--index", home / "i")
    assert check.returncode == 0 and "sound" in check.stdout
    assert "3" in delg("index", "info", "--index", home / "i").stdout


def test_add_remove_compact(home: Path, tmp_path: Path) -> None:
    Image.fromarray(skimage.data.chelsea()).save(tmp_path / "cat.png")
    place = tmp_path / "i"
    assert delg("index", "build", tmp_path / "cat.png", "--index", place).returncode == 0
    added = delg("index", "add", home / "query.jpg", "--index", place, "--prefix", "q/")
    assert added.returncode == 0 and "2 photos" in added.stdout
    assert delg("index", "remove", "nothing", "--index", place).returncode == 2
    assert "1 photo left" in delg("index", "remove", "q/query.jpg", "--index", place).stdout
    (tmp_path / "fp16.yaml").write_text("shortlist: {kind: fp16}\n")
    compacted = delg("index", "compact", "--index", place, "--config", tmp_path / "fp16.yaml")
    assert compacted.returncode == 0 and "fp16" in compacted.stdout
    (tmp_path / "cat.png").unlink()
    assert "0 photos left" in delg("index", "remove", "--vanished", "--index", place).stdout


def test_match_and_extract(home: Path, tmp_path: Path) -> None:
    same = delg(
        "match", home / "query.jpg", home / "photos" / "people" / "astronaut.jpg", "--json",
        "--draw", tmp_path / "m.png",
    )  # fmt: skip
    found = json.loads(same.stdout)
    assert found["verified"] and len(found["matches"]) == found["inliers"]
    assert (tmp_path / "m.png").stat().st_size > 1000
    other = delg("match", home / "query.jpg", home / "photos" / "things" / "coffee.jpg")
    assert other.returncode == 0 and "not verified" in other.stdout
    done = delg("extract", home / "photos", "--out", tmp_path / "f.h5")
    assert done.returncode == 3 and "broken.jpg" in done.stderr
    with h5py.File(tmp_path / "f.h5") as file:
        group = file["people/astronaut.jpg"]
        assert group["keypoints"].shape[1] == 2
        assert len(group["keypoints"]) == len(group["descriptors"]) == len(group["scores"])
        assert (group.attrs["width"], group.attrs["height"]) == (512, 512)


def test_models_and_doctor() -> None:
    listed = delg("model", "list", "--json").stdout.splitlines()
    ready = {one["name"]: one["weights"] for one in map(json.loads, listed)}
    assert ready["delg-lite"] and ready["sift"] and not ready["delg-r50"]
    info = json.loads(delg("model", "info", "--json").stdout)
    assert len(info["fingerprint"]) == 16 and info["bytes"] <= 12 * 2**20
    doctor = delg("doctor", "--json")
    assert doctor.returncode == 0
    found = json.loads(doctor.stdout)
    assert found["model"]["fingerprint"] == info["fingerprint"]
    assert "from" in found["packages"]["cv2"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["query", "q.jpg", "--index", "nowhere"], 1, "no index there"),
        (["index", "build", "nowhere", "--index", "new"], 2, "nowhere"),
        (["index", "build", ".", "--index", "new", "--config", "typo.yaml"], 2, "rerankk"),
        (["index", "build", ".", "--index", "new", "--config", "none.yaml"], 2, "none.yaml"),
        (["index", "build", ".", "--index", "new", "--model", "delg-r50"], 1, "weights"),
        (["index", "build", ".", "--index", "new", "--model", "resnet"], 1, "resnet"),
        (["index", "build", ".", "--index", "new", "--labels", "none.csv"], 2, "none.csv"),
        (["index", "info", "--index", "."], 1, "no index there"),
        (["query", "--index", "x"], 2, ""),
        (["match", "nowhere.jpg", "none.jpg"], 1, "nowhere.jpg"),
        (["model", "info", "nothing"], 1, "nothing"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_mistakes_end_in_one_clear_line(
    tmp_path: Path, words: list[str], code: int, says: str
) -> None:
    (tmp_path / "typo.yaml").write_text("ranking: {rerankk: 3}\n")
    done = delg(*words, cwd=tmp_path)
    assert (done.returncode, clean(done)) == (code, True), done.stderr
    assert says in done.stderr
    assert done.stdout == ""


def test_bad_boxes_and_counts(home: Path) -> None:
    for box in ("1,2,3", "a,b,c,d", "0,0,-5,5"):
        done = delg("query", home / "query.jpg", "--index", home / "i", "--box", box)
        assert done.returncode == 2 and box in done.stderr and clean(done)
    outside = delg("query", home / "query.jpg", "--index", home / "i", "--box", "9000,0,5,5")
    assert outside.returncode == 1 and "no area" in outside.stderr and clean(outside)
    other = delg("index", "build", home / "photos", "--index", home / "i", "--model", "sift")
    assert other.returncode == 2 and "was made by model" in other.stderr
