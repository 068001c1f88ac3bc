from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import yaml

from delg.card import read_card
from delg.errors import UsageError
from delg.registry import load_model
from delg.settings import parse, read_yaml
from delg.training import checkpoint
from delg.training.run import train
from delg.training.samples import NAMES, write_samples
from delg.training.settings import TrainSettings

TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"
RUN = """
import sys
from pathlib import Path
from delg.settings import read_settings
from delg.training.settings import TrainSettings
from delg.training.run import train
train(read_settings(TrainSettings, sys.argv[1]), sys.argv[2:] == ["resume"])
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "photos"
    assert write_samples(folder, 16) == 16 * len(NAMES)
    return folder


def tiny(photos: Path, out: Path, **loop: Any) -> dict[str, Any]:
    values = read_yaml(TINY)
    values["out"], values["data"]["folders"] = str(out), [str(photos)]
    values["loop"].update(loop)
    return values


def final_accuracy(out: Path) -> list[float]:
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [line["accuracy"] for line in lines if line["kind"] == "validation"]


def test_it_learns_and_with_shuffled_labels_it_does_not(photos: Path, tmp_path: Path) -> None:
    shuffled = tmp_path / "shuffled"
    paths = sorted(photos.glob("*/*.jpg"))
    order = np.random.default_rng(0).permutation(len(paths))
    for place, number in enumerate(order):
        target = shuffled / paths[place].parent.name / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(paths[number].read_bytes())
    accuracy = {}
    for name, folder in (("real", photos), ("shuffled", shuffled)):
        folder_out = train(parse(TrainSettings, tiny(folder, tmp_path / name), "tiny"))
        accuracy[name] = final_accuracy(tmp_path / name)
        assert folder_out == tmp_path / name / "model"
    assert accuracy["real"][0] < 0.3
    assert accuracy["real"][-1] > 0.85
    assert accuracy["shuffled"][-1] < 0.3
    record = json.loads((tmp_path / "real" / "train.json").read_text())
    assert record["steps"] == 60
    assert record["metrics"]["accuracy"] == accuracy["real"][-1]
    assert record["versions"]["tensorflow"]
    card = read_card(tmp_path / "real" / "model")
    assert card is not None
    assert (card["labels"], card["photos"]) == (12, 144)
    model = load_model(str(tmp_path / "real" / "model"))
    features = model.extract(cv2.imread(str(paths[0]))[..., ::-1])
    assert features.global_descriptor.shape == (512,)
    assert list((tmp_path / "real" / "tensorboard").iterdir())
    again = parse(TrainSettings, tiny(photos, tmp_path / "real"), "tiny")
    with pytest.raises(UsageError, match="earlier run"):
        train(again)


def settings_file(photos: Path, out: Path) -> Path:
    """Everything that has a state: averages, a memory, both heads, trained norms, two views."""
    values = tiny(
        photos, out, steps=8, batch=4, balanced=0.5, checkpoint_every=1, validate_every=8,
        log_every=1,
    )  # fmt: skip
    values["augment"] = {"side": 64, "views": 2, "rotation": 10, "on_background": 0.3}
    values["model"]["local_head"] = {"dim": 16, "attention_hidden": 8}
    values["losses"] = {
        "instance": {"weight": 1, "memory": 12},
        "warps": {"descriptor_weight": 1, "attention_weight": 1},
    }
    values["trainable"] = {"backbone_from": "block14", "batch_norm": "trained"}
    values["optimiser"]["average"] = 0.9
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(values))
    return path


def start(*args: str) -> subprocess.Popen[bytes]:
    # One thread: sums in another order would differ in the last bits.
    env = {**os.environ, "TF_NUM_INTRAOP_THREADS": "1", "TF_DETERMINISTIC_OPS": "1"}
    return subprocess.Popen([sys.executable, "-c", RUN, *args], env=env, stderr=subprocess.PIPE)


def test_killed_and_resumed_it_ends_equal_to_a_run_in_one_go(photos: Path, tmp_path: Path) -> None:
    whole = start(str(settings_file(photos, tmp_path / "whole")))
    cut = settings_file(photos, tmp_path / "cut")
    process = start(str(cut))
    last = tmp_path / "cut" / "checkpoints" / "last.h5"
    until = time.monotonic() + 120
    while not last.exists() or h5py_step(last) < 3:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    at = h5py_step(last)
    assert 3 <= at < 8, "it must be interrupted on the way"
    for run in (start(str(cut), "resume"), whole):
        errors = run.communicate()[1]
        assert run.returncode == 0, errors.decode()
    one, two = (
        checkpoint.load(tmp_path / name / "checkpoints" / "last.h5") for name in ("whole", "cut")
    )
    assert one.step == two.step == 8
    assert one.arrays.keys() == two.arrays.keys()
    for name, value in one.arrays.items():
        np.testing.assert_allclose(value, two.arrays[name], rtol=1e-5, atol=1e-6, err_msg=name)


def h5py_step(path: Path) -> int:
    try:
        with h5py.File(path) as file:
            return int(file.attrs["step"])
    except OSError:
        return 0  # Replaced while it was being opened.


def test_checkpoints_are_whole_or_damaged_by_name(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "last.h5"
    arrays = {"weights/a": np.arange(3.0), "memory/next": np.zeros((), np.int64)}
    checkpoint.save(path, checkpoint.Checkpoint(5, arrays, {"best": None}))
    found = checkpoint.load(path)
    assert (found.step, found.facts) == (5, {"best": None})
    assert {k: v.tolist() for k, v in found.arrays.items()} == {
        k: v.tolist() for k, v in arrays.items()
    }
    assert [p.name for p in path.parent.iterdir()] == ["last.h5"]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(Exception, match=r"last\.h5: a damaged checkpoint"):
        checkpoint.load(path)
    with pytest.raises(UsageError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "absent.h5")


@pytest.mark.parametrize("name", ["tiny", "delg_lite", "delg_r50_gldv2", "delg_r101_gldv2"])
def test_shipped_configurations_are_valid(name: str) -> None:
    settings = parse(TrainSettings, read_yaml(TINY.with_name(f"{name}.yaml")), name)
    assert settings.loop.steps


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"losses": {"instance": {"weight": 1}}}, "augment.views: 2"),
        ({"losses": {"attention": {"weight": 1}}}, "attention: learned"),
        ({"loop": {"batch": 7, "accumulate": 2}}, "multiple of loop.accumulate"),
        ({"optimizer": {}}, "optimizer: Extra inputs"),
    ],
)
def test_settings_that_make_no_sense_say_so(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(TrainSettings, {**read_yaml(TINY), **change}, "test")


MIRRORED = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
if sys.argv[1] == "2":
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from delg.settings import parse, read_yaml
from delg.training.settings import TrainSettings
from delg.training.run import train
values = read_yaml(sys.argv[2])
values["loop"]["mirrored"] = sys.argv[1] == "2"
values["out"] = sys.argv[3]
train(parse(TrainSettings, values, "mirrored"))
"""


def test_two_replicas_do_what_one_does(photos: Path, tmp_path: Path) -> None:
    values = tiny(photos, tmp_path, steps=3, batch=4, validate_every=9, checkpoint_every=9)
    values["augment"]["side"] = 64
    values["trainable"] = {"backbone_from": "block15"}
    values["optimiser"] = {"kind": "sgd", "learning_rate": 0.1}
    path = tmp_path / "mirrored.yaml"
    path.write_text(yaml.safe_dump(values))
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", MIRRORED, count, str(path), str(tmp_path / count)],
            stderr=subprocess.PIPE,
        )
        for count in "12"
    ]
    for run in runs:
        errors = run.communicate()[1]
        assert run.returncode == 0, errors.decode()[-3000:]
    one, two = (checkpoint.load(tmp_path / count / "checkpoints" / "last.h5") for count in "12")
    for name, value in one.arrays.items():
        np.testing.assert_allclose(value, two.arrays[name], rtol=1e-3, atol=1e-4, err_msg=name)
