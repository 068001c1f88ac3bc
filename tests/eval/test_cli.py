"""``delg eval``: evaluations, their files, what can be done with them later, and mistakes."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

Done = subprocess.CompletedProcess
THINGS = ("chelsea", "coffee", "rocket")


def write_photos(folder: Path) -> None:
    """Two photos of each thing, in a folder called by its name, and one of nothing else."""
    for name in THINGS:
        (folder / name).mkdir(parents=True)
        pixels = getattr(skimage.data, name)()
        height, width = pixels.shape[:2]
        part = np.ascontiguousarray(pixels[height // 10 :, : width * 9 // 10])
        Image.fromarray(pixels).save(folder / name / "whole.jpg", quality=90)
        Image.fromarray(part).save(folder / name / "part.jpg", quality=85)
    Image.fromarray(skimage.data.astronaut()).save(folder / "lone.jpg")


@pytest.fixture(scope="session")
def measured(tmp_path_factory, run) -> tuple[Path, Done[str]]:
    """A folder with ``photos`` and a run on them, ``run``; and the process that made it."""
    folder = tmp_path_factory.mktemp("measured")
    write_photos(folder / "photos")
    words = ("--out", "run", "--baseline", "global", "--json")
    return folder, run("eval", "folders", "photos", *words, cwd=folder)


@pytest.fixture
def place(measured, tmp_path) -> Path:
    """A folder of its own with a copy of the run, and without photos or index."""
    ignored = shutil.ignore_patterns("gallery.index")
    shutil.copytree(measured[0] / "run", tmp_path / "run", ignore=ignored)
    return tmp_path


def lines(done: Done[str]) -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines()]


# --- An evaluation ---


def test_folders_are_evaluated_with_a_baseline(measured):
    _, done = measured
    assert done.returncode == 0
    main, bare = lines(done)
    assert (main["title"], bare["title"]) == ("delg-lite, all re-ranked", "delg-lite, global only")
    assert (main["benchmark"], main["protocol"]) == ("photos", "retrieval")
    assert (main["queries"], main["gallery"]) == (6, 7)
    for metrics in (main, bare):
        # Each photo's only partner is found at once by a model worth its name.
        assert metrics["metrics"]["all"]["mAP@100"] == metrics["metrics"]["all"]["recall@1"] == 1
        assert metrics["metrics"]["all"]["precision@5"] == pytest.approx(1 / 5)
        assert metrics["proof"]["all"]["queries"] == 6
        assert set(metrics["per_query"]["all"]) == {
            f"{name}/{part}.jpg" for name in THINGS for part in ("whole", "part")
        }
        assert (
            metrics["engine"]["model"] == "delg-lite"
            and len(metrics["engine"]["fingerprint"]) == 16
        )
    assert main["proof"]["all"]["recall"] == main["proof"]["all"]["precision"] == 1
    assert bare["proof"]["all"]["hits"] == 0 and bare["proof"]["all"]["calibration"] is None
    assert (main["engine"]["rerank"], bare["engine"]["rerank"]) == (100, 0)
    assert main["command"] == "delg eval folders photos --out run --baseline global --json"


def test_the_files_of_a_run_are_written_and_hold_what_was_printed(measured):
    folder, done = measured
    out = folder / "run"
    assert {path.name for path in out.iterdir()} == {
        "metrics.json",
        "predictions.npz",
        "benchmark.json",
        "report.html",
        "baselines",
        "gallery.index",
    }
    main, bare = lines(done)
    assert json.loads((out / "metrics.json").read_text()) == main
    assert json.loads((out / "baselines" / "global" / "metrics.json").read_text()) == bare
    page = (out / "report.html").read_text()
    assert "delg-lite, global only" in page and "chelsea/whole.jpg" in page
    assert "report written: run/report.html" in done.stderr


def test_progress_and_talk_are_no_results(measured):
    _, done = measured
    assert "gallery: 7 of 7" in done.stderr and "queries: 6 of 6" in done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_an_own_benchmark_with_a_query_that_cannot_be_read(measured, run, tmp_path):
    folder, _ = measured
    (tmp_path / "asked").mkdir()
    shutil.copy(folder / "photos" / "coffee" / "part.jpg", tmp_path / "asked" / "cup.jpg")
    (tmp_path / "asked" / "broken.jpg").write_bytes(b"no photo")
    (tmp_path / "truth.csv").write_text(
        "query,relevant\ncup.jpg,coffee/part.jpg\ncup.jpg,coffee/whole.jpg\nbroken.jpg,lone.jpg\n"
    )
    done = run(
        *("eval", "queries", "--gallery", folder / "photos", "--queries", "asked"),
        *("--truth", "truth.csv", "--index", folder / "run" / "gallery.index", "--rerank", "5"),
        cwd=tmp_path,
    )
    # One failed, the other is found; in words, the title and both numbers stand in the table.
    assert done.returncode == 3
    assert "failed: broken.jpg: " in done.stderr
    assert "delg-lite, 5 re-ranked" in done.stdout and "0.500 [0.00–1.00]" in done.stdout


# --- Runs, later ---


def test_a_run_is_scored_again_without_a_model(measured, place, run):
    before = json.loads((place / "run" / "metrics.json").read_text())
    tampered = {**before, "metrics": {"all": {"mAP@100": 0.123}}, "per_query": {}}
    (place / "run" / "metrics.json").write_text(json.dumps(tampered))
    (place / "run" / "report.html").unlink()
    done = run("eval", "rescore", "run", "--json", cwd=place)
    assert done.returncode == 0
    assert lines(done) == lines(measured[1])
    assert json.loads((place / "run" / "metrics.json").read_text()) == before
    assert "delg-lite, global only" in (place / "run" / "report.html").read_text()


def test_two_runs_are_compared_without_a_model(place, run):
    runs = ("run", "run/baselines/global")
    done = run("eval", "compare", *runs, "--html", "c.html", cwd=place)
    assert done.returncode == 0
    for said in ("delg-lite, all re-ranked", "delg-lite, global only", "engine.rerank", "mAP@100",
                 "queries with a right verified hit", "100.0% (6 of 6)"):  # fmt: skip
        assert said in done.stdout
    assert "0 better, 0 worse, 6 equal" in done.stdout
    assert "page written: c.html" in done.stderr
    assert "delg-lite, global only" in (place / "c.html").read_text()
    as_json = run("eval", "compare", *runs, "--json", cwd=place)
    assert len(lines(as_json)) == 1


def test_one_run_is_nothing_to_compare(place, run):
    done = run("eval", "compare", "run", cwd=place)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: compare needs two runs or more\n"


@pytest.mark.parametrize("name", ["metrics.json", "benchmark.json", "predictions.npz"])
@pytest.mark.parametrize("command", [("rescore", "run"), ("compare", "run", "run")])
def test_a_damaged_run_is_named(place, run, name, command):
    (place / "run" / name).write_bytes(b"{")
    done = run("eval", *command, cwd=place)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: run/{name}: ") and done.stderr.count("\n") == 1


# --- Submissions ---


def write(path: Path, *rows: tuple[str, ...]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def landmarks(tmp_path) -> Path:
    """A folder with solutions and submissions of both tracks of Google Landmarks v2."""
    write(
        tmp_path / "retrieval.csv",
        ("id", "images", "Usage"),
        ("q1", "a b", "Public"),
        ("q2", "c", "Private"),
        ("q3", "None", "Ignored"),
    )
    write(tmp_path / "ranked.csv", ("id", "images"), ("q1", "a x b"), ("q2", "y c"), ("q3", "a"))
    write(
        tmp_path / "recognition.csv",
        ("id", "landmarks", "Usage"),
        ("q1", "7", "Public"),
        ("q2", "", "Public"),
        ("q3", "8 9", "Private"),
    )
    named = (("q1", "7 0.5"), ("q2", "7 0.9"), ("q3", "9 0.4"))
    write(tmp_path / "named.csv", ("id", "landmarks"), *named)
    return tmp_path


def test_a_retrieval_submission_is_scored(landmarks, run):
    words = ("--solution", "retrieval.csv", "--submission", "ranked.csv", "--out", "o", "--json")
    done = run("eval", "gldv2-retrieval", *words, cwd=landmarks)
    assert done.returncode == 0
    (scored,) = lines(done)
    # q1: (1/1 + 2/3) / 2; q2: 1/2.
    expected = {"Public": 5 / 6, "Private": 1 / 2, "all": (5 / 6 + 1 / 2) / 2}
    assert {part: values["mAP@100"] for part, values in scored["metrics"].items()} == pytest.approx(
        expected
    )
    assert json.loads((landmarks / "o" / "metrics.json").read_text()) == scored
    assert (landmarks / "o" / "report.html").exists()
    assert lines(run("eval", "rescore", "o", "--json", cwd=landmarks)) == [scored]


def test_a_recognition_submission_is_scored(landmarks, run):
    words = ("--solution", "recognition.csv", "--submission", "named.csv")
    done = run("eval", "gldv2-recognition", *words, "--json", cwd=landmarks)
    assert done.returncode == 0
    (scored,) = lines(done)
    # By score: q2 wrong (it shows nothing), q1 right, q3 right.
    expected = {"Public": 1 / 2, "Private": 1, "all": (1 / 2 + 2 / 3) / 2}
    assert {part: values["GAP"] for part, values in scored["metrics"].items()} == pytest.approx(
        expected
    )
    in_words = run("eval", "gldv2-recognition", *words, cwd=landmarks)
    assert "GLDv2 recognition, 3 queries" in in_words.stdout and "0.583" in in_words.stdout


# --- Mistakes ---

RETRIEVAL = ("gldv2-retrieval", "--solution", "retrieval.csv")
RECOGNITION = ("gldv2-recognition", "--solution", "recognition.csv")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("folders", "nowhere"), "nowhere"),
        (("folders", "empty"), "empty: holds no photos"),
        (("folders", "photos", "--baseline", "surf"), "no baseline called 'surf'"),
        (("folders", "photos", "--sample", "0"), "--sample"),
        (("folders", "photos", "--rerank", "-1"), "--rerank"),
        (("folders", "photos", "--config", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
        (("folders", "photos", "--config", "odd.yaml"), "rnking"),
        (("revisited", "--gnd", "nowhere.pkl", "--images", "photos"), "nowhere.pkl"),
        (("queries", "--gallery", "photos", "--queries", "photos"), "--truth"),
        (("rescore", "nowhere"), "nowhere/metrics.json: cannot be read"),
        (("rescore", "photos"), "photos/metrics.json: cannot be read"),
        (("compare", "nowhere", "photos"), "nowhere/metrics.json: cannot be read"),
        (("spede",), "spede"),
        ((*RETRIEVAL, "--submission", "ranked.csv", "--root", "photos"), "--root"),
        ((*RETRIEVAL, "--submission", "ranked.csv", "--write", "w.csv"), "--write"),
        (RETRIEVAL, "--submission to score a CSV, or --root"),
        ((*RETRIEVAL, "--submission", "named.csv"), "named.csv"),
        ((*RETRIEVAL, "--submission", "nowhere.csv"), "nowhere.csv"),
        ((*RETRIEVAL, "--submission", "stray.csv"), "stray.csv: query 'q9' is not in"),
        ((*RECOGNITION, "--submission", "odd.csv"), "odd.csv, line 3: score 'high' is no number"),
        ((*RECOGNITION, "--submission", "named.csv", "--root", "photos"), "--root"),
        (RECOGNITION, "--train-csv"),
        (("gldv2-retrieval", "--submission", "ranked.csv"), "--solution"),
    ],
    ids=lambda words: " ".join(words)[:40] if isinstance(words, tuple) else "",
)
def test_wrong_use_ends_in_a_clear_line_and_does_no_work(landmarks, run, words, said):
    (landmarks / "empty").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (landmarks / "photos" / "x").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(landmarks / "photos" / "x" / name)
    (landmarks / "odd.yaml").write_text("rnking: {rerank: 3}\n")
    write(landmarks / "stray.csv", ("id", "images"), ("q9", "a"))
    write(landmarks / "odd.csv", ("id", "landmarks"), ("q1", "7 0.5"), ("q2", "7 high"))
    done = run("eval", *words, cwd=landmarks)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    if done.stderr.startswith("error:"):
        assert done.stderr.count("\n") == 1
    assert not (landmarks / "w.csv").exists()


# --- What is loaded ---


def run_and_list_modules(folder: Path, *commands: list[str]) -> tuple[set[str], str]:
    """Run commands in one new process; the large libraries it loaded, and its stderr."""
    code = f"""
