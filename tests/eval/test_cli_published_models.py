"""``delg eval`` through published SavedModels, by their path."""

from __future__ import annotations

import json

import pytest
import skimage.data
from PIL import Image

THINGS = ("chelsea", "coffee")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of two photos of each of two things, and one of another."""
    folder = tmp_path_factory.mktemp("photos")
    for name in THINGS:
        (folder / name).mkdir()
        photo = Image.fromarray(getattr(skimage.data, name)()).reduce(2)
        photo.save(folder / name / "whole.jpg", quality=90)
        part = (15, 10, photo.width - 10, photo.height - 5)
        photo.crop(part).save(folder / name / "part.jpg", quality=85)
    Image.fromarray(skimage.data.astronaut()).reduce(2).save(folder / "lone.jpg")
    return folder


@pytest.mark.parametrize(
    ("kind", "name", "dim"), [("new", "new-style", 768), ("delf", "delf", 300)]
)
def test_an_evaluation_runs_through_a_saved_model(
    kind, name, dim, folders, photos, run, tmp_path
) -> None:
    words = ("--model", folders[kind], "--out", tmp_path / "run", "--json")
    done = run("eval", "folders", photos, *words)
    assert done.returncode == 0, done.stderr
    [metrics] = map(json.loads, done.stdout.splitlines())
    assert (metrics["queries"], metrics["gallery"]) == (4, 5)
    assert metrics["metrics"]["all"]["mAP@100"] == metrics["metrics"]["all"]["recall@1"] == 1
    assert metrics["engine"]["model"] == name
    assert metrics == json.loads((tmp_path / "run" / "metrics.json").read_text())
    info = json.loads(run("model", "info", folders[kind], "--json").stdout)
    assert metrics["engine"]["fingerprint"] == info["fingerprint"]
    assert info["settings"]["global_head"]["dim"] == dim
