"""Composites of things pasted into photos, and how they are measured."""

import json

import numpy as np
import pytest
from PIL import Image

from eval.regions.composites import LONGEST_SIDE, compose


@pytest.mark.parametrize("share", [0.05, 0.25])
def test_a_thing_covers_its_share_of_the_photo_where_the_box_says(share):
    grey = np.full((300, 400, 3), 90, np.uint8)
    white = np.full((200, 150, 3), 255, np.uint8)
    composite = compose(grey, [white], share, np.random.default_rng(1))
    height, width = composite.pixels.shape[:2]
    assert (width, height) == (LONGEST_SIDE, 768)
    bright = (composite.pixels > 130).all(axis=2)
    assert bright.mean() == pytest.approx(share, rel=0.15)
    rows, columns = np.nonzero(bright)
    x, y, box_width, box_height = composite.boxes[0]
    found = columns.min(), rows.min(), np.ptp(columns), np.ptp(rows)
    assert found == pytest.approx((x, y, box_width, box_height), abs=4)


def test_things_do_not_overlap_and_one_without_room_has_no_box():
    grey, white = np.full((300, 400, 3), 90, np.uint8), np.full((100, 100, 3), 255, np.uint8)
    boxes = compose(grey, [white] * 3, 0.08, np.random.default_rng(2)).boxes
    placed = [box for box in boxes if box]
    assert 2 <= len(placed) <= 3
    for n, (x, y, width, height) in enumerate(placed):
        for a, b, c, d in placed[n + 1 :]:
            assert x + width <= a or a + c <= x or y + height <= b or b + d <= y
    assert compose(grey, [white], 1.0, np.random.default_rng(2)).boxes == (None,)


def test_the_command_counts_what_each_method_finds(run, tmp_path):
    from skimage import data

    for name, pixels in (("a/cat", data.chelsea()), ("b/rocket", data.rocket())):
        path = tmp_path / f"{name}.jpg"
        path.parent.mkdir()
        Image.fromarray(pixels).save(path)
    assert run("index", "build", tmp_path / "a", "--index", tmp_path / "i").returncode == 0
    words = ("--index", tmp_path / "i", "--backgrounds", tmp_path / "b", "--photos", "1")
    done = run("eval", "regions", *words, "--objects", tmp_path / "a", "--share", ".3", "--json")
    rows = list(map(json.loads, done.stdout.splitlines()))
    assert [row["method"] for row in rows] == ["whole photo", "regions"]
    assert all(row["recall"] == row["complete"] == row["first"] == 1 for row in rows)
    refused = run("eval", "regions", *words, "--objects", tmp_path / "b")
    assert refused.returncode == 2 and "has no image 'rocket.jpg'" in refused.stderr