import sys
from delg.cli.main import main
for words in {commands!r}:
    sys.argv = ["delg", *words]
    try:
        main()
    except SystemExit as end:
        print("exit code", end.code, file=sys.stderr)
large = {{"tensorflow", "keras", "onnxruntime", "faiss", "cv2", "scipy", "matplotlib"}}
print(*sorted(large & set(sys.modules)))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=280)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()), done.stderr


def test_runs_and_submissions_are_handled_without_a_network(place, landmarks):
    loaded, _ = run_and_list_modules(
        place,
        ["eval", "rescore", "run"],
        ["eval", "compare", "run", "run/baselines/global", "--html", "c.html"],
        ["eval", "gldv2-retrieval", *RETRIEVAL[1:], "--submission", "ranked.csv"],
    )
    assert "matplotlib" in loaded and not loaded & {"tensorflow", "keras", "onnxruntime"}


def test_a_mistake_in_the_settings_is_told_before_libraries_are_loaded(tmp_path):
    (tmp_path / "wrong.yaml").write_text("matching: {ration: 0.9}\n")
    (tmp_path / "photos" / "thing").mkdir(parents=True)
    for name in ("one.jpg", "other.jpg"):
        (tmp_path / "photos" / "thing" / name).touch()
    commands = [
        ["eval", "folders", "photos", "--config", "wrong.yaml"],
        ["query", "q.jpg", "--index", "i", "--config", "wrong.yaml"],
        ["index", "build", "photos", "--index", "i", "--config", "wrong.yaml"],
    ]
    loaded, stderr = run_and_list_modules(tmp_path, *commands)
    assert stderr.count("wrong.yaml: matching.ration") == stderr.count("exit code 2") == 3
    assert not loaded


