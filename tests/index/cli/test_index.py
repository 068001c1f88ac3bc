"""``delg index …``; but for building and adding nothing here needs the network."""

import json
import os
import platform
import sqlite3
from pathlib import Path

import pytest

from delg.errors import UsageError
from index import ImageIndex
from index.cli.options import no_blank_index
from index.storage.lock import BusyError
from index.storage.store import Store


def test_building_prints_one_object_and_talks_on_the_side(shop):
    folder, done = shop
    assert done.returncode == 3
    assert done.stdout.count("\n") == 1
    report = json.loads(done.stdout)
    assert list(report) == [
        "added",
        "updated",
        "unchanged",
        "failed",
        "vanished",
        "unreachable",
        "losses",
        "moved",
        "passed_over",
        "unknown_labels",
        "seconds",
        "images",
    ]
    assert (report["added"], report["updated"], report["unchanged"]) == (3, 0, 0)
    assert report["images"] == 3 and report["unknown_labels"] == ["x.jpg"]
    assert [failure.keys() for failure in report["failed"]] == [{"path", "reason"}]
    assert Path(report["failed"][0]["path"]) == folder / "photos" / "broken.jpg"
    assert "4 of 4" in done.stderr and "left" in done.stderr


def test_vanished_photos_and_unknown_labels_are_named(shop, place, run):
    folder, _ = shop
    (place / "photos").mkdir()
    (place / "photos" / "rocket.jpg").write_bytes((folder / "photos" / "rocket.jpg").read_bytes())
    first = run("index", "add", "photos", "--index", "i", "--prefix", "my/", cwd=place)
    assert first.returncode == 0
    assert first.stdout.startswith(
        "1 photo added, 0 updated, 0 unchanged, 0 failed, 0 vanished; 4 photos in i ("
    )
    (place / "photos" / "rocket.jpg").unlink()
    words = ("--prefix", "my/", "--labels", folder / "labels.csv")
    again = run("index", "add", "photos", "--index", "i", *words, cwd=place)
    assert again.returncode == 3 and "1 vanished; 4 photos in i" in again.stdout
    assert "vanished: my/rocket.jpg (still in the index" in again.stderr
    assert "label file: no photo has the id x.jpg" in again.stderr
    gone = run("index", "remove", "--vanished", "--index", "i", cwd=place)
    assert gone.stdout == "1 image removed; 3 photos left in i\n"
    assert run("index", "remove", "--vanished", "--index", "i", cwd=place).returncode == 0


def test_info_as_json_and_in_words(place, run):
    done = run("index", "info", "--index", "i", "--json", "--failures", cwd=place)
    info = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert (info["index"], info["model"], info["images"], info["failed"]) == (
        "i",
        "delg-lite",
        3,
        1,
    )
    assert (
        list(info["failures"]) == ["broken.jpg"]
        and "not an image" in info["failures"]["broken.jpg"]
    )
    shown = run("index", "info", "--index", "i", "--failures", cwd=place)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "delg-lite" in shown.stdout and info["fingerprint"] in shown.stdout
    assert "settings changed from their defaults: none" in shown.stdout
    assert "failed: broken.jpg: not an image" in shown.stdout


def test_a_sound_index_is_sound(place, run):
    done = run("index", "check", "--index", "i", cwd=place)
    assert (done.returncode, done.stdout, done.stderr) == (0, "i: no damage found\n", "")
    done = run("index", "check", "--index", "i", "--json", cwd=place)
    assert json.loads(done.stdout) == {"problems": [], "notes": []}


def test_damage_is_a_problem_and_exit_code_1(place, run):
    segment = place / "i" / "segments" / "000001.h5"
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    done = run("index", "check", "--index", "i", cwd=place)
    assert done.returncode == 1
    said = (
        "i/segments/000001.h5: its bytes are not those that were written; restore the file, or "
        "build again from the same sources, which extracts its photos anew"
    )
    assert done.stdout == f"problem: {said}\n"
    done = run("index", "check", "--index", "i", "--json", cwd=place)
    assert done.returncode == 1 and json.loads(done.stdout)["problems"] == [said]


@pytest.mark.parametrize("command", ["check", "compact"])
@pytest.mark.parametrize("damage", ["segment", "catalog", "catalog's pages"])
def test_a_damaged_index_is_said_to_be_so(place, run, talk, command, damage):
    if damage == "segment":
        # On a slow machine the three photos may lie in several.
        lost = list((place / "i" / "segments").iterdir())
        for path in lost:
            path.unlink()
    elif damage == "catalog":
        (place / "i" / "catalog.sqlite").write_bytes(b"no database " * 500)
    else:
        data = bytearray((place / "i" / "catalog.sqlite").read_bytes())
        data[8192:] = b"\xa5" * (len(data) - 8192)
        (place / "i" / "catalog.sqlite").write_bytes(data)
    done = run("index", command, "--index", "i", cwd=place)
    assert done.returncode == 1
    *warnings, line = talk(done)
    if damage != "segment":
        assert line.startswith("error: ") and "catalog.sqlite" in line
        assert done.stdout == "" and warnings == []
        return
    assert ".h5: the segment is missing; restore the file, or build again" in line
    problems = done.stdout.splitlines()
    assert len(problems) == (len(lost) + 3 if command == "check" else 0)
    assert all(problem.startswith("problem: ") for problem in problems)


