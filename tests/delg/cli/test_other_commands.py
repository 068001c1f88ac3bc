"""Querying, matching, extracting, and what holds for all commands."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

import delg

KEYS = ["query", "index", "model", "orientation", "timing_ms", "hits"]
HIT_KEYS = [
    "rank",
    "id",
    "path",
    "label",
    "score",
    "similarity",
    "inliers",
    "verified",
    "transform",
]
HELP = """
import sys
from typer.main import get_command
from typer.testing import CliRunner
from delg.cli.main import add_commands_of_other_packages, app

add_commands_of_other_packages()

def walk(command, words):
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, [*words, name])

for words in walk(get_command(app), []):
    shown = CliRunner().invoke(app, [*words, "--help"])
    assert shown.exit_code == 0 and "Usage" in shown.output, words
    print(" ".join(words))
heavy = {"tensorflow", "keras", "faiss", "cv2", "h5py", "numba", "skimage"}
print(sorted(heavy & set(sys.modules)))
"""


def test_every_command_explains_itself_without_loading_anything_heavy():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *commands, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert {"query", "match", "extract", "demo", "doctor", "index build", "model list"} <= {
        *commands
    }


@pytest.mark.parametrize("words", [(), ("index",), ("model",)])
def test_a_command_without_its_words_shows_help_and_is_wrong_use(run, words):
    done = run(*words)
    assert done.returncode == 2
    assert "Usage" in done.stdout + done.stderr


def test_queries_print_one_object_a_line_in_the_order_asked(shop, run):
    folder, _ = shop
    rocket = folder / "photos" / "rocket.jpg"
    words = ("query.jpg", "nowhere.jpg", rocket, "photos", "--index", "i", "-k", "50", "--json")
    done = run("query", *words, cwd=folder)
    assert done.returncode == 3
    cat, nowhere, found, place = map(json.loads, done.stdout.splitlines())
    for one, name in ((cat, "query.jpg"), (found, str(rocket))):
        assert list(one) == KEYS
        assert (one["query"], one["index"], one["model"]) == (name, "i", "delg-lite")
        assert list(one["timing_ms"]) == ["extract", "search", "rerank"]
        assert [hit["rank"] for hit in one["hits"]] == [1, 2, 3]
        assert all(list(hit) == HIT_KEYS for hit in one["hits"])
        scores = [hit["score"] for hit in one["hits"]]
        assert scores == sorted(scores, reverse=True)
    first = cat["hits"][0]
    assert (first["id"], first["label"]) == ("pets/chelsea.jpg", "cat, red")
    assert first["path"] == str(folder / "photos" / "pets" / "chelsea.jpg")
    assert first["verified"] is True and first["inliers"] > 100 and first["score"] > 2
    # The query was cut out of the photo at (40, 30).
    np.testing.assert_allclose(first["transform"], [[1, 0, 40], [0, 1, 30], [0, 0, 1]], atol=5)
    assert found["hits"][0]["id"] == "rocket.jpg" and found["hits"][0]["label"] == "Falcon"
    other = found["hits"][-1]
    assert other["verified"] is False and other["score"] == other["similarity"]
    assert other["inliers"] > 0 or other["transform"] is None
    assert nowhere == {"query": "nowhere.jpg", "error": "no such file", "hits": []}
    assert place == {"query": "photos", "error": "is a folder, not a photo", "hits": []}
    assert "failed: nowhere.jpg: no such file" in done.stderr
    assert "failed: photos: is a folder" in done.stderr


def test_queries_in_words_with_drawings_and_a_page(shop, run, tmp_path):
    folder, _ = shop
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "q.jpg").write_bytes((folder / "query.jpg").read_bytes())
    (tmp_path / "c.yaml").write_text("ranking: {rerank: 1}\n")
    words = ("--draw", "drawn", "--html", "page.html", "--config", "c.yaml", "-k", "2")
    done = run("query", "a/q.jpg", "b/q.jpg", "--index", folder / "i", *words, cwd=tmp_path)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("a/q.jpg (") and lines[4].startswith("b/q.jpg (")
    assert lines[1].split() == ["rank", "score", "similarity", "inliers", "id", "label"]
    assert lines[2].split()[0] == "1" and "verified" in lines[2]
    assert "pets/chelsea.jpg" in lines[2] and "cat, red" in lines[2]
    # Only one candidate is verified, as the file says.
    assert lines[3].split()[0] == "2" and lines[3].split()[3] == "0"
    # Both queries have a drawing, though their files are named alike.
    assert len(list((tmp_path / "drawn").iterdir())) == 2
    assert (tmp_path / "page.html").read_text().count("pets/chelsea.jpg") >= 2
    assert "page written: page.html" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("query", "query.jpg", "--index", "photos"), 1, "photos: no index there"),
        (("query", "query.jpg", "--index", "i", "--box", "1,2,3"), 2, "--box 1,2,3: expected"),
        (("query", "query.jpg", "--index", "i", "--box", "0,0,0,9"), 2, "--box 0,0,0,9: width"),
        (("query", "query.jpg", "--index", "i", "--box", "nan,0,9,9"), 2, "--box nan,0,9,9"),
        (("query", "query.jpg", "--index", "i", "-k", "0"), 2, "-k"),
        (("query", "query.jpg", "--index", "i", "--rerank", "-1"), 2, "--rerank"),
        (("query", "query.jpg", "--index", "i", "--orientations", "3"), 2, "--orientations"),
        (("query", "query.jpg", "--index", "i", "--config", "labels.csv"), 2, "labels.csv"),
        (("query", "query.jpg"), 2, "--index"),
        (("match", "query.jpg"), 2, "Missing argument"),
        (("match", "query.jpg", "nowhere.jpg", "--model", "delg-r50"), 1, "no weights"),
        (("extract", "photos"), 2, "--out"),
        (("extract", "nowhere", "--out", "f.h5"), 2, "nowhere: no such folder or file"),
        (("model", "info", "delg-light"), 1, "no model is called 'delg-light'"),
        (("index", "biuld", "photos"), 2, "biuld"),
        (("query", "query.jpg", "--index", "i", "--jsno"), 2, "--jsno"),
    ],
)
def test_mistakes_are_named_on_the_side_with_their_exit_code(shop, run, words, code, said):
    folder, _ = shop
    done = run(*words, cwd=folder)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert not (folder / "f.h5").exists()


def test_matching_two_photos(shop, run):
    folder, _ = shop
    cat = folder / "photos" / "pets" / "chelsea.jpg"
    done = run("match", folder / "query.jpg", cat, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0 and done.stdout.count("\n") == 1
    assert list(found) == [
        "a",
        "b",
        "model",
        "similarity",
        "inliers",
        "verified",
        "transform",
        "matches",
    ]
    assert (found["a"], found["b"]) == (str(folder / "query.jpg"), str(cat))
    assert found["verified"] is True and len(found["matches"]) == found["inliers"]
    off = [
        np.subtract(match["b"], np.add(match["a"], (40, 30))).tolist() for match in found["matches"]
    ]
    assert np.abs(np.median(off, axis=0)).max() < 2


def test_extracted_features_are_those_of_the_photos(shop, run, tmp_path):
    folder, _ = shop
    (tmp_path / "few.yaml").write_text("max_features: 50\nlongest_side: 320\n")
    words = ("--out", "f.h5", "--config", "few.yaml")
    done = run("extract", folder / "photos" / "pets", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "features of 2 photos in f.h5\n")
    assert "2 of 2" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"f.h5", "few.yaml"}
    with h5py.File(tmp_path / "f.h5") as file:
        assert file.attrs["model"] == "delg-lite" and len(file.attrs["fingerprint"]) == 16
        assert sorted(file) == ["chelsea.jpg", "coffee.jpg"]
        for group in file.values():
            assert np.linalg.norm(group["global_descriptor"]) == pytest.approx(1, abs=1e-4)
            assert 0 < len(group["keypoints"]) <= 50
            assert (group["keypoints"][()] < [group.attrs["width"], group.attrs["height"]]).all()
            np.testing.assert_allclose(np.linalg.norm(group["descriptors"], axis=1), 1, atol=1e-3)


def test_the_models_as_a_table_and_in_detail(run):
    listed = run("model", "list")
    assert listed.returncode == 0 and listed.stderr == ""
    rows = [line.split() for line in listed.stdout.splitlines()[1:]]
    assert rows[0][:2] == ["delg-lite", "ready"]
    assert ["delg-r50", "needs", "weights"] in [row[:3] for row in rows]
    info = run("model", "info", "sift")
    assert info.returncode == 0 and "fingerprint:" in info.stdout and "kind: sift" in info.stdout


def test_a_model_with_a_card_shows_what_it_says(run, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "settings.yaml").write_text("name: mine\n")
    assert "card" not in json.loads(run("model", "info", folder, "--json").stdout)
    facts = {"made": "2026-01-02", "photos": 12, "validation": {"held_out_map": 0.5}}
    (folder / "MODEL_CARD.md").write_text(f"---\n{yaml.safe_dump(facts)}---\n\n# mine\n")
    assert json.loads(run("model", "info", folder, "--json").stdout)["card"] == facts
    shown = run("model", "info", folder).stdout
    assert yaml.safe_load(shown)["card"] == facts
    (folder / "MODEL_CARD.md").write_text("# no facts\n")
    done = run("model", "info", folder)
    assert done.returncode == 1 and "MODEL_CARD.md: does not begin with its facts" in done.stderr


def test_an_interruption_says_what_becomes_of_the_work(shop, tmp_path):
    folder, _ = shop
    process = subprocess.Popen(
        [sys.executable, "-m", "delg", "index", "build", folder / "photos", "--index", "new"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        # A shell's background jobs ignore it, and their children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while process.poll() is None and not (tmp_path / "new" / "writer.lock").exists():
        pass
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert "interrupted; what was committed is kept, and the same command continues" in err


def test_a_reader_that_has_seen_enough_is_no_error(run):
    words = [sys.executable, "-m", "delg", "model", "info"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert b"Traceback" not in said and b"Exception" not in said


def test_two_photos_of_different_things_do_not_match_and_the_picture_shows_it(shop, run, tmp_path):
    photos = shop[0] / "photos"
    words = (photos / "rocket.jpg", photos / "pets" / "coffee.jpg", "--draw", tmp_path / "m.png")
    done = run("match", *words)
    assert done.returncode == 0 and done.stdout.startswith("not verified: ")
    assert (tmp_path / "m.png").stat().st_size > 1000


def test_a_box_outside_the_photo_is_that_photos_failure(shop, run):
    done = run("query", "query.jpg", "--index", "i", "--box", "9000,0,5,5", cwd=shop[0])
    assert done.returncode == 1 and "no area" in done.stderr and done.stdout == ""


def test_models_and_the_doctor_agree_on_what_is_shipped(run):
    listed = map(json.loads, run("model", "list", "--json").stdout.splitlines())
    ready = {one["name"]: one["weights"] for one in listed}
    assert ready["delg-lite"] and ready["sift"] and not ready["delg-r50"]
    info = json.loads(run("model", "info", "--json").stdout)
    assert len(info["fingerprint"]) == 16 and info["bytes"] <= 12 * 2**20
    doctor = run("doctor", "--json")
    assert (doctor.returncode, doctor.stderr) == (0, "")
    found = json.loads(doctor.stdout)
    assert found["model"]["fingerprint"] == info["fingerprint"]
    assert found["model"]["runtime"] in ("fixed-point", "onnxruntime")
    assert "from" in found["packages"]["cv2"]


PLUGIN = """
import sys
from importlib import metadata

