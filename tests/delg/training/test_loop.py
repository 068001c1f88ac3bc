from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from delg.errors import DelgError, UsageError
from delg.network.delg_model import Delg
from delg.network.weights import save_weights
from delg.settings import ModelSettings, parse, read_yaml
from delg.training import checkpoint, finalize, loop
from delg.training.initial_weights import load_initial_weights
from delg.training.loop import check_same_settings, train
from delg.training.sample_dataset import NAMES, write_samples
from delg.training.settings import TrainSettings, read_train_settings
from delg.zoo.model_card import read_card
from delg.zoo.registry import load_model

pytestmark = pytest.mark.training

Start = Callable[..., subprocess.Popen[bytes]]
TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "photos"
    assert write_samples(folder, 16) == 16 * len(NAMES)
    return folder


@contextmanager
def without_network_file() -> Iterator[None]:
    """Inside, a model's ``network.onnx`` is not made, which takes longer than a small run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finalize, "write_network", lambda *_: b"")
        yield


def tiny(photos: Path, out: Path, **schedule: Any) -> dict[str, Any]:
    values = read_yaml(TINY)
    values["out"], values["data"]["folders"] = str(out), [str(photos)]
    values["schedule"].update(schedule)
    return values


def shortened(values: dict[str, Any], weights: Path) -> dict[str, Any]:
    """The same with a backbone of few blocks, which is quicker to trace."""
    return {**values, "model": {**values["model"], "backbone": "lite_short"}, "start": str(weights)}


def log(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


def final_accuracy(out: Path) -> list[float]:
    return [line["accuracy"] for line in log(out, "validation")]


@pytest.mark.slow
def test_it_learns_and_with_shuffled_labels_it_does_not(photos: Path, tmp_path: Path) -> None:
    shuffled = tmp_path / "shuffled"
    paths = sorted(photos.glob("*/*.jpg"))
    order = np.random.default_rng(0).permutation(len(paths))
    for place, number in enumerate(order):
        target = shuffled / paths[place].parent.name / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(paths[number].read_bytes())
    accuracy = {}
    for name, source, steps in (("real", photos, 45), ("shuffled", shuffled, 20)):
        values = tiny(source, tmp_path / name, validate_every=60, steps=steps)
        with pytest.MonkeyPatch.context() as patch:
            if name == "shuffled":
                patch.setattr(loop, "export_trained_model", lambda *_: None)
            train(parse(TrainSettings, values, "tiny"))
        accuracy[name] = final_accuracy(tmp_path / name)
    assert accuracy["real"][0] < 0.3
    assert accuracy["real"][-1] > 0.85
    assert accuracy["shuffled"][-1] < 0.3
    record = json.loads((tmp_path / "real" / "train.json").read_text())
    assert record["steps"] == 45
    assert record["metrics_last_step"]["accuracy"] == accuracy["real"][-1]
    # Nothing was done to the weights but to round them.
    assert record["metrics"]["accuracy"] == pytest.approx(accuracy["real"][-1], abs=0.05)
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


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Delg]
) -> dict[str, Any]:
    """Settings of a run of two steps that has ended; among its photos are two broken ones."""
    folder = tmp_path_factory.mktemp("finished")
    write_samples(folder / "photos", 3)
    for label in ("cat", "rocket"):
        (folder / "photos" / label / "broken.jpg").write_bytes(b"no photo")
    values = tiny(folder / "photos", folder / "run", steps=2, batch=32, balanced=0, threads=1)
    values = shortened(values, folder / "start.h5")
    values["data"].update(held_out=["brick", "c*", "g*", "page"], validation_share=0.4)
    values["augment"]["side"] = 32
    # So narrow that few photos suffice to whiten it.
    values["model"].update(global_head={"dim": 4}, local_head={"dim": 8, "attention_hidden": 8})
    save_weights(make_model(**values["model"]), folder / "start.h5")
    values["losses"] = {"reconstruction": {"weight": 0}}
    values["optimiser"] = {"kind": "sgd", "learning_rate": 1}
    with without_network_file():
        train(parse(TrainSettings, values, "test"))
    return values


def results(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What train.json and the card of a run say."""
    record = json.loads((Path(values["out"]) / "train.json").read_text())
    card = read_card(Path(values["out"]) / "model")
    assert card is not None
    return record, card


