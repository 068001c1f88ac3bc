from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow as tf
import yaml
from commands import run as run
from hypothesis import given
from hypothesis import strategies as st

from delg.errors import DelgError, UsageError
from delg.settings import parse, read_yaml
from delg.training import distillation, loop
from delg.training.distillation import TargetBank, fit_rotation
from delg.training.items import Item
from delg.training.sample_dataset import write_samples
from delg.training.settings import TrainSettings
from delg.training.targets import Targets, read_targets, write_targets
from delg.zoo.registry import find_model

pytestmark = pytest.mark.training

TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def items(*names: str) -> list[Item]:
    return [Item(name, Path(name), None) for name in names]


@given(st.integers(0, 1000), st.sampled_from([(6, 4), (4, 4), (3, 5)]))
def test_a_rotation_is_found_again(seed: int, widths: tuple[int, int]) -> None:
    """Descriptors that are rotated targets: aligned, every target is its descriptor."""
    rng = np.random.default_rng(seed)
    wide, narrow = max(widths), min(widths)
    axes = np.linalg.qr(rng.normal(size=(wide, narrow)))[0]
    small = unit(rng, 20, narrow)
    if widths[0] >= widths[1]:
        targets, descriptors = small @ axes.T, small
    else:
        targets, descriptors = small, small @ axes.T
    rotation = fit_rotation(targets.astype(np.float32), descriptors.astype(np.float32))
    assert rotation.shape == widths
    np.testing.assert_allclose(targets @ rotation, descriptors, atol=1e-4)
    shorter = rotation.T @ rotation if widths[0] >= widths[1] else rotation @ rotation.T
    np.testing.assert_allclose(shorter, np.eye(narrow), atol=1e-5)


def test_wider_targets_keep_how_they_lie_to_each_other() -> None:
    """What is new to the student makes most of the targets, and is kept."""
    rng = np.random.default_rng(0)
    new, known = 10 * rng.normal(size=(50, 4)), rng.normal(size=(50, 4))
    targets = np.concatenate([new, known], axis=1).astype(np.float32)
    rotated = targets @ fit_rotation(targets, known.astype(np.float32))
    np.testing.assert_allclose(
        rotated @ rotated.T, new @ new.T, atol=0.1 * np.abs(new @ new.T).max()
    )


def test_losses_are_nothing_at_the_targets_and_ignore_photos_without_one() -> None:
    rng = np.random.default_rng(0)
    bank, other = unit(rng, 9, 8), unit(rng, 4, 8)
    known = tf.constant([True, True, False, True])
    right = np.concatenate([bank[:2], other[2:3], bank[3:4]])
    for descriptors, is_zero in ((right, True), (other, False)):
        values = (
            distillation.regression(descriptors, bank[:4], known),
            distillation.relational(descriptors, bank[:4], known, bank, 0.1),
        )
        for value in map(float, values):
            assert (abs(value) < 1e-5) == is_zero and value > -1e-5
    nothing = tf.zeros(4, tf.bool)
    assert float(distillation.regression(other, bank[:4], nothing)) == 0
    assert float(distillation.relational(other, bank[:4], nothing, bank, 0.1)) == 0


def test_the_relational_loss_by_hand() -> None:
    bank = np.eye(2, dtype=np.float32)
    student = np.array([[0.6, 0.8]], np.float32)
    wanted = np.exp([2.0, 0.0]) / np.exp([2.0, 0.0]).sum()
    given = np.exp([1.2, 1.6]) / np.exp([1.2, 1.6]).sum()
    expected = (wanted * np.log(wanted / given)).sum()
    value = distillation.relational(student, bank[:1], tf.constant([True]), bank, 0.5)
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_a_bank_knows_whose_target_is_whose() -> None:
    rng = np.random.default_rng(1)
    targets = Targets(["c", "a", "of another run"], unit(rng, 3, 4), ["t 1"])
    bank = TargetBank(targets, items("a", "b", "c"))
    rows, known = bank.targets_of(tf.constant([2, 1, 0, 2]))
    assert known.numpy().tolist() == [True, False, True, True]
    np.testing.assert_array_equal(rows.numpy()[[0, 2, 3]], targets.descriptors[[0, 1, 0]])
    assert bank.descriptors.shape == (2, 4)
    with pytest.raises(UsageError, match=r"no photo to train on has a target"):
        TargetBank(targets, items("x"))


