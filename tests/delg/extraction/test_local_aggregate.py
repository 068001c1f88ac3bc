"""Local descriptors aggregated as a part of the global one: by hand, and as the model runs it."""

import dataclasses
import shutil

import numpy as np
import pytest
import yaml

from delg import load_model
from delg.errors import ModelError
from delg.extraction.descriptor_attention import DescriptorAttention
from delg.extraction.local_aggregate import Classes, LocalAggregate, aggregate
from delg.settings import AggregateSettings, ModelSettings
from delg.zoo.registry import find_model

WORDS = np.array([[0, 0], [10, 0]], np.float32)
ROOT = np.sqrt(0.5)


def test_each_words_residuals_have_the_same_length():
    # Word 0: (3, 0) + (0, 4) = (3, 4), word 1: (11, 2) − (10, 0) = (1, 2); each over √2.
    points = np.array([[11, 2], [3, 0], [0, 4]], np.float32)
    expected = ROOT * np.array([0.6, 0.8, 1 / np.sqrt(5), 2 / np.sqrt(5)])
    np.testing.assert_allclose(aggregate(points, WORDS), expected, rtol=1e-6)
    # Neither their order nor how often all of them occur tells.
    again = np.concatenate([points[::-1]] * 3)
    np.testing.assert_allclose(aggregate(again, WORDS), expected, rtol=1e-6)
    # A word that the photo lacks is zero.
    alone = aggregate(points[1:], WORDS)
    np.testing.assert_allclose(alone, [0.6, 0.8, 0, 0], rtol=1e-6)
    assert not aggregate(points[:0], WORDS).any()


ATTENTION = DescriptorAttention(
    np.array([[1, 0], [0, 1]], np.float32), np.array([-1, 0], np.float32), np.log([2, 1], dtype="f")
)


def test_descriptors_count_as_their_attention_says():
    # 2 to the power of x - 1 where that is positive, else 1.
    points = np.array([[11, 2], [3, 0], [0, 4]], np.float32)
    np.testing.assert_allclose(ATTENTION.weigh(points), [2**10, 4, 1], rtol=1e-5)
    # Word 0: 4 · (3, 0) + (0, 4) = (12, 4); the other word has one descriptor, whatever it weighs.
    expected = ROOT * np.array([3 / np.sqrt(10), 1 / np.sqrt(10), 1 / np.sqrt(5), 2 / np.sqrt(5)])
    np.testing.assert_allclose(aggregate(points, WORDS, ATTENTION), expected, rtol=1e-5)
    assert not aggregate(points[:0], WORDS, ATTENTION).any()
    # However far a descriptor lies, weights stay finite.
    assert np.isfinite(ATTENTION.weigh(points * 1e6)).all()


def learn(
    labels: bool, attention: DescriptorAttention | None = None
) -> tuple[LocalAggregate, np.ndarray, np.ndarray]:
    """From 60 things in two views, whose aggregates differ within a thing along one axis alone."""
    rng = np.random.default_rng(0)
    things = np.repeat(np.arange(60), 2)
    descriptors = rng.normal(size=(120, 5)).astype(np.float32)
    sums = np.repeat(rng.normal(size=(60, 4)), 2, axis=0).astype(np.float32)
    sums[:, 0] += rng.normal(0, 20, 120)
    known = things // 2 if labels else np.full(120, -1)
    classes = Classes(things, known)
    learnt = LocalAggregate.fit(WORDS, attention, descriptors, sums, classes, 4, "base")
    return learnt, descriptors, sums


@pytest.mark.parametrize("labels", [False, True])
def test_what_differs_between_views_of_a_photo_counts_less(labels):
    learnt, _, _ = learn(labels)
    assert learnt.kernel.shape == (4, 4) and learnt.joint_kernel.shape == (9, 9)
    # Within photos the variance of the first axis is 400 and of the others 0, on average 100; nine
    # tenths of that are added to a tenth of each: 130 and 90.
    weights = np.linalg.norm(learnt.kernel, axis=1)
    assert weights[0] / weights[1:].mean() < 0.9
    if not labels:
        np.testing.assert_allclose(weights[0] / weights[1:], np.sqrt(90 / 130), rtol=0.05)
    again, _, _ = learn(labels)
    for field in dataclasses.fields(learnt):
        np.testing.assert_array_equal(getattr(learnt, field.name), getattr(again, field.name))


