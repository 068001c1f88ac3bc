"""What weighs local descriptors learns which of them tell photos apart."""

from pathlib import Path

import numpy as np
import pytest

from delg.errors import DelgError
from delg.extraction.local_aggregate import fit_adaptation
from index.learn import descriptor_attention
from index.learn.descriptor_attention import train_descriptor_attention
from index.learn.descriptor_views import DescriptorFile, DescriptorViews

PHOTOS, OWN, COMMON, DIM = 60, 6, 18, 16


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def descriptors_of(photo: int, seed: int) -> np.ndarray:
    """In the first half of the numbers what the photo shows, the same in both views; in the second
    half what lies about, other in each."""
    vectors = np.zeros((OWN + COMMON, DIM))
    vectors[:OWN, : DIM // 2] = np.random.default_rng(photo).normal(size=(OWN, DIM // 2))
    rng = np.random.default_rng([photo, seed])
    vectors[OWN:, DIM // 2 :] = rng.normal(size=(COMMON, DIM // 2))
    return unit(vectors + rng.normal(0, 0.02, vectors.shape))


@pytest.fixture
def views(tmp_path) -> DescriptorViews:
    file = DescriptorFile(tmp_path / "d", (OWN + COMMON, DIM))
    for photo in range(PHOTOS):
        for seed in (1, 2):
            file.append(descriptors_of(photo, seed))
    return file.views(np.where(np.arange(PHOTOS) < 10, np.arange(PHOTOS) // 2, -1))


def test_what_lies_about_counts_less(views, monkeypatch):
    monkeypatch.setattr(descriptor_attention, "_STEPS", 120)
    monkeypatch.setattr(descriptor_attention, "_LEARNING_RATE", 1e-2)
    words = unit(np.random.default_rng(0).normal(size=(2, DIM)))
    adaptation = fit_adaptation(views.aggregate(words, None), views.classes(), 2 * DIM)
    steps: list[int] = []

    def train():
        report = lambda done, total, failed: steps.append(done)  # noqa: E731
        return train_descriptor_attention(views, words, adaptation, 8, report)

    attention = train()
    assert steps == list(range(1, 121))
    weights = attention.weigh(descriptors_of(1000, 1))
    assert weights.min() > 0 and weights[:OWN].mean() > 3 * weights[OWN:].mean()
    again = train()
    for name, values in attention.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], values)
    # So both views of a photo are nearer to each other than they were.
    similarities = [
        np.einsum("nd,nd->n", of_views[::2], of_views[1::2]).mean()
        for of_views in (views.aggregate(words, None), views.aggregate(words, attention))
    ]
    assert 1 - similarities[1] < (1 - similarities[0]) / 2


def test_descriptors_are_drawn_of_both_views(views):
    photos = np.array([7, 3])
    drawn, used = views.draw(np.random.default_rng(0), photos, 10)
    assert drawn.shape == (4, 10, DIM) and used.all()
    for row, (photo, seed) in enumerate([(7, 1), (7, 2), (3, 1), (3, 2)]):
        distances = np.linalg.norm(drawn[row, :, None] - descriptors_of(photo, seed), axis=2)
        # The file holds half floats.
        assert distances.min(axis=1).max() < 2e-3 and len(set(distances.argmin(axis=1))) == 10


def test_a_view_may_have_few_descriptors_or_more_than_are_kept(tmp_path):
    file = DescriptorFile(tmp_path / "d", (OWN, DIM))
    file.append(descriptors_of(0, 1))
    file.append(descriptors_of(0, 2)[:2])
    views = file.views(np.array([-1]))
    assert views.counts.tolist() == [OWN, 2] and len(views) == 1
    drawn, used = views.draw(np.random.default_rng(0), np.array([0]), 4)
    assert used.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]] and not drawn[1, 2:].any()
    assert views.classes().photos.tolist() == [0, 0]
    assert views.classes().labels.tolist() == [-1, -1]


def test_a_full_disk_is_said():
    file = DescriptorFile(Path("/dev/full"), (OWN, DIM))
    with pytest.raises(DelgError, match="/dev/full: cannot be written: No space left"):
        file.append(descriptors_of(0, 1))