def test_a_lost_shortlist_is_only_a_note(place, run, talk):
    run("index", "compact", "--index", "i", cwd=place)
    (place / "i" / "global.faiss").unlink()
    done = run("index", "check", "--index", "i", cwd=place)
    assert (done.returncode, done.stdout) == (0, "i: no damage found\n")
    assert talk(done)[0].startswith("note: the stored shortlist is behind")
    done = run("index", "compact", "--index", "i", cwd=place)
    assert done.stdout == "0 bytes freed; search index: exhaustive, 1 byte per component (int8)\n"
    assert run("index", "check", "--index", "i", cwd=place).stderr == ""


def test_compacting_frees_space_and_changes_the_shortlist_for_good(place, run):
    removed = run("index", "remove", "pets/chelsea.jpg", "--index", "i", cwd=place)
    assert removed.stdout == "1 image removed; 2 photos left in i\n"
    (place / "sq8.yaml").write_text("shortlist: {kind: sq8}\nranking: {rerank: 7}\n")
    done = run("index", "compact", "--index", "i", "--config", "sq8.yaml", cwd=place)
    freed, words = done.stdout.split(" bytes freed; ")
    assert int(freed.replace(",", "")) > 9_000  # 380 features of 21 bytes and 1,536 numbers
    assert (done.returncode, words) == (0, "search index: exhaustive, 1 byte per component (sq8)\n")
    shown = run("index", "info", "--index", "i", cwd=place)
    assert '{"shortlist": {"kind": "sq8"}, "ranking": {"rerank": 7}}' in shown.stdout


@pytest.mark.parametrize(
    "words", [("add", "."), ("remove", "rocket.jpg"), ("compact",), ("build", ".")]
)
def test_while_another_process_writes_the_command_fails_with_a_clear_line(place, run, talk, words):
    with Store(place / "i").lock():
        done = run("index", *words, "--index", "i", cwd=place)
    assert (done.returncode, done.stdout) == (1, "")
    assert talk(done) == [
        f"error: i: another process is writing to this index (process {os.getpid()} on "
        f"{platform.node()}); try again when it is done"
    ]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ("build", "nowhere", "none", "--index", "new"),
            2,
            "nowhere, none: no such folder or file",
        ),
        (("build", ".", "--index", "full"), 2, "full: exists and is not empty"),
        (("build", ".", "--index", "full/file/new"), 1, "full/file/new: cannot be made"),
        (("build", ".", "--index", "new", "--config", "typo.yaml"), 2, "typo.yaml: matchin: "),
        (("build", ".", "--index", "new", "--config", "bad.yaml"), 2, "bad.yaml: not valid YAML"),
        (("build", ".", "--index", "i", "--config", "typo.yaml"), 2, "typo.yaml: matchin: "),
        (("build", ".", "--index", "i", "--config", "fixed.yaml"), 2, "fixed.yaml: store is fixed"),
        (("build", ".", "--index", "i", "--model", "sift"), 2, "i was made by model delg-lite"),
        (("build", ".", "--index", "i", "--model", "nothing"), 1, "no model is called 'nothing'"),
        (("build", ".", "--index", "i", "--labels", "typo.yaml"), 2, "typo.yaml: no column"),
        (("add", "nowhere", "--index", "i"), 2, "nowhere: no such folder or file"),
        (("add", ".", "--index", "new"), 1, "new: no index there"),
        (("add", ".", "--index", "i", "--labels", "none.csv"), 2, "none.csv: cannot be read"),
        (("remove", "--index", "i"), 2, "name the ids to remove, or use --vanished"),
        (("remove", "stranger.jpg", "--index", "i"), 2, "i: has no image stranger.jpg"),
        (("compact", "--index", "i", "--config", "typo.yaml"), 2, "typo.yaml: matchin: "),
        (("compact", "--index", "full"), 1, "full: no index there"),
        (("info", "--index", "full/file"), 1, "full/file: no index there"),
        (("check", "--index", "none"), 1, "none: no index there"),
    ],
)
def test_mistakes_end_in_one_line_that_names_what_is_wrong(place, run, talk, words, code, said):
    (place / "full").mkdir()
    (place / "full" / "file").write_text("thesis")
    (place / "typo.yaml").write_text("matchin: {ratio: 0.8}\n")
    (place / "bad.yaml").write_text("matching: [\n")
    (place / "fixed.yaml").write_text("store: {local_codec: float32}\n")
    before = sorted(path.name for path in place.rglob("*") if "i" not in path.parts)
    done = run("index", *words, cwd=place)
    assert (done.returncode, done.stdout) == (code, "")
    said_first, *more = talk(done)
    assert said_first.startswith(f"error: {said}")
    # Only what is wrong in the YAML itself is shown where it is, on further lines.
    assert not more or "not valid YAML" in said_first
    assert sorted(path.name for path in place.rglob("*") if "i" not in path.parts) == before
    assert sqlite3.connect(place / "i" / "catalog.sqlite").execute(
        "SELECT count(*) FROM images"
    ).fetchone() == (4,)