def test_targets_come_back_and_damage_is_named(tmp_path: Path) -> None:
    file = tmp_path / "targets.h5"
    targets = Targets(["a/é.jpg", "b.jpg"], unit(np.random.default_rng(2), 2, 4), ["m 0123"])
    write_targets(file, targets)
    read = read_targets(file)
    assert (read.ids, read.teachers) == (targets.ids, targets.teachers)
    np.testing.assert_allclose(read.descriptors, targets.descriptors, atol=1e-3)
    with pytest.raises(UsageError, match=r"delg data targets makes it"):
        read_targets(tmp_path / "none.h5")
    with h5py.File(file, "a") as opened:
        del opened["ids"]
        opened["ids"] = ["one"]
    with pytest.raises(DelgError, match=r"targets\.h5: not a readable file of targets"):
        read_targets(file)
    file.write_bytes(b"no HDF5")
    with pytest.raises(DelgError, match=r"targets\.h5: not a readable file of targets"):
        read_targets(file)


def test_settings_need_targets() -> None:
    values = read_yaml(TINY)
    values["losses"]["distillation"] = {"weight": 1.0}
    with pytest.raises(UsageError, match=r"losses\.distillation needs data\.targets"):
        parse(TrainSettings, values, "test")
    values = read_yaml(TINY)
    values["data"]["targets_only"] = True
    with pytest.raises(UsageError, match=r"targets_only needs data\.targets"):
        parse(TrainSettings, values, "test")


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """The lite model, at one small scale."""
    folder, lite = tmp_path / "teacher", find_model("delg-lite")
    folder.mkdir()
    values = read_yaml(lite.weights.parent / "settings.yaml")
    values["extraction"] = {"longest_side": 96, "scales": [1.0], "global_scales": [1.0]}
    (folder / "settings.yaml").write_text(yaml.safe_dump(values))
    for file in (lite.weights, lite.network, lite.aggregate):
        (folder / file.name).symlink_to(file)
    return folder


def settings_of(folder: Path, **data: Any) -> dict[str, Any]:
    values = read_yaml(TINY)
    values["out"] = str(folder / "run")
    values["data"] = {"folders": [str(folder / "photos")], "trim_borders": False, **data}
    values["losses"] = {
        "arcface": {"weight": 0},
        "attention": {"weight": 0},
        "reconstruction": {"weight": 0},
        "distillation": {"weight": 1.0, "relational_weight": 1.0},
    }
    values["augment"] = {"side": 96, "area": [1.0, 1.0], "aspect": [1.0, 1.0]}
    values["optimiser"] = {"kind": "adamw", "learning_rate": 0.001, "decay": "constant"}
    values["schedule"].update(steps=8, batch=23, balanced=0, checkpoint_every=8, log_every=1)
    values["schedule"]["validate_every"] = 8
    return values


@pytest.mark.slow
def test_a_student_comes_closer_to_its_teacher(
    run: Callable[..., Any], teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands as typed: a teacher's targets, training on them, resumed with no others."""
    write_samples(tmp_path / "photos", 2)
    config = tmp_path / "run.yaml"
    targets = str(tmp_path / "targets.h5")
    config.write_text(yaml.safe_dump(settings_of(tmp_path, targets=targets, targets_only=True)))
    teachers = ("--teacher", teacher, "--teacher", teacher)
    done = run("data", "targets", "--config", config, "--out", targets, *teachers)
    assert (done.returncode, done.stdout[:16]) == (0, "targets of 24 ph")
    made = read_targets(Path(targets))
    assert made.descriptors.shape[1] == 2 * 1536
    assert [name.split()[0] for name in made.teachers] == ["delg-lite"] * 2
    # Another teacher, which the student has yet to agree with; it has not seen one of the photos.
    other = Targets(made.ids[1:], unit(np.random.default_rng(3), 23, 64), ["other 0"])
    write_targets(Path(targets), other)
    monkeypatch.setattr(loop, "export_trained_model", lambda *_: tmp_path)
    assert run("train", "--config", config).returncode == 0
    log = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    losses = [line["distillation"] for line in log if line["kind"] == "train"]
    assert len(losses) == 8
    assert losses[-1] < 0.7 * losses[0]
    write_targets(Path(targets), made)
    done = run("train", "--config", config, "--resume")
    assert done.returncode == 1 and "data.targets" in done.stderr
