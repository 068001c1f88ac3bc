from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from short_backbones import look_trained

from delg.errors import DelgError, UsageError
from delg.network.delg_model import Delg
from delg.network.weights import named_variables
from delg.settings import parse
from delg.training import losses
from delg.training.batches import Batch
from delg.training.checkpoint import Checkpoint
from delg.training.optimizer import Optimiser, rate_at
from delg.training.settings import OptimiserSettings, TrainableSettings, TrainSettings
from delg.training.trainer import NotFiniteError, Trainer
from delg.training.training_model import TrainingModel, set_trainable

pytestmark = pytest.mark.training

SMALL: dict[str, Any] = {
    "out": "run",
    "model": {
        "name": "small",
        "backbone": "lite_short",
        "global_head": {"dim": 16, "gem_p_trainable": True},
        "local_head": {"dim": 8, "attention_hidden": 12, "decoder_activation": "linear"},
    },
    "data": {},
    "augment": {"side": 64, "views": 2},
    "losses": {
        "infonce": {"weight": 1.0, "cross_batch_memory": 12},
        "correspondence": {"descriptor_weight": 1.0, "attention_weight": 1.0},
    },
    # Fewer blocks, so that a step is traced in less time; who asks about all of them says so.
    "trainable": {"backbone_from": "block6"},
    "optimiser": {"kind": "adamw", "learning_rate": 0.01, "ema_decay": 0.5},
    "schedule": {"steps": 4, "batch": 4},
}


def settings_with(**changes: Any) -> TrainSettings:
    return parse(TrainSettings, {**SMALL, **changes}, "test")


