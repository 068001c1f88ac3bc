"""``delg query``, ``delg match`` and ``delg extract``."""

from __future__ import annotations

import csv
import json

import h5py
import numpy as np
import pytest

KEYS = [
    "query", "key", "index", "model", "orientation", "timing_ms", "features", "notes", "answer",
    "hits",
    "regions",
]  # fmt: skip


HIT_KEYS = [
    "rank",
    "id",
    "path",
    "label",
    "score",
    "similarity",
    "inliers",
    "probability",
    "verified",
    "transform",
    "mark",
    "region",
    "source_url",
    "iiif",
]


def test_queries_print_one_object_a_line_in_the_order_asked(shop, run):
    folder, _ = shop
    rocket = folder / "photos" / "rocket.jpg"
    words = ("query.jpg", "nowhere.jpg", rocket, "photos", "--index", "i", "-k", "50", "--json")
    done = run("query", *words, cwd=folder)
    assert done.returncode == 3
    cat, nowhere, falcon, *of_folder = map(json.loads, done.stdout.splitlines())
    for answer, name in ((cat, "query.jpg"), (falcon, str(rocket))):
        assert list(answer) == KEYS
        assert (answer["query"], answer["index"], answer["model"]) == (name, "i", "delg-lite")
        assert list(answer["timing_ms"]) == ["extract", "search", "rerank"]
        assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3]
        assert all(list(hit) == HIT_KEYS for hit in answer["hits"])
        scores = [hit["score"] for hit in answer["hits"]]
        assert scores == sorted(scores, reverse=True)
    first = cat["hits"][0]
    assert (first["id"], first["label"]) == ("pets/chelsea.jpg", "cat, red")
    assert first["path"] == str(folder / "photos" / "pets" / "chelsea.jpg")
    assert first["verified"] is True and first["inliers"] > 100 and first["probability"] > 0.99
    # The query was cut out of the photo at (40, 30).
    np.testing.assert_allclose(first["transform"], [[1, 0, 40], [0, 1, 30], [0, 0, 1]], atol=5)
    assert falcon["hits"][0]["id"] == "rocket.jpg" and falcon["hits"][0]["label"] == "Falcon"
    other = falcon["hits"][-1]
    assert other["verified"] is False and other["probability"] < 0.5
    assert other["inliers"] > 0 or other["transform"] is None
    assert nowhere == {"query": "nowhere.jpg", "error": "no such file", "hits": []}
    # A folder stands for its photos.
    names = [f"photos/{name}.jpg" for name in ("broken", "pets/chelsea", "pets/coffee", "rocket")]
    assert [answer["query"] for answer in of_folder] == names
    assert "failed: nowhere.jpg: no such file" in done.stderr


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
    assert lines[1].split() == [
        "rank",
        "score",
        "probability",
        "similarity",
        "inliers",
        "id",
        "label",
    ]
    assert lines[2].split()[0] == "1" and "verified" in lines[2]
    assert "pets/chelsea.jpg" in lines[2] and "cat, red" in lines[2]
    # Only one candidate is verified, as the file says.
    assert lines[3].split()[0] == "2" and " 0 " in lines[3]
    # Both queries have a drawing, though their files are named alike.
    assert len(list((tmp_path / "drawn").iterdir())) == 2
    assert (tmp_path / "page.html").read_text().count("pets/chelsea.jpg") >= 2
    assert "page written: page.html" in done.stderr


def test_answers_paths_and_filters(shop, run):
    folder, _ = shop
    words = ("query.jpg", "--index", "i")
    done = run("query", *words, "--answer", cwd=folder)
    assert done.returncode == 0 and done.stdout.count("\n") == 1
    assert done.stdout.startswith(("query.jpg: sure: cat, red", "query.jpg: probably: cat, red"))
    done = run("query", *words, "--paths", "-k", 1, cwd=folder)
    assert done.stdout == f"{folder / 'photos/pets/chelsea.jpg'}\n"
    done = run("query", *words, "--verified-only", "--json", cwd=folder)
    assert [hit["id"] for hit in json.loads(done.stdout)["hits"]] == ["pets/chelsea.jpg"]
    done = run("query", *words, "--where", "label=Falcon", "--answer", cwd=folder)
    assert done.stdout == "query.jpg: not in this collection\n"
    for wrong in (
        ("--where", "Falcon"), ("--answer", "--paths"), ("--json", "--csv", "x.csv"),
        ("--minus", "query.jpg"), ("--features", "--together"), ("--together", "--csv", "x.csv"),
        ("--together", "--draw", "d"), ("--min-probability", 2),
    ):  # fmt: skip
        assert run("query", *words, *wrong, cwd=folder).returncode == 2, wrong
    assert run("query", "--index", "i", cwd=folder).returncode == 2