def test_a_complete_run_is_overwritten_only_if_asked_for(measured, run, tmp_path):
    folder, _ = measured
    shutil.copytree(folder / "run", tmp_path / "run")
    words = ("eval", "folders", folder / "photos", "--out", "run", "--rerank", "0", "--json")
    before = (tmp_path / "run" / "metrics.json").read_bytes()
    done = run(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--out run: holds a complete run; choose another folder" in done.stderr
    assert (tmp_path / "run" / "metrics.json").read_bytes() == before
    done = run(*words, "--overwrite", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["engine"]["rerank"] == 0
    # Nothing of the old run is left beside the new one.
    assert not list((tmp_path / "run" / "baselines").rglob("metrics.json"))
    assert not (tmp_path / "run" / "answers.part").exists()


def test_a_broken_photo_of_the_gallery_is_reported_and_left_out(measured, run, tmp_path):
    shutil.copytree(measured[0] / "photos", tmp_path / "photos")
    (tmp_path / "photos" / "rotten.jpg").write_bytes(b"no photo")
    (tmp_path / "queries").mkdir()
    shutil.copy(tmp_path / "photos" / "chelsea" / "part.jpg", tmp_path / "queries" / "q.jpg")
    (tmp_path / "t.csv").write_text("query,relevant\nq.jpg,chelsea/whole.jpg\nq.jpg,rotten.jpg\n")
    words = ("--gallery", "photos", "--queries", "queries", "--truth", "t.csv", "--json")
    done = run("eval", "queries", *words, "--out", "run", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "failed: rotten.jpg: not an image of a known format" in done.stderr
    [result] = lines(done)
    assert list(result["failed_gallery"]) == ["rotten.jpg"]
    assert 0 < result["metrics"]["all"]["mAP@100"] < 1
    assert "rotten.jpg" in (tmp_path / "run" / "report.html").read_text()
