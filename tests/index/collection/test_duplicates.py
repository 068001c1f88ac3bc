"""Photos that are in an index more than once."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from dots import Dots, dots

from delg.errors import DelgError
from index.collection.decisions import FILE
from index.collection.duplicates import NEAR, SAME_FILE, Limits

LIMITS = Limits(inliers=16)
ZOOM = np.diag([1.25, 1.25, 1.0])


@pytest.fixture
def images(make_index, photos):
    """12 photos; 000 three times as one file, 001 zoomed, 002 a part of it only."""
    shutil.copy(photos / "000.png", photos / "000-a.png")
    shutil.copy(photos / "000.png", photos / "000-b.png")
    dots(1).moved(ZOOM, (200, 150)).save(photos / "001-large.png")
    # A quarter of the dots of 002 among others.
    group, other = dots(2), dots(77)
    Dots(
        np.r_[group.points[:10], other.points[:30]], np.r_[group.colours[:10], other.colours[:30]]
    ).save(photos / "002-part.png")
    images = make_index()
    images.add(photos)
    return images


def test_groups_are_of_one_file_or_of_one_picture(images):
    parts = []
    duplicates = images.duplicates(LIMITS, parts.append)
    assert [(group.ids, group.kind) for group in duplicates.groups] == [
        (("000-a.png", "000-b.png", "000.png"), SAME_FILE),
        (("001-large.png", "001.png"), NEAR),
    ]
    assert duplicates.complete and duplicates.photos == 14
    assert parts == sorted(parts) and 0 <= parts[0] <= parts[-1] <= 1


def test_a_copy_of_a_near_one_joins_its_group(images, photos):
    shutil.copy(photos / "001-large.png", photos / "001-large-copy.png")
    images.add(photos)
    group = images.duplicates(LIMITS).groups[0]
    both = {group.ids: group.kind for group in images.duplicates(LIMITS).groups}
    assert len(group.ids) == 3
    assert both[("001-large-copy.png", "001-large.png", "001.png")] == NEAR


@pytest.mark.parametrize("limits", [{"photos": 1}, {"seconds": -1.0}])
def test_what_it_may_cost_is_bounded(images, limits):
    duplicates = images.duplicates(Limits(inliers=16, **limits))
    assert not duplicates.complete
    # The same file is told without a look.
    assert duplicates.groups[0].kind == SAME_FILE and duplicates.compared == 0


def test_pairs_are_bounded_the_likeliest_first(images, photos):
    dots(5).moved(np.diag([1.1, 1.1, 1]), (180, 140)).save(photos / "005-large.png")
    images.add(photos)
    duplicates = images.duplicates(Limits(inliers=16, pairs=1, similarity=0.2))
    assert duplicates.compared == 1 and not duplicates.complete
    assert len(duplicates.groups) == 2


def test_an_empty_index_has_none(make_index):
    assert make_index().duplicates().groups == ()


def test_it_can_be_stopped(images):
    def stop(part: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        images.duplicates(LIMITS, stop)


SAME, NEARLY = ("000-a.png", "000-b.png", "000.png"), ("001-large.png", "001.png")


def test_ignored_groups_are_remembered_until_a_photo_joins_or_changes(images, photos):
    def ids():
        return [group.ids for group in images.duplicates(LIMITS).groups]

    images.ignore_duplicates(NEARLY)
    assert ids() == [SAME] and len(images.duplicates(LIMITS, with_ignored=True).groups) == 2
    shutil.copy(photos / "001-large.png", photos / "001-copy.png")
    images.add(photos)
    assert ids() == [SAME, ("001-copy.png", *NEARLY)]
    images.remove(["001-copy.png"])
    assert ids() == [SAME]
    assert images.decisions.heed_again("001.png") == 1 and len(ids()) == 2
    (images.path / FILE).write_bytes(b"no database" * 100)
    with pytest.raises(DelgError, match=FILE):
        ids()


def test_from_the_command_line(images, run, tmp_path):
    def duplicates(*words):
        return run("index", "duplicates", "--index", images.path, *words, cwd=tmp_path)

    done = duplicates("--inliers", 16, "--json")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"kind": "same file", "keep": ["000-a.png"], "remove": ["000-b.png", "000.png"]},
        {"kind": "near", "keep": ["001-large.png"], "remove": ["001.png"]},
    ]
    done = duplicates("--same-files", "--keep", "000-b.png", "--remove")
    assert done.stdout.split() == ["000-a.png", "000.png"] and "--force" in done.stderr
    assert duplicates("--same-files", "--keep", "005.png").returncode == 2
    assert duplicates("--inliers", 16, "--csv", "d.csv", "--ignore", "000.png").returncode == 0
    with (tmp_path / "d.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["decision"]) for row in rows] == [
        ("001-large.png", "keep"), ("001.png", "remove"),
    ]  # fmt: skip
    text = (tmp_path / "d.csv").read_text()
    (tmp_path / "none.csv").write_text(text.replace("keep", "remove"))
    done = duplicates("--decisions", "none.csv", "--force")
    assert done.returncode == 2 and "keep one" in done.stderr
    assert "1 image removed" in duplicates("--decisions", "d.csv", "--force").stdout
    assert images.image("001.png") is not None  # As it was opened.
    images.refresh()
    assert images.image("001.png") is None and [each.id for each, _ in images.trash()] == [
        "001.png"
    ]
    assert "0 groups" in duplicates("--inliers", 16).stdout
    assert "1 group" in duplicates("--same-files", "--heed", "000.png").stdout
