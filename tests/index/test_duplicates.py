"""Photos that are in an index more than once."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from dots import Dots, dots

from index.duplicates import NEAR, SAME_FILE, Limits

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