def test_several_photos_are_one_query_and_one_of_the_index_is_another(shop, run):
    folder, _ = shop
    words = ("query.jpg", "photos/rocket.jpg", "nowhere.jpg", "--index", "i", "--together")
    done = run("query", *words, "--json", cwd=folder)
    result = json.loads(done.stdout)
    assert done.returncode == 3 and result["query"] == "query.jpg + photos/rocket.jpg"
    assert {hit["id"] for hit in result["hits"] if hit["verified"]} == {
        "pets/chelsea.jpg", "rocket.jpg",
    }  # fmt: skip
    done = run("query", *words[:2], *words[3:], "--minus", "photos/rocket.jpg", "--paths",
               "--verified-only", cwd=folder)  # fmt: skip
    assert done.stdout == f"{folder / 'photos/pets/chelsea.jpg'}\n"
    done = run("query", "--like", "rocket.jpg", "--index", "i", "--json", cwd=folder)
    like = json.loads(done.stdout)
    assert like["query"] == "rocket.jpg" and len(like["hits"]) == 2
    assert run("query", "--like", "nothing", "--index", "i", cwd=folder).returncode == 2


def test_a_folder_becomes_a_table_that_is_continued(shop, run, tmp_path):
    folder, _ = shop
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "cat.jpg").write_bytes((folder / "query.jpg").read_bytes())
    (tmp_path / "new" / "bad.jpg").write_bytes(b"no photo")
    words = ("query", "new", "--index", folder / "i", "--csv", "out.csv")
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 3 and done.stdout.startswith("1 new answer in out.csv: 1 ")
    assert "1 failed" in done.stdout and "failed: new/bad.jpg" in done.stderr
    (tmp_path / "new" / "bad.jpg").write_bytes((folder / "photos" / "rocket.jpg").read_bytes())
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0 and "has answers to 1 photo already" in done.stderr
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [(row["query"], row["label"]) for row in rows] == [
        ("new/cat.jpg", "cat, red"), ("new/bad.jpg", "Falcon"),
    ]  # fmt: skip
    assert run("query", "new", "--index", folder / "i", "--csv", "new/cat.jpg",
               cwd=tmp_path).returncode == 2  # fmt: skip


def test_matching_two_photos(shop, run):
    folder, _ = shop
    cat = folder / "photos" / "pets" / "chelsea.jpg"
    done = run("match", folder / "query.jpg", cat, "--json")
    result = json.loads(done.stdout)
    assert done.returncode == 0 and done.stdout.count("\n") == 1
    assert list(result) == [
        "a",
        "b",
        "model",
        "similarity",
        "inliers",
        "probability",
        "verified",
        "transform",
        "matches",
    ]
    assert (result["a"], result["b"]) == (str(folder / "query.jpg"), str(cat))
    assert result["verified"] is True and len(result["matches"]) == result["inliers"]
    off = [
        np.subtract(match["b"], np.add(match["a"], (40, 30))).tolist()
        for match in result["matches"]
    ]
    assert np.abs(np.median(off, axis=0)).max() < 2


def test_two_photos_of_different_things_do_not_match_and_the_picture_shows_it(shop, run, tmp_path):
    photos = shop[0] / "photos"
    words = (photos / "rocket.jpg", photos / "pets" / "coffee.jpg", "--draw", tmp_path / "m.png")
    done = run("match", *words)
    assert done.returncode == 0 and done.stdout.startswith("not verified: ")
    assert (tmp_path / "m.png").stat().st_size > 1000


def test_a_box_outside_the_photo_is_that_photos_failure(shop, run):
    done = run("query", "query.jpg", "--index", "i", "--box", "9000,0,5,5", cwd=shop[0])
    assert done.returncode == 1 and "no area" in done.stderr and done.stdout == ""


def test_time_lets_queries_go_deeper_and_must_be_some(shop, run):
    done = run("query", "query.jpg", "--index", "i", "--time", 0.5, "--json", cwd=shop[0])
    assert done.returncode == 0 and '"rank": 1' in done.stdout, done.stderr
    done = run("query", "query.jpg", "--index", "i", "--time", 0, cwd=shop[0])
    assert done.returncode == 2 and "--time: ranking.seconds" in done.stderr


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
