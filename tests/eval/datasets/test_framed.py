"""Framed pictures: the photos that are made, and what is right for them."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from delg.errors import UsageError
from eval.datasets.framed import make_framed
from index.calibrate.surroundings import KINDS

EXTRA = 3


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A folder of pictures, one set for each kind of surroundings and three more, and textures."""
    root = tmp_path_factory.mktemp("sources")
    rng = np.random.default_rng(0)
    for folder, count in (("pictures", 5 * len(KINDS) + EXTRA), ("textures", 2)):
        (root / folder).mkdir()
        for number in range(count):
            coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
            pixels = cv2.resize(coarse, (80, 60), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(root / folder / f"{number:02d}.png"), pixels)
    return root


def test_each_set_has_a_photographed_picture_that_the_gallery_lacks(sources, tmp_path):
    pictures, textures = [sources / "pictures"], sources / "textures"
    benchmark = make_framed(pictures, textures, tmp_path / "framed", 1, 4)
    assert len(benchmark.gallery) == 4 * len(KINDS) + EXTRA
    assert len(benchmark.queries) == 5 * len(KINDS) + EXTRA
    right = [benchmark.truth[query.id].relevant for query in benchmark.queries]
    assert sum(not ids for ids in right) == len(KINDS)
    assert max(map(len, right)) == 1
    shown = [next(iter(ids)) for ids in right if ids]
    # The fourth of each set is photographed in other surroundings: all are looked for.
    assert set(shown) == {photo.id for photo in benchmark.gallery}
    again = make_framed(pictures, textures, tmp_path / "again", 1, 4)
    for first, second in zip(benchmark.queries, again.queries, strict=True):
        assert first.path.read_bytes() == second.path.read_bytes()


def test_nothing_is_made_where_something_lies_or_of_too_few_photos(sources, tmp_path):
    pictures, textures = [sources / "pictures"], sources / "textures"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(UsageError, match="full: is not empty"):
        make_framed(pictures, textures, tmp_path / "full", 1, 0)
    with pytest.raises(UsageError, match="--sets 2 takes 70 pictures"):
        make_framed(pictures, textures, tmp_path / "framed", 2, 0)
    assert not (tmp_path / "framed").exists()


def test_the_command_makes_and_measures_them(sources, tmp_path, model, run):
    into = tmp_path / "framed"
    command = ("eval", "framed", sources / "pictures", "--textures", sources / "textures")
    done = run(*command, "--into", into, "--sets", 1, "--model", model, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["queries"] == 5 * len(KINDS) + EXTRA
    by_hand = ("--gallery", into / "gallery", "--queries", into / "queries")
    again = run(
        *("eval", "queries", *by_hand, "--truth", into / "truth.csv", "--model", model, "--json")
    )
    assert json.loads(again.stdout)["metrics"] == json.loads(done.stdout)["metrics"]
    assert run(*command, "--into", into).returncode == 2