def batch_of(step: int = 0, photos: int = 4, side: int = 64) -> Batch:
    rng = np.random.default_rng(step)
    return Batch(
        step=step,
        images=rng.integers(0, 256, (2 * photos, side, side, 3), np.uint8),
        labels=np.array([0, 1, 2, -1] * (photos // 4), np.int32),
        photos=np.arange(photos, dtype=np.int32) + step * photos,
        homographies=np.tile(np.eye(3, dtype=np.float32), (2 * photos, 1, 1)),
        sizes=np.full((photos, 2), side, np.float32),
    )


def make(settings: TrainSettings) -> Trainer:
    keras.utils.set_random_seed(0)
    model = Delg(settings.model)
    look_trained(model, 0)
    return Trainer(TrainingModel(model, settings, 3), settings, tf.distribute.get_strategy())


@pytest.fixture(scope="module")
def training_model() -> TrainingModel:
    """One for tests of what learns and how; they may change its values."""
    return make(settings_with()).training_model


@pytest.fixture(scope="module")
def trained() -> tuple[Trainer, list[np.ndarray]]:
    """After three steps, and the class centres after each of them."""
    trainer = make(settings_with())
    after_step = []
    for step in range(3):
        trainer.train(batch_of(step))
        after_step.append(np.array(trainer.training_model.centres))
    return trainer, after_step


def tensors(batch: Batch) -> dict[str, tf.Tensor]:
    return {k: tf.constant(v) for k, v in vars(batch).items() if k != "step"}


def gradients(trainer: Trainer, every: bool = False) -> dict[str, bool]:
    """Name -> whether a gradient other than zero reaches that variable, of those that learn or of
    ``every`` one."""
    backbone, heads = trainer.training_model.trainable()
    named = trainer.training_model.variables() if every else backbone + heads
    raw = [variable.value for _, variable in named]
    with tf.GradientTape() as tape:
        tape.watch(raw)
        loss, _, _ = trainer.training_model.loss(tensors(batch_of()), trainer.memory.tensors())
    found = tape.gradient(loss, raw)
    return {
        name: one is not None and bool(np.abs(np.array(one)).max() > 0)
        for (name, _), one in zip(named, found, strict=True)
    }


def test_local_losses_leave_the_backbone_untouched() -> None:
    local = settings_with(
        losses={
            "arcface": {"weight": 0},
            "correspondence": {"descriptor_weight": 1.0, "attention_weight": 1.0},
        },
        trainable={},
    )
    trainer = make(local)
    reached = gradients(trainer, every=True)
    heads = ("autoencoder/", "attention/", "attention_classifier/")
    learning = {name for part in trainer.training_model.trainable() for name, _ in part}
    assert {name for name, hit in reached.items() if hit} == learning
    assert {"attention/score/kernel", "attention_classifier/kernel"} <= learning
    assert reached["autoencoder/encoder/kernel"]
    assert reached["autoencoder/decoder/kernel"]
    assert not any(hit for name, hit in reached.items() if not name.startswith(heads))


def test_the_global_losses_reach_the_whole_backbone_and_no_local_head() -> None:
    whole = settings_with(
        losses={
            "attention": {"weight": 0},
            "reconstruction": {"weight": 0},
            "infonce": {"weight": 1.0, "cross_batch_memory": 12},
        },
        trainable={},
    )
    reached = gradients(make(whole))
    assert all(reached.values()), [name for name, hit in reached.items() if not hit]
    assert {"gem/p", "arcface/centres", "stem_conv/kernel", "head_conv/kernel"} <= set(reached)
    assert not any(name.startswith(("autoencoder", "attention")) for name in reached)


def test_the_plain_mean_feature_teaches_the_backbone_and_the_attention_it_does_not() -> None:
    none = {"arcface": {"weight": 0}, "reconstruction": {"weight": 0}}
    asked = {**none, "attention": {"weight": 0}, "descriptor": {"weight": 1}}
    first = settings_with(losses=asked, trainable={})
    reached = gradients(make(first), every=True)
    assert reached["stem_conv/kernel"]
    assert reached["block4_project_conv/kernel"]
    assert reached["mean_classifier/kernel"]
    assert not any(hit for name, hit in reached.items() if name.startswith("attention"))
    second = gradients(make(settings_with(losses=none, trainable={})), every=True)
    assert {name.split("/")[0] for name, hit in second.items() if hit} == {
        "attention",
        "attention_classifier",
    }


def test_only_the_blocks_of_the_settings_learn(training_model: TrainingModel) -> None:
    model = training_model.model
    set_trainable(model, TrainableSettings(backbone_from="block5"))
    learning = {name.split("/")[0] for name, v in named_variables(model) if v.trainable}
    assert {"block5_expand_conv", "block7_project_conv", "head_conv"} <= learning
    assert not any(name.startswith("block1_") or name.endswith("_bn") for name in learning)
    assert "block4_project_conv" not in learning
    set_trainable(model, TrainableSettings(backbone_from="block5", batch_norm="trained"))
    assert any(name.endswith("_bn/gamma") for name, v in named_variables(model) if v.trainable)
    set_trainable(model, TrainableSettings(backbone_from="none"))
    learning = {name.split("/")[0] for name, v in named_variables(model) if v.trainable}
    assert learning == {"gem", "whitening", "autoencoder", "attention"}
    with pytest.raises(UsageError, match="no block 'conv9'"):
        set_trainable(model, TrainableSettings(backbone_from="conv9"))
    set_trainable(model, training_model.settings.trainable)


def test_attention_is_validated_on_the_map_it_is_trained_on() -> None:
    """The published code trained it on one map and validated it on another."""
    trainer = make(settings_with(schedule={"steps": 4, "batch": 8}))
    model, batch = trainer.training_model.model, batch_of(photos=8)
    _, parts, _ = trainer.training_model.loss(tensors(batch), trainer.memory.tensors())
    maps = model.mid_level(batch.images)
    scores = model.attention(maps, training=True)[..., 0]
    kernel, bias = (np.array(part) for part in trainer.training_model.classifier or ())
    logits = losses.attended_feature(maps, scores) @ kernel + bias
    labels = tf.constant(np.tile(batch.labels, 2))
    np.testing.assert_allclose(parts["attention"], losses.cross_entropy(logits, labels), rtol=1e-4)
    rebuilt = model.autoencoder(maps)[1]
    np.testing.assert_allclose(
        parts["reconstruction"], losses.reconstruction(maps, rebuilt), rtol=1e-4
    )


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_weight_decay_takes_effect(kind: str, training_model: TrainingModel) -> None:
    """The published code declared regularisers that never entered the loss."""
    optimiser = Optimiser(
        training_model,
        OptimiserSettings(kind=kind, learning_rate=0.1, weight_decay=0.1),  # type: ignore[arg-type]
    )
    variables = dict(named_variables(training_model.model))
    kernel, bias = variables["whitening/projection/kernel"], variables["whitening/projection/bias"]
    before = np.array(kernel.value), np.array(bias.value)
    optimiser.apply([tf.zeros_like(v.value) for v in optimiser.variables])
    np.testing.assert_allclose(kernel.value, before[0] * 0.99, rtol=1e-4)
    np.testing.assert_array_equal(bias.value, before[1])


def test_clipping_is_by_the_norm_of_all_gradients(training_model: TrainingModel) -> None:
    spec = OptimiserSettings(learning_rate=1.0, momentum=0, clip_norm=2.0, backbone_factor=0.5)
    optimiser = Optimiser(training_model, spec)
    optimiser.set_rate(1.0)
    before = [np.array(v.value) for v in optimiser.variables]
    norm = optimiser.apply([tf.ones_like(v.value) for v in optimiser.variables])
    count = sum(b.size for b in before)
    np.testing.assert_allclose(norm, np.sqrt(count), rtol=1e-4)
    moved = [b - np.array(v.value) for b, v in zip(before, optimiser.variables, strict=True)]
    backbone = len(training_model.trainable()[0])
    for number, change in enumerate(moved):
        expected = 2 / np.sqrt(count) * (0.5 if number < backbone else 1)
        np.testing.assert_allclose(change, expected, rtol=0.05, atol=1e-6)


@pytest.mark.parametrize("decay", ["linear", "cosine", "constant"])
def test_the_rate_warms_up_and_decays(decay: str) -> None:
    spec = OptimiserSettings(learning_rate=2.0, warmup_steps=10, decay=decay)  # type: ignore[arg-type]
    rates = [rate_at(step, 110, spec) for step in range(111)]
    np.testing.assert_allclose(rates[:10], np.linspace(0.2, 2, 10))
    assert rates[10] == 2
    np.testing.assert_allclose(rates[60], 2 if decay == "constant" else 1)
    np.testing.assert_allclose(rates[110], 2 if decay == "constant" else 0, atol=1e-12)


def test_gradients_added_up_equal_those_of_the_whole_batch() -> None:
    """Without batch statistics and contrast between photos, parts of a batch are the batch."""
    alone = {
        "arcface": {"weight": 1},
        "attention": {"weight": 0},
        "reconstruction": {"weight": 1},
    }
    results = []
    for parts in (1, 2):
        schedule = {"steps": 4, "batch": 8, "accumulate": parts}
        last_block = {"backbone_from": "block7"}
        trainer = make(settings_with(losses=alone, schedule=schedule, trainable=last_block))
        numbers = trainer.train(batch_of(photos=8))
        results.append((numbers["loss"], [np.array(v.value) for v in trainer.optimiser.variables]))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-4)
    spread = max(np.abs(a - b).mean() for a, b in zip(results[0][1], results[1][1], strict=True))
    assert spread < 1e-4


def test_the_moving_average_is_used_inside_and_the_weights_are_put_back_after(
    trained: tuple[Trainer, list[np.ndarray]],
) -> None:
    trainer, (first, second, third) = trained
    centres = trainer.training_model.centres
    with trainer.averaged():
        np.testing.assert_allclose(centres, first / 4 + second / 4 + third / 2, atol=1e-6)
    np.testing.assert_array_equal(centres, third)
    # Under these names earlier versions kept them, too.
    arrays = trainer.snapshot({}).arrays
    averages = [name for name in arrays if name.startswith("average/")]
    count = len(trainer.optimiser.variables)
    assert averages == [f"average/{number:05d}" for number in range(count)]
    # Iterations and rates of two optimisers, two moments of each variable.
    assert len([name for name in arrays if name.startswith("optimiser/")]) == 4 + 2 * count


def test_a_step_that_is_not_finite_stops_the_run_until_it_is_restored(
    trained: tuple[Trainer, list[np.ndarray]],
) -> None:
    trainer, _ = trained
    saved = trainer.snapshot({})
    kernel = trainer.training_model.model.whitening.projection.kernel
    kernel.assign(np.array(kernel) * np.nan)
    with pytest.raises(NotFiniteError, match=r"step 3: .*arcface"):
        trainer.train(batch_of(3))
    trainer.restore(saved, "last.h5")
    for name, array in trainer.snapshot({}).arrays.items():
        np.testing.assert_array_equal(array, saved.arrays[name], err_msg=name)


def test_restoring_needs_the_same_variables(trained: tuple[Trainer, list[np.ndarray]]) -> None:
    saved = trained[0].snapshot({})
    other = make(settings_with(optimiser={"kind": "sgd"}))
    before = [np.array(v.value) for v in other.optimiser.variables]
    with pytest.raises(DelgError, match="does not fit the settings"):
        other.restore(saved, "last.h5")
    after = [np.array(v.value) for v in other.optimiser.variables]
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_learns(precision: str) -> None:
    keras.mixed_precision.set_global_policy(precision)
    try:
        trainer = make(
            settings_with(
                schedule={"steps": 9, "batch": 4, "precision": precision},
                optimiser={"kind": "adamw", "learning_rate": 0.001},
                losses={"attention": {"weight": 0}, "reconstruction": {"weight": 0}},
                trainable={"backbone_from": "none"},
            )
        )
        # With float16, the loss scale first halves until gradients no longer overflow.
        values = [trainer.train(batch_of())["arcface"] for _ in range(7)]
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert values[-1] < 0.8 * values[0]
    assert trainer.training_model.model.whitening.projection.kernel.dtype == "float32"


def test_a_step_whose_scaled_gradients_overflow_is_skipped_and_halves_the_scale() -> None:
    trainer = make(
        settings_with(
            schedule={"steps": 9, "batch": 4, "precision": "mixed_float16"},
            losses={"attention": {"weight": 0}, "reconstruction": {"weight": 0}},
            trainable={"backbone_from": "none"},
        )
    )
    before = trainer.snapshot({})
    assert before.arrays["scaling/scale"] == 2.0**15
    too_large = {**before.arrays, "scaling/scale": np.float32(3e38)}
    trainer.restore(Checkpoint(0, too_large, {}), "last.h5")
    trainer.train(batch_of())
    after = trainer.snapshot({})
    assert after.step == 1
    assert after.arrays["scaling/scale"] == np.float32(1.5e38)
    # The second value of the optimiser is the learning rate, which each step sets.
    for name in before.arrays.keys() - {"scaling/scale", "optimiser/00001"}:
        np.testing.assert_array_equal(after.arrays[name], before.arrays[name], err_msg=name)
