"""Training in DELF's two stages, and what comes out of it in an index."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from delg import load_model
from delg.errors import DelgError, UsageError
from delg.network.weights import read_weights
from delg.settings import parse, read_settings, read_yaml
from delg.training.sample_dataset import write_samples
from delg.training.settings import TrainSettings
from delg.training.stages import train_in_stages
from delg.zoo.registry import find_model
from index import ImageIndex

pytestmark = [pytest.mark.training, pytest.mark.slow]

DELF = Path(__file__).parents[3] / "configs" / "delf_r50_gldv2.yaml"


def tiny(folder: Path) -> dict[str, Any]:
    """The shipped configuration, made small."""
    values = read_yaml(DELF)
    values.update(out=str(folder / "run"), start="delg-lite")
    values["model"].update(
        name="delf-tiny",
        backbone="efficientnet_lite0",
        input={"mean": [127, 127, 127], "std": [128, 128, 128]},
        global_head={"dim": 36},
        local_head={"dim": 8, "attention_hidden": 16, "decoder_activation": "linear"},
        extraction={"longest_side": 160, "scales": [1.0], "global_scales": [1.0]},
    )
    values["data"] = {"folders": [str(folder / "photos")], "validation_share": 0.25}
    values["augment"] = {"side": 64}
    values["schedule"] = {"steps": 3, "batch": 16, "log_every": 1, "checkpoint_every": 1}
    first, second = values["stages"].values()
    first.update(trainable={"backbone_from": "block10"}, optimiser={"learning_rate": 0.1})
    second.update(schedule={"steps": 12}, optimiser={"learning_rate": 2})
    second.update(augment={"area": [0.3, 1.0]}, finalize={"whiten_photos": 6, "keep_features": 0.7})
    return values


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    start_training: Callable[..., subprocess.Popen[bytes]],
) -> Path:
    """Folder of a run that was killed in its second stage and then continued."""
    folder = tmp_path_factory.mktemp("delf")
    write_samples(folder / "photos", 4)
    config = folder / "delf.yaml"
    config.write_text(yaml.safe_dump(tiny(folder), sort_keys=False))
    process = start_training("--kill-before", "attention:3", config)
    errors = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, errors.decode()
    os.utime(folder / "run" / "descriptors" / "model" / "weights.h5", (1, 1))
    found = train_in_stages(read_settings(TrainSettings, config), resume=True)
    assert found == folder / "run" / "attention" / "model"
    return folder


def log(run: Path, stage: str) -> list[dict[str, Any]]:
    lines = (run / "run" / stage / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_killed_in_the_second_stage_it_goes_on_there(run: Path) -> None:
    first = run / "run" / "descriptors"
    assert (first / "model" / "weights.h5").stat().st_mtime == 1, "the first is left as it was"
    assert [line["step"] for line in log(run, "descriptors") if line["kind"] == "train"] == [
        1,
        2,
        3,
    ]
    steps = [line["step"] for line in log(run, "attention") if line["kind"] == "train"]
    assert steps == list(range(1, 13))


def test_the_first_stage_moves_features_and_the_second_leaves_them_alone(run: Path) -> None:
    start = read_weights(find_model("delg-lite").weights)
    first, second = (
        read_weights(run / "run" / stage / "model" / "weights.h5")
        for stage in ("descriptors", "attention")
    )
    backbone = [name for name in first if not name.startswith(("autoencoder/", "attention/"))]
    assert not any(name.startswith(("gem", "whitening", "head_conv")) for name in backbone)
    moved = [name for name in backbone if not np.allclose(first[name], start[name], atol=1e-4)]
    assert moved
    assert all(name.startswith("block10") for name in moved)
    for name in backbone:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert not np.array_equal(first["attention/score/kernel"], second["attention/score/kernel"])
    names = [{*log(run, stage)[-2]} for stage in ("descriptors", "attention")]
    assert "descriptor" in names[0] and "attention" not in names[0]
    assert "attention" in names[1] and "descriptor" not in names[1]


def test_attention_learns(run: Path) -> None:
    losses = [line["attention"] for line in log(run, "attention") if line["kind"] == "train"]
    assert np.mean(losses[-3:]) < 0.9 * losses[0]
    accuracy = [
        line["attention_accuracy"] for line in log(run, "attention") if line["kind"] == "validation"
    ]
    assert accuracy[-1] > accuracy[0]


def test_the_model_is_searched_by_the_aggregate_of_its_local_features(
    run: Path, tmp_path: Path
) -> None:
    model = load_model(str(run / "run" / "attention" / "model"))
    assert (model.global_dim, model.local_dim) == (36, 8)
    photos = run / "photos"
    with ImageIndex.create(tmp_path / "i", str(run / "run" / "attention" / "model")) as images:
        images.use(model)
        assert images.add(photos).failed == []
        assert images.feature_spec.aggregated
        hit = images.query(photos / "coffee" / "01.jpg", k=3)[0]
    assert hit.id == "coffee/01.jpg"
    assert hit.similarity == pytest.approx(1, abs=1e-3)
    assert hit.verified


def test_begun_stages_are_resumed_only_when_asked_and_with_the_same_settings(
    run: Path,
) -> None:
    values = tiny(run)
    with pytest.raises(UsageError, match="earlier run"):
        train_in_stages(parse(TrainSettings, values, "test"))
    values["stages"]["descriptors"]["optimiser"]["learning_rate"] = 0.2
    with pytest.raises(DelgError, match=r"train\.json was made with other settings of optimiser"):
        train_in_stages(parse(TrainSettings, values, "test"), resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": {"a b": {}}}, "stages.a b"),
        ({"stages": {"one": {"losses": {"attentoin": {}}}}}, "stages.one: losses.attentoin"),
        ({"stages": {"one": {"losses": {"arcface": {"weight": 1}}}}}, "stages.one: .*local_only"),
        ({"model": {"name": "x", "local_only": True}}, "local_only needs global_head.dim: 2080"),
    ],
)
def test_stages_that_make_no_sense_are_named(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        parse(TrainSettings, {**tiny(tmp_path), **change}, "test")


def test_the_shipped_stages_follow_each_other() -> None:
    first, second = read_settings(TrainSettings, DELF).in_stages()
    assert second.start == str(first.out / "model")
    assert first.start and first.start.startswith("resnet50")
    assert (first.losses.descriptor.weight, first.losses.attention.weight) == (1, 0)
    assert (second.losses.descriptor.weight, second.losses.attention.weight) == (0, 1)
    assert second.trainable.backbone_from == "none"
    assert second.optimiser.momentum == first.optimiser.momentum
