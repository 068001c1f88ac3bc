"""Two collections against each other: pairs, the interval of similarities, and decisions."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from dots import Dots, dots, gallery

from delg.errors import UsageError
from index import ImageIndex

ZOOM = np.diag([1.2, 1.2, 1.0])


def partly(seed: int, other: int) -> Dots:
    """Half of the dots of a photo, among as many others."""
    group, rest = dots(seed), dots(other)
    points = np.r_[group.points[:26], rest.points[:26]]
    return Dots(points, np.r_[group.colours[:26], rest.colours[:26]])


@pytest.fixture
def both(make_index, tmp_path):
    """Photos 000 to 005; and a copy of 000, a zoomed 001 and a part of 002 among 003b to 005b."""
    a, b = tmp_path / "a", tmp_path / "b"
    gallery(a, 6)
    b.mkdir()
    shutil.copy(a / "000.png", b / "copy.png")
    dots(1).moved(ZOOM, (200, 150)).save(b / "large.png")
    partly(2, 50).save(b / "part.png")
    gallery(b, 3, first=20)
    first, second = make_index("a.index"), make_index("b.index")
    first.add(a)
    second.add(b)
    return first, second


def names(pairs):
    return [(pair.a, pair.b) for pair in pairs]


PAIRS = {("000.png", "copy.png"), ("001.png", "large.png"), ("002.png", "part.png")}


def test_photos_of_the_same_thing_are_found_in_both_directions(both):
    first, second = both
    pairs = first.pairs(second)
    assert set(names(pairs)) == PAIRS and len(pairs) == 3
    assert {(b, a) for a, b in names(second.pairs(first))} == PAIRS
    copy = pairs[0]
    assert (copy.a, copy.same_file, copy.similarity, copy.probability) == ("000.png", True, 1, 1)
    assert all(pair.inliers >= 10 and 0.5 <= pair.probability <= 1 for pair in pairs[1:])


def test_an_interval_of_similarities_leaves_the_altered_copies(both):
    first, second = both
    similarity = {pair.a: pair.similarity for pair in first.pairs(second)}
    assert similarity["002.png"] < 0.8 < similarity["001.png"]
    altered = first.pairs(second, 0.8, 1.0)
    assert set(names(altered)) == PAIRS - {("002.png", "part.png")}
    assert names(first.pairs(second, max_similarity=0.8)) == [("002.png", "part.png")]
    with pytest.raises(UsageError, match="exchange"):
        first.pairs(second, 0.8, 0.2)
    with pytest.raises(UsageError, match="depth"):
        first.pairs(second, depth=0)


def test_within_one_collection_each_pair_is_listed_once(make_index, tmp_path):
    photos = tmp_path / "photos"
    gallery(photos, 4)
    shutil.copy(photos / "000.png", photos / "copy.png")
    dots(1).moved(ZOOM, (200, 150)).save(photos / "large.png")
    images = make_index()
    images.add(photos)
    assert names(images.pairs()) == [("000.png", "copy.png"), ("001.png", "large.png")]


def test_decisions_are_remembered_whatever_a_photo_is_called(both, tmp_path, reopen):
    first, second = both
    with pytest.raises(UsageError, match="no image x"):
        first.decide_pairs([("000.png", "copy.png", "accepted"), ("001.png", "x", None)], second)
    assert {pair.decision for pair in first.pairs(second)} == {None}
    first.decide_pairs(
        [("000.png", "copy.png", "accepted"), ("001.png", "large.png", "rejected")], second
    )
    (tmp_path / "b" / "large.png").rename(tmp_path / "b" / "renamed.png")
    second.add(tmp_path / "b")
    found = {pair.b: pair.decision for pair in reopen(first.path).pairs(second)}
    assert found == {"copy.png": "accepted", "renamed.png": "rejected", "part.png": None}
    first.decide_pairs([("000.png", "copy.png", None)], second)
    assert first.pairs(second)[0].decision is None


def test_indexes_of_different_models_are_refused(both, tmp_path):
    first, _ = both
    other = ImageIndex.create(tmp_path / "sift.index", "sift")
    with pytest.raises(UsageError, match=r"sift\.index.*another model"):
        first.pairs(other)


def test_from_the_command_line(both, run, tmp_path):
    first, second = both

    def pairs(*words):
        return run("index", "pairs", first.path, second.path, *words, cwd=tmp_path)

    done = pairs("--csv", "pairs.csv")
    assert done.returncode == 0 and "3 pairs listed, 0 others" in done.stdout, done.stderr
    text = (tmp_path / "pairs.csv").read_text("utf-8-sig")
    rows = list(csv.DictReader(text.splitlines()))
    assert {(row["a"], row["b"]) for row in rows} == PAIRS
    assert rows[0]["same_file"] == "yes" and rows[0]["b_path"].endswith("copy.png")
    (tmp_path / "d.csv").write_text(text.replace("copy.png,,", "copy.png,accepted,"))
    assert "3 decisions" in pairs("--decisions", "d.csv").stdout
    assert "1 decision" in pairs("--reject", "002.png", "part.png").stdout
    [line] = pairs("--json").stdout.splitlines()
    assert json.loads(line)["b"] == "large.png"
    assert "1 pair listed, 2 others" in pairs("--show", "accepted").stdout
    assert "3 pairs listed" in pairs("--show", "all").stdout
    (tmp_path / "d.csv").write_text(text.replace("copy.png,,", "copy.png,maybe,"))
    done = pairs("--decisions", "d.csv")
    assert done.returncode == 2 and "maybe" in done.stderr
    assert pairs("--min-similarity", ".9", "--max-similarity", ".1").returncode == 2
    assert "0 pairs" in run("index", "pairs", first.path).stdout
