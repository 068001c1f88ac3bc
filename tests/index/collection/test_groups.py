"""Groups of the same instance: by verified pairs and marks, kept between runs, exported."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sqlite3

import numpy as np
import pytest
from dots import Dots, dots, gallery
from hypothesis import given
from hypothesis import strategies as st

from delg.errors import DelgError, UsageError
from index.collection.disjoint_sets import DisjointSets
from index.collection.group_table import groups_csv, labels_csv
from index.labels import read_labels
from index.storage.pair_table import FILE

ZOOM = np.diag([1.2, 1.2, 1.0])


def both(a: int, b: int) -> Dots:
    """A photo that shows the dots of two photos beside each other."""
    first, second = dots(a), dots(b)
    width = first.size[0]
    points = np.r_[first.points, second.points + np.array([width, 0])]
    return Dots(points, np.r_[first.colours, second.colours], (2 * width, first.size[1]))


@pytest.fixture
def images(make_index, tmp_path):
    """Photos of their own, 000 to 007; 001 zoomed, and 002 and 003 bridged by a photo of both."""
    photos = tmp_path / "photos"
    gallery(photos, 8)
    dots(1).moved(ZOOM, (200, 150)).save(photos / "001-large.png")
    both(2, 3).save(photos / "bridge.png")
    images = make_index()
    images.add(photos)
    return images


def ids(groups):
    return [group.ids for group in groups.groups]


BRIDGED = ("002.png", "003.png", "bridge.png")
ZOOMED = ("001-large.png", "001.png")


def test_groups_are_the_components_of_verified_pairs(images):
    found = images.groups()
    assert ids(found) == [BRIDGED, ZOOMED] and (found.photos, found.compared) == (10, 10)
    bridged, zoomed = found.groups
    # Only the bridge has a pair with each; of two equal ones the larger photo.
    assert bridged.representative == "bridge.png" and zoomed.representative == "001-large.png"
    weakest = min(member.strength for member in bridged.members)
    assert 0.5 <= bridged.strength == weakest <= 1
    assert ids(images.groups(min_probability=1.0)) == []


def test_only_new_and_changed_photos_are_compared_again(images, tmp_path, reopen):
    photos = tmp_path / "photos"
    images.groups()
    assert images.groups().compared == 0
    dots(5).moved(ZOOM, (200, 150)).save(photos / "005-large.png")
    dots(6).save(photos / "001-large.png")
    images.add(photos)
    again = reopen(images.path)
    found = again.groups()
    assert found.compared == 2
    assert ids(found) == [
        BRIDGED, ("001-large.png", "006.png"), ("005-large.png", "005.png"),
    ]  # fmt: skip
    # Removed photos leave their groups, and come back with what they matched.
    again.remove(["bridge.png"])
    assert ids(again.groups()) == ids(found)[1:]
    again.restore(["bridge.png"])
    assert sorted(ids(again.groups())) == sorted(ids(found))
    # Another way to compare forgets what was found before.
    assert again.groups(depth=3).compared == again.groups(again=True).compared == len(again)
    assert sorted(ids(again.groups())) == sorted(ids(found))


def test_marks_merge_and_split(images):
    images.mark_images("002.png", "003.png", "different")
    split = ids(images.groups())
    assert len(split) == 2 and all(len(group) == 2 for group in split)
    assert not any({"002.png", "003.png"} <= set(group) for group in split)
    images.mark_images("005.png", "006.png", "same")
    assert ("005.png", "006.png") in ids(images.groups())
    # The last word counts, whichever photo it was said of first.
    images.mark_images("006.png", "005.png", "different")
    images.mark_images("003.png", "002.png", None)
    found = images.groups()
    assert ids(found) == [BRIDGED, ZOOMED] and found.compared == 0
    with pytest.raises(UsageError, match="itself"):
        images.mark_images("005.png", "005.png", "same")


def test_copies_of_a_file_are_one_group_though_nothing_can_be_matched(make_index, tmp_path):
    plain = tmp_path / "photos" / "plain.png"
    dots(1, 3).save(plain)
    shutil.copy(plain, plain.with_name("copy.png"))
    images = make_index()
    images.add(plain.parent)
    assert ids(images.groups()) == [("copy.png", "plain.png")]


def test_a_kill_between_photos_loses_nothing_that_was_compared(images):
    def stop(done: int, total: int, failed: int) -> None:
        if done == 4:
            raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("index.collection.groups._SECONDS", 0.0)
        with pytest.raises(InterruptedError):
            images.groups(progress=stop)
    found = images.groups()
    assert found.compared == 6 and ids(found) == [BRIDGED, ZOOMED]


def test_what_is_damaged_or_wrong_is_named(images):
    for wrong in ({"depth": 0}, {"min_probability": 2.0}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            images.groups(**wrong)
    images.groups()
    db = sqlite3.connect(images.path / FILE, isolation_level=None)
    db.execute("UPDATE pairs SET log_odds = 'x'")
    db.close()
    with pytest.raises(DelgError, match=f"{FILE}.*delete it"):
        images.groups()
    (images.path / FILE).write_bytes(b"no database" * 100)
    with pytest.raises(DelgError, match=f"{FILE}.*delete it"):
        images.groups()


def test_groups_become_a_table_and_labels(images, tmp_path):
    found = images.groups()
    rows = list(
        csv.DictReader(
            io.StringIO(groups_csv(found.groups, images.known(images.ids())).lstrip("\ufeff"))
        )
    )
    assert [row["id"] for row in rows] == [*BRIDGED, *ZOOMED]
    assert [row["group"] for row in rows] == ["1"] * 3 + ["2"] * 2
    assert [row["id"] for row in rows if row["representative"] == "yes"] == [
        "bridge.png", "001-large.png",
    ]  # fmt: skip
    assert rows[-1]["width"] == "160" and rows[-1]["path"].endswith("001.png")
    (tmp_path / "groups.csv").write_text(labels_csv(found.groups))
    images.add(tmp_path / "photos", labels=str(tmp_path / "groups.csv"))
    assert {image_id: images.image(image_id).label for image_id in BRIDGED} == dict.fromkeys(
        BRIDGED, "bridge.png"
    )
    assert read_labels(str(tmp_path / "groups.csv")).get("001.png").label == "001-large.png"


_NUMBERS = st.tuples(st.integers(0, 9), st.integers(0, 9))


@given(st.lists(_NUMBERS), st.lists(_NUMBERS.filter(lambda pair: pair[0] != pair[1])))
def test_sets_are_joined_unless_they_must_stay_apart(joins, apart):
    sets, colours = DisjointSets(apart), list(range(10))
    for a, b in joins:
        one, other = colours[a], colours[b]
        merged = [number for number in range(10) if colours[number] in (one, other)]
        allowed = one != other and not any({a, b} <= set(merged) for a, b in apart)
        assert sets.join(a, b) == allowed
        if allowed:
            colours = [one if colour == other else colour for colour in colours]
    for a in range(10):
        assert sets.root(a) == min(n for n in range(10) if colours[n] == colours[a])


def test_from_the_command_line(images, run, tmp_path):
    def groups(*words):
        return run("index", "groups", "--index", images.path, *words, cwd=tmp_path)

    done = groups("--csv", "g.csv", "--labels", "labels.csv")
    assert done.returncode == 0, done.stderr
    assert "2 groups with 5 of 10 photos; 10 compared now" in done.stdout
    assert (tmp_path / "g.csv").exists() and "bridge.png" in (tmp_path / "labels.csv").read_text()
    done = groups("--different", "001.png", "001-large.png", "--json")
    [group] = map(json.loads, done.stdout.splitlines())
    assert [member["id"] for member in group["members"]] == list(BRIDGED)
    done = groups("--same", "001.png", "nothing.png")
    assert done.returncode == 2 and "nothing.png" in done.stderr