def test_a_photo_without_local_features_has_a_descriptor():
    learnt, descriptors, _ = learn(True)
    empty = np.zeros((0, 2), np.float32)
    joint = learnt.join(3 * descriptors[0], empty)
    assert np.linalg.norm(joint) == pytest.approx(1)
    unit = descriptors[0] / np.linalg.norm(descriptors[0])
    expected = (np.r_[unit, 0, 0, 0, 0] - learnt.joint_mean) @ learnt.joint_kernel
    np.testing.assert_allclose(joint, expected / np.linalg.norm(expected), atol=1e-6)


@pytest.mark.parametrize("attention", [None, ATTENTION])
def test_what_was_learnt_is_read_again_and_checked(tmp_path, attention):
    learnt, descriptors, _ = learn(True, attention)
    hidden = 0 if attention is None else 2
    spec = AggregateSettings(words=2, adapted_dim=4, attention_hidden=hidden)
    path = tmp_path / "aggregate.h5"
    learnt.save(path)
    read = LocalAggregate.load(path, spec, (5, 2), "base")
    points = np.array([[11, 2], [3, 0]], np.float32)
    np.testing.assert_allclose(
        read.join(descriptors[0], points), learnt.join(descriptors[0], points), atol=5e-3
    )
    with pytest.raises(ModelError, match=r"learnt for weights base .*delg model aggregate"):
        LocalAggregate.load(path, spec, (5, 2), "other")
    other = spec.model_copy(update={"attention_hidden": 2 - hidden})
    for wrong, dims in ((spec, (6, 2)), (other, (5, 2))):
        with pytest.raises(ModelError, match="does not fit the settings"):
            LocalAggregate.load(path, wrong, dims, "base")
    dataclasses.replace(learnt, mean=learnt.mean * np.nan).save(path)
    with pytest.raises(ModelError, match="damaged"):
        LocalAggregate.load(path, spec, (5, 2), "base")
    path.write_bytes(b"no HDF5")
    with pytest.raises(ModelError, match=r"aggregate\.h5"):
        LocalAggregate.load(path, spec, (5, 2), "base")


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="aggregate goes with a network"):
        ModelSettings(name="x", local_head={"kind": "sift"}, aggregate={})
    with pytest.raises(ValueError, match="at most 128"):
        ModelSettings(name="x", aggregate={"words": 1})


def test_the_default_model_joins_its_two_descriptors(lite, coffee):
    whole, alone = lite.extract(coffee), lite.network_alone.extract(coffee)
    np.testing.assert_array_equal(whole.local.descriptors, alone.local.descriptors)
    learnt = lite._aggregate
    distances = ((alone.local.descriptors[:, None] - learnt.words) ** 2).sum(axis=2)
    nearest = distances.argmin(axis=1)
    weights = learnt.attention.weigh(alone.local.descriptors)
    assert weights.max() > 2 * weights.min()
    sums = np.zeros_like(learnt.words)
    for word, weight, descriptor in zip(nearest, weights, alone.local.descriptors, strict=True):
        sums[word] += weight * (descriptor - learnt.words[word])
    lengths = np.linalg.norm(sums, axis=1)
    sums[lengths > 0] /= lengths[lengths > 0, None]
    adapted = (sums.ravel() / np.linalg.norm(sums) - learnt.mean) @ learnt.kernel
    both = np.r_[alone.global_descriptor, adapted / np.linalg.norm(adapted)]
    joint = (both - learnt.joint_mean) @ learnt.joint_kernel
    np.testing.assert_allclose(whole.global_descriptor, joint / np.linalg.norm(joint), atol=1e-5)


def test_a_model_that_lacks_its_aggregate_or_has_another_is_an_error(tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(find_model().weights.parent, folder)
    path = find_model(str(folder)).aggregate
    fingerprint = find_model(str(folder)).fingerprint
    learnt = load_model(str(folder))._aggregate
    dataclasses.replace(learnt, words=learnt.words + 1).save(path)
    assert find_model(str(folder)).fingerprint != fingerprint
    path.unlink()
    with pytest.raises(ModelError, match=r"lacks .*aggregate\.h5; make it with delg model agg"):
        load_model(str(folder))
    # Other weights have none, unless one lies beside them.
    assert find_model(weights=folder / "weights.h5").settings.aggregate is None
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings | {"aggregate": None}))
    assert load_model(str(folder)).fingerprint == find_model().network_alone().fingerprint