broken = metadata.EntryPoint("theirs", "no_such_package:register", "delg.commands")
real = metadata.entry_points

def with_broken(group):
    return [*real(group=group), *([broken] if group == "delg.commands" else [])]

metadata.entry_points = with_broken
import delg.cli.main as cli
"""


def run_main(body: str, *words: str) -> subprocess.CompletedProcess:
    """The command line in a process that runs ``body`` before it."""
    text = f"{PLUGIN}\n{body}\nsys.argv = ['delg', *{words!r}]\ncli.main()"
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)


def test_a_broken_plug_in_is_a_warning_and_the_other_commands_work():
    done = run_main("", "--version")
    assert (done.returncode, done.stdout) == (0, f"delg {delg.__version__}\n")
    assert done.stderr.startswith("warning: the commands of theirs (no_such_package:register)")
    assert "No module named 'no_such_package'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_library_that_meets_the_end_of_a_file_is_a_clear_error():
    body = """
import io, pickle
@cli.app.command()
def load():
    pickle.load(io.BytesIO())
"""
    done = run_main(body, "load")
    assert (done.returncode, done.stdout) == (1, "")
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: a file ends too early: Ran out of input (met in ")
    assert "Abort" not in done.stderr and "Traceback" not in done.stderr


def test_help_lists_the_commands_in_the_order_a_newcomer_meets_them(run):
    shown = run("--help").stdout
    places = [shown.index(f"│ {name} ") for name in ("demo", "index", "query", "match", "serve")]
    assert places == sorted(places)
    assert "--install-completion" in shown
