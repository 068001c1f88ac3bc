"""``delg eval`` through published SavedModels, by their path."""

from __future__ import annotations

import json

import pytest
import skimage.data
from PIL import Image

THINGS = ("chelsea", "coffee")


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """A folder with ``photos`` and a model's folder of each kind."""
    from saved_models import lite_network, new_style, old_delf

    folder, network = tmp_path_factory.mktemp("exports"), lite_network()
    for name in THINGS:
        (folder / "photos" / name).mkdir(parents=True)
        photo = Image.fromarray(getattr(skimage.data, name)())
        photo.save(folder / "photos" / name / "whole.jpg", quality=90)
        part = (30, 20, photo.width - 20, photo.height - 10)
        photo.crop(part).save(folder / "photos" / name / "part.jpg", quality=85)
    Image.fromarray(skimage.data.astronaut()).save(folder / "photos" / "lone.jpg")
    for kind, make in (("signature", new_style), ("delf", old_delf)):
        make(network, folder / kind)
    return folder


@pytest.mark.parametrize(
    ("kind", "name", "dim"), [("signature", "new-style", 768), ("delf", "delf", 300)]
)
def test_an_evaluation_runs_through_a_saved_model(kind, name, dim, exports, run, tmp_path) -> None:
    words = ("--model", exports / kind, "--out", tmp_path / "run", "--json")
    done = run("eval", "folders", exports / "photos", *words)
    assert done.returncode == 0, done.stderr
    [metrics] = map(json.loads, done.stdout.splitlines())
    assert (metrics["queries"], metrics["gallery"]) == (4, 5)
    assert metrics["metrics"]["all"]["mAP@100"] == metrics["metrics"]["all"]["recall@1"] == 1
    assert metrics["engine"]["model"] == name
    assert metrics == json.loads((tmp_path / "run" / "metrics.json").read_text())
    info = json.loads(run("model", "info", exports / kind, "--json").stdout)
    assert metrics["engine"]["fingerprint"] == info["fingerprint"]
    assert info["settings"]["global_head"]["dim"] == dim
