"""``delg export``, ``delg index import`` and ``delg query --features``."""

from __future__ import annotations

import json

import numpy as np
import pytest

from delg.types import ImageFeatures, LocalFeatures


@pytest.mark.parametrize(("kind", "out"), [("delg", "out"), ("hloc", "out.h5")])
def test_features_go_out_and_come_in_as_an_index_that_features_search(
    run, place, kind, out
) -> None:
    done = run("export", "--index", "i", "--format", kind, "--out", out, cwd=place)
    assert (done.returncode, done.stdout) == (0, f"features of 3 photos in {out}\n")
    assert "i stores local descriptors rounded (store.local_codec: compact)" in done.stderr
    words = ("index", "import", out, "--index", "j", "--model", "theirs", "--json")
    done = run(*words, cwd=place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["added"] == 3
    done = run("query", out, "--features", "--index", "j", "--json", "-k", 1, cwd=place)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == 3
    assert all(answer["hits"][0]["id"] == answer["query"] for answer in answers)
    assert all(answer["hits"][0]["verified"] for answer in answers)
    assert answers[0]["model"] == "theirs"


def test_what_is_stored_in_full_is_exported_without_a_note(run, shop, tmp_path) -> None:
    (tmp_path / "full.yaml").write_text("store: {local_codec: float32}\n")
    photo = shop[0] / "photos" / "rocket.jpg"
    run("index", "build", photo, "--index", "i", "--config", "full.yaml", cwd=tmp_path)
    done = run("export", "--index", "i", "--format", "npz", "--out", "f.npz", cwd=tmp_path)
    assert done.returncode == 0
    assert "rounded" not in done.stderr


def test_features_that_name_a_model_that_is_here_make_its_index(run, place, shop) -> None:
    run("export", "--index", "i", "--format", "hloc", "--out", "f.h5", cwd=place)
    done = run("index", "import", "f.h5", "--index", "j", "--photos", shop[0] / "photos", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "3 photos added, 0 failed; 3 photos in j, features of delg-lite" in done.stdout
    infos = [
        json.loads(run("index", "info", "--index", index, "--json", cwd=place).stdout)
        for index in ("i", "j")
    ]
    assert infos[0]["fingerprint"] == infos[1]["fingerprint"]


def test_mistakes_end_in_one_line(run, place) -> None:
    run("export", "--index", "i", "--format", "delg", "--out", "out", cwd=place)
    for words, message in (
        (("export", "--index", "i", "--format", "xml", "--out", "x"), "no format is called 'xml'"),
        (("index", "import", "out", "--index", "j"), "give --model NAME"),
        (("index", "import", "gone", "--index", "j"), "gone: no such file or folder"),
        (("index", "import", "out", "--index", "i", "--model", "x"), "features of delg-lite"),
        (("query", "out", "--features", "--index", "i", "--box", "1,1,2,2"), "need photos"),
    ):
        done = run(*words, cwd=place)
        assert done.returncode == 2, words
        assert message in done.stderr


def test_an_import_that_cannot_be_leaves_no_empty_index_behind(run, place) -> None:
    from index.formats import writer
    from index.formats.parsed import FeatureSource

    features = ImageFeatures(np.ones(4, np.float32) / 2, LocalFeatures.empty(3), 20, 20)
    writer("hloc")(place / "odd.h5", [("a", features)], FeatureSource("delg-lite", ""))
    for words, said in (
        (("odd.h5", "--model", "delg-lite"), "descriptors of 4 and 3"),
        (("odd.h5", "--model", "x", "--photos", "absent"), "absent"),
        (("absent.h5",), "absent.h5"),
        (("n" * 300,), "too long"),
    ):
        done = run("index", "import", *words, "--index", "new", cwd=place)
        assert done.returncode == 2 and said in done.stderr, done.stderr
        assert not (place / "new").exists()