def test_photos_that_turn_out_broken_are_counted_and_named(finished: dict[str, Any]) -> None:
    failures = results(finished)[0]["failures"]
    assert {one["path"] for one in failures} == {
        "photos/cat/broken.jpg",
        "photos/rocket/broken.jpg",
    }
    assert all(one["reason"] for one in failures)


def test_the_attention_is_validated_too(finished: dict[str, Any]) -> None:
    for line in log(Path(finished["out"]), "validation"):
        assert 0 <= line["attention_accuracy"] <= 1
    record, card = results(finished)
    assert record["metrics"].keys() == record["metrics_last_step"].keys()
    assert card["validation"]["attention_accuracy"] == pytest.approx(
        record["metrics"]["attention_accuracy"], abs=1e-4
    )


@pytest.mark.slow
def test_a_run_that_has_ended_is_finished_again_otherwise_without_training(
    finished: dict[str, Any],
) -> None:
    out = Path(finished["out"])
    last = out / "checkpoints" / "last.h5"
    before, steps = last.stat().st_mtime_ns, log(out, "train")
    first, end = log(out, "validation")
    assert end["held_out_map"] != first["held_out_map"]
    # All the way back to where it started, the card has the starting model's numbers.
    untrained = {**finished, "finalize": {"interpolate": 0}}
    with without_network_file():
        train(parse(TrainSettings, untrained, "test"), resume=True)
    record, card = results(finished)
    assert record["metrics"]["held_out_map"] == pytest.approx(first["held_out_map"], abs=1e-6)
    assert card["validation"] == {
        name: pytest.approx(first["held_out_map"], abs=1e-4)
        for name in ("held_out_map", "validation")
    }
    assert card["validation_last_step"]["held_out_map"] == pytest.approx(
        end["held_out_map"], abs=1e-4
    )
    assert card["interpolate"] == 0
    # Whitening learnt again makes other numbers, and the classifier no longer fits.
    after = {"whiten_photos": 20, "whiten_dim": 6, "whiten_shrinkage": 0.9}
    train(parse(TrainSettings, {**finished, "finalize": after}, "test"), resume=True)
    record, card = results(finished)
    assert record["metrics"]["held_out_map"] != pytest.approx(end["held_out_map"], abs=1e-6)
    assert "accuracy" not in record["metrics"]
    assert "attention_accuracy" in record["metrics"]
    assert card["whiten_photos"] == 20
    assert load_model(out / "model").global_dim == 6
    assert last.stat().st_mtime_ns == before
    assert log(out, "train") == steps


@pytest.mark.parametrize(
    "change", [{"seed": 5}, {"optimiser": {"learning_rate": 0.2}}, {"schedule": {"steps": 9}}]
)
def test_what_decides_how_it_learns_must_not_change_half_way(
    finished: dict[str, Any], change: dict[str, Any]
) -> None:
    last = Path(finished["out"]) / "checkpoints" / "last.h5"
    facts = {"settings": parse(TrainSettings, finished, "test").model_dump(mode="json")}
    check_same_settings(parse(TrainSettings, finished, "test"), facts, last)
    with pytest.raises(DelgError, match=rf"last\.h5 was made with other settings of {min(change)}"):
        check_same_settings(parse(TrainSettings, {**finished, **change}, "test"), facts, last)


def test_other_weights_to_start_from_are_refused_and_another_place_is_not(
    finished: dict[str, Any], tmp_path: Path
) -> None:
    start = Path(finished["start"])
    moved = start.rename(tmp_path / "moved.h5")
    model = Delg(parse(ModelSettings, finished["model"], "test"))
    load_initial_weights(model, str(moved))
    model.whitening.projection.bias.assign(np.ones(4))
    save_weights(model, start)
    with pytest.raises(DelgError, match=r"start\.h5 holds other weights than when .*last\.h5 was"):
        train(parse(TrainSettings, finished, "test"), resume=True)
    facts = {"settings": parse(TrainSettings, finished, "test").model_dump(mode="json")}
    elsewhere = {**finished, "start": str(moved)}
    check_same_settings(parse(TrainSettings, elsewhere, "test"), facts, Path("last.h5"))
    moved.rename(start)


