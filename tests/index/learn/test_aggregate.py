"""The aggregate of local descriptors comes with the model: learnt by one command."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from commands import run as run
from dots import gallery

from delg import load_model
from delg.errors import ModelError, UsageError
from delg.network.weights import read_weights
from delg.zoo.registry import ModelFiles, find_model
from index.cli.model import model_aggregate
from index.learn import aggregate, descriptor_attention
from index.learn.aggregate import learn_aggregate

# So that the network costs little.
SMALL = {"longest_side": 96, "scales": [1.0], "global_scales": [1.0], "scale_weights": None}
PHOTOS = 12


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> tuple[Path, Path]:
    """Photos without labels, and two of each of three labels."""
    folder = tmp_path_factory.mktemp("photos")
    gallery(folder / "others", PHOTOS - 6, first=100)
    gallery(folder / "all", 6, first=200)
    for number, path in enumerate(sorted((folder / "all").iterdir())):
        label = folder / "labelled" / f"thing{number // 2}"
        label.mkdir(parents=True, exist_ok=True)
        shutil.move(path, label / path.name)
    return folder / "others", folder / "labelled"


@pytest.fixture
def files(tmp_path, monkeypatch) -> ModelFiles:
    """Of a copy of the default model that has not learnt it yet."""
    monkeypatch.setattr(aggregate, "MIN_PHOTOS", PHOTOS)
    monkeypatch.setattr(aggregate, "_MIN_PER_WORD", 1)
    monkeypatch.setattr(descriptor_attention, "_STEPS", 5)
    monkeypatch.setattr(descriptor_attention, "_WARMUP", 1)
    folder = tmp_path / "model"
    shutil.copytree(find_model().weights.parent, folder)
    (folder / "aggregate.h5").unlink()
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    settings["extraction"] |= SMALL
    settings["aggregate"] = {"words": 3, "adapted_dim": 8, "attention_hidden": 4}
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    return find_model(str(folder))


def test_the_command_makes_the_model_usable_and_the_same_photos_give_the_same(
    files, sources, tmp_path
):
    folder, (others, labelled) = files.weights.parent, sources
    with pytest.raises(ModelError, match="delg model aggregate"):
        load_model(str(folder))
    model_aggregate(str(folder), [others], [labelled])
    model = load_model(str(folder))
    photo = next(others.iterdir())
    features = model.extract(photo)
    alone = model.network_alone.extract(photo)
    assert alone.global_descriptor.shape == (768,)
    assert features.global_descriptor.shape == (768 + 8,) == (model.global_dim,)
    model_aggregate(str(folder), [others], [labelled], out=tmp_path / "again.h5")
    first, again = read_weights(files.aggregate), read_weights(tmp_path / "again.h5")
    for name, values in first.items():
        np.testing.assert_array_equal(again[name], values)
    with pytest.raises(UsageError, match="exists"):
        model_aggregate(str(folder), [others], [labelled])


def test_photos_that_cannot_be_read_are_left_out(files, sources, tmp_path, monkeypatch):
    monkeypatch.setattr(aggregate, "MIN_PHOTOS", 1)
    others, labelled = sources
    broken = tmp_path / "broken"
    shutil.copytree(others, broken)
    (broken / "00.jpg").write_bytes(b"no photo")
    calls: list[tuple[int, int, int]] = []

    class Report:
        def __init__(self, title: str) -> None:
            self.title = title

        def __enter__(self):
            return lambda *done: calls.append(done) if self.title == "photos" else None

        def __exit__(self, *problem: object) -> None:
            pass

    learnt = learn_aggregate(files, [broken], [labelled], Report)
    # As a background it spoils other photos as well.
    assert calls[-1][0] == calls[-1][1] == PHOTOS + 1 and calls[-1][2] >= 1
    assert learnt.photos == PHOTOS + 1 - calls[-1][2] and learnt.labelled <= 6


def test_too_few_photos_or_features_are_refused(files, sources, tmp_path, monkeypatch):
    others, labelled = sources
    monkeypatch.setattr(aggregate, "MIN_PHOTOS", PHOTOS + 1)
    with pytest.raises(UsageError, match=f"{PHOTOS} photos that can be read; it takes"):
        model_aggregate(str(files.weights.parent), [others], [labelled])
    monkeypatch.setattr(aggregate, "_MIN_PER_WORD", 1 << 20)
    with pytest.raises(UsageError, match="too few local features"):
        model_aggregate(str(files.weights.parent), [others])
    with pytest.raises(ModelError, match="no section aggregate"):
        model_aggregate("sift", [others], out=tmp_path / "x.h5")


def test_the_command_as_typed(run, tmp_path):
    cv2.imwrite(str(tmp_path / "flat.png"), np.zeros((40, 40, 3), np.uint8))
    done = run("model", "aggregate", "delg-lite", "--photos", tmp_path, "--out", tmp_path / "a.h5")
    assert done.returncode == 2 and "too few local features" in done.stderr