def test_a_disk_that_is_not_mounted_is_a_question(shop, place, run):
    words = ("index", "remove", "--vanished", "--index", "i")
    away = shop[0] / "away"
    (shop[0] / "photos").rename(away)
    try:
        done = run(*words, cwd=place)
        assert done.returncode == 2 and done.stdout == ""
        assert f"4 of 4 photos of {shop[0] / 'photos'} are gone" in done.stderr
        assert "--dry-run" in done.stderr and "--force" in done.stderr
        listed = run(*words, "--dry-run", cwd=place)
        assert listed.returncode == 0 and len(listed.stdout.splitlines()) == 4
        moved = run("index", "relocate", shop[0] / "photos", away, "--index", "i", cwd=place)
        assert (moved.returncode, moved.stdout) == (0, f"4 photos now below {away}, 0 not there\n")
        assert run(*words, cwd=place).stdout == "0 images removed; 3 photos left in i\n"
        moved = run("index", "relocate", away, shop[0] / "photos", "--index", "i", cwd=place)
        assert moved.returncode == 2 and "no such folder" in moved.stderr
    finally:
        away.rename(shop[0] / "photos")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--labels", "absent.csv"), "absent.csv"),
        (("--labels", "bad.csv"), "no column"),
        (("--labels", "n" * 300), "too long"),
        (("--labels", "a\0b"), "null"),
        (("--config", "absent.yaml"), "absent.yaml"),
        (("--config", "n" * 300), "too long"),
        (("--model", "absent"), "absent"),
        (("--model", "n" * 300), "too long"),
        (("--model", "spoilt"), "spoilt"),
        (("absent",), "absent"),
        (("n" * 300,), "too long"),
    ],
)
def test_a_mistake_leaves_no_empty_index_behind(shop, tmp_path, run, words, said):
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    (tmp_path / "spoilt").mkdir()
    (tmp_path / "spoilt" / "settings.yaml").write_text("name: spoilt\n")
    (tmp_path / "spoilt" / "weights.h5").write_bytes(b"no weights")
    done = run("index", "build", shop[0] / "photos", *words, "--index", "new", cwd=tmp_path)
    assert done.returncode in (1, 2) and said in done.stderr
    assert not (tmp_path / "new").exists()


def test_a_name_too_long_for_an_index_is_a_clear_error(shop, tmp_path, run):
    for command in (("build", shop[0] / "photos"), ("info",), ("remove", "--vanished")):
        done = run("index", *command, "--index", "n" * 300, cwd=tmp_path)
        assert done.returncode in (1, 2) and "too long" in done.stderr


def test_files_left_out_are_said_and_no_photo_at_all_is_code_3(place, run):
    names = ("a.nef", "b.NEF", "c.mov", "@eaDir/d.jpg", "raw/e.jpg", ".hidden/f.jpg")
    for name in names:
        (place / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "p" / name).touch()
    words = ("index", "add", "p", "--index", "i", "--exclude", "raw")
    done = run(*words, cwd=place)
    assert done.returncode == 3
    assert "3 passed over (.nef 2, .mov 1)" in done.stderr and "no photo found in p" in done.stderr
    assert "raw/e.jpg: the file is empty" not in done.stderr
    done = run(*words[:-2], "--json", cwd=place)
    report = json.loads(done.stdout)
    assert report["passed_over"] == {".nef": 2, ".mov": 1}
    assert [Path(failure["path"]).name for failure in report["failed"]] == ["e.jpg"]


def test_an_index_that_another_process_has_begun_to_fill_is_kept(tmp_path):
    place, other = tmp_path / "new", tmp_path / "other"
    with pytest.raises(BusyError), no_blank_index(place):
        ImageIndex.create(place).close()
        with Store(place).lock(), ImageIndex.open(place) as images:
            images.remove([])
    assert ImageIndex.exists(place)
    with pytest.raises(UsageError), no_blank_index(other):
        ImageIndex.create(other).close()
        raise UsageError("a wrong label file")
    assert not other.exists()


def test_a_build_that_lost_the_race_to_another_says_that_its_settings_differ(
    shop, place, run, monkeypatch
):
    exists, answers = ImageIndex.exists, [False] * 3
    monkeypatch.setattr(
        ImageIndex, "exists", lambda path: answers.pop() if answers else exists(path)
    )
    (place / "other.yaml").write_text("store: {segment_images: 7}\n")
    done = run("index", "build", shop[0] / "photos", "--index", place / "i", "--config",
               place / "other.yaml")  # fmt: skip
    assert done.returncode == 2 and answers == []
    assert "other.yaml: store is fixed when an index is created" in done.stderr
    with ImageIndex.open(place / "i") as images:
        assert len(images) == 3