def test_what_an_earlier_version_recorded_is_compared_under_present_names(
    finished: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    settings = parse(TrainSettings, finished, "test")
    recorded = settings.model_dump(mode="json")
    del recorded["losses"]["descriptor"], recorded["model"]["local_only"]
    for section, now, then in (
        (recorded["losses"]["infonce"], "cross_batch_memory", "memory"),
        (recorded, "schedule", "loop"),
        (recorded, "finalize", "after"),
        (recorded["losses"], "infonce", "instance"),
        (recorded["losses"], "correspondence", "warps"),
        (recorded["optimiser"], "ema_decay", "average"),
        (recorded["data"], "category_labels", "kinds"),
    ):
        section[then] = section.pop(now)
    check_same_settings(settings, {"settings": recorded}, Path("last.h5"))
    assert not caplog.records
    recorded["loop"]["batch"] = 1
    with pytest.raises(DelgError, match=r"last\.h5 was made with other settings of schedule"):
        check_same_settings(settings, {"settings": recorded}, Path("last.h5"))


def test_former_names_of_settings_are_read_wherever_they_stand(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "base.yaml").write_text(f"extends: {TINY}\nloop: {{batch: 8}}\n")
    (tmp_path / "a.yaml").write_text(
        "extends: base.yaml\nschedule: {steps: 7}\nstages: {one: {optimiser: {average: 0.5}}}\n"
    )
    [stage] = read_train_settings(tmp_path / "a.yaml").in_stages()
    assert (stage.schedule.steps, stage.schedule.batch) == (7, 8)
    assert stage.optimiser.ema_decay == 0.5
    assert {record.getMessage() for record in caplog.records} == {
        f"{tmp_path / 'base.yaml'}: loop is deprecated, write schedule",
        "stages.one: optimiser.average is deprecated, write optimiser.ema_decay",
    }
    (tmp_path / "a.yaml").write_text("extends: base.yaml\nschedule: {steps: 7}\nloop: {}\n")
    with pytest.raises(UsageError, match=r"a\.yaml: loop is the former name of schedule"):
        read_train_settings(tmp_path / "a.yaml")


def settings_file(photos: Path, out: Path, weights: Path) -> Path:
    """Everything that has a state: averages, a memory, both heads, trained norms, two views."""
    values = tiny(
        photos, out, steps=6, batch=4, balanced=0.5, checkpoint_every=2, validate_every=6,
        log_every=1,
    )  # fmt: skip
    values = shortened(values, weights)
    values["data"]["validation_share"] = 0
    values["augment"] = {"side": 64, "views": 2, "rotation": 10, "on_background": 0.3}
    values["model"]["local_head"] = {"dim": 16, "attention_hidden": 8}
    values["losses"] = {
        "infonce": {"weight": 1, "cross_batch_memory": 12},
        "correspondence": {"descriptor_weight": 1, "attention_weight": 1},
    }
    values["trainable"] = {"backbone_from": "block7", "batch_norm": "trained"}
    values["optimiser"]["ema_decay"] = 0.9
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.slow
def test_killed_and_resumed_it_ends_equal_to_a_run_in_one_go(
    photos: Path, tmp_path: Path, short_weights: Path, start_training: Start
) -> None:
    outs = (tmp_path / "whole", tmp_path / "cut")
    whole, cut = (settings_file(photos, out, short_weights) for out in outs)
    # One thread: sums in another order would differ in the last bits.
    one_thread = {"TF_NUM_INTRAOP_THREADS": "1", "TF_DETERMINISTIC_OPS": "1"}
    process = start_training("--kill-before", "cut:4", cut, **one_thread)
    errors = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, errors.decode()
    # The third step is lost: the last checkpoint is from before it.
    assert checkpoint.load(tmp_path / "cut" / "checkpoints" / "last.h5").step == 2
    process = start_training(f"{cut}:resume", whole, **one_thread)
    errors = process.communicate()[1]
    assert process.returncode == 0, errors.decode()
    one, two = (checkpoint.load(out / "checkpoints" / "last.h5") for out in outs)
    assert one.step == two.step == 6
    assert one.arrays.keys() == two.arrays.keys()
    for name, value in one.arrays.items():
        np.testing.assert_allclose(value, two.arrays[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_checkpoints_are_whole_or_damaged_by_name(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "last.h5"
    arrays = {"weights/a": np.arange(3.0), "memory/next": np.zeros((), np.int64)}
    checkpoint.save(path, checkpoint.Checkpoint(5, arrays, {"best": None}))
    found = checkpoint.load(path)
    assert (found.step, found.metadata) == (5, {"best": None})
    assert {k: v.tolist() for k, v in found.arrays.items()} == {
        k: v.tolist() for k, v in arrays.items()
    }
    assert [p.name for p in path.parent.iterdir()] == ["last.h5"]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(Exception, match=r"last\.h5: a damaged checkpoint"):
        checkpoint.load(path)
    with pytest.raises(UsageError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "absent.h5")


@pytest.mark.parametrize(
    "name",
    [
        "tiny",
        "delg_lite",
        "delg_lite_clean",
        "delg_lite_no_warps",
        "delg_r50_gldv2",
        "delg_r101_gldv2",
        "delf_r50_gldv2",
    ],
)
def test_shipped_configurations_are_valid(name: str) -> None:
    assert read_train_settings(TINY.with_name(f"{name}.yaml")).schedule.steps


def test_variants_differ_from_the_recipe_where_they_say() -> None:
    recipe, clean, bare = (
        read_train_settings(TINY.with_name(f"{name}.yaml"))
        for name in ("delg_lite", "delg_lite_clean", "delg_lite_no_warps")
    )
    assert clean.losses == recipe.losses
    assert not set(clean.data.folders + clean.data.unlabelled) & {Path("photos/landmarks")}
    assert bare.data == recipe.data
    assert (
        bare.losses.correspondence.descriptor_weight
        == bare.losses.correspondence.attention_weight
        == 0
    )
    assert bare.losses.infonce == recipe.losses.infonce


def test_a_file_extends_another_and_not_itself(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"extends: {TINY}\nschedule: {{steps: 7}}\n")
    settings = read_train_settings(tmp_path / "a.yaml")
    assert (settings.schedule.steps, settings.schedule.batch) == (7, 24)
    (tmp_path / "b.yaml").write_text("extends: b.yaml\n")
    with pytest.raises(UsageError, match=r"b\.yaml: extends itself"):
        read_train_settings(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").write_text("extends: gone.yaml\n")
    with pytest.raises(UsageError, match=r"gone\.yaml: cannot be read"):
        read_train_settings(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"losses": {"infonce": {"weight": 1}}}, "augment.views: 2"),
        ({"losses": {"attention": {"weight": 1}}}, "attention: learned"),
        ({"schedule": {"batch": 7, "accumulate": 2}}, "multiple of schedule.accumulate"),
        ({"optimizer": {}}, "optimizer: Extra inputs"),
    ],
)
def test_settings_that_make_no_sense_say_so(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(TrainSettings, {**read_yaml(TINY), **change}, "test")


@pytest.mark.slow
def test_two_replicas_do_what_one_does(
    photos: Path, tmp_path: Path, short_weights: Path, start_training: Start
) -> None:
    values = tiny(photos, tmp_path, steps=3, batch=4, validate_every=9, checkpoint_every=9)
    values = shortened(values, short_weights)
    values["data"]["validation_share"] = 0
    values["augment"]["side"] = 64
    values["trainable"] = {"backbone_from": "block7"}
    values["optimiser"] = {"kind": "sgd", "learning_rate": 0.1}
    values["schedule"]["mirrored"] = True
    path = tmp_path / "mirrored.yaml"
    path.write_text(yaml.safe_dump({**values, "out": str(tmp_path / "2")}))
    process = start_training("--devices", 2, path)
    values["schedule"]["mirrored"] = False
    with without_network_file():
        train(parse(TrainSettings, {**values, "out": str(tmp_path / "1")}, "single"))
    errors = process.communicate()[1]
    assert process.returncode == 0, errors.decode()[-3000:]
    one, two = (checkpoint.load(tmp_path / count / "checkpoints" / "last.h5") for count in "12")
    for name, value in one.arrays.items():
        np.testing.assert_allclose(value, two.arrays[name], rtol=1e-3, atol=1e-4, err_msg=name)
