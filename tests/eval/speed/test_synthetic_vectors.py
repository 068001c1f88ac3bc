from __future__ import annotations

import numpy as np

from eval.speed import synthetic_vectors
from eval.speed.synthetic_vectors import DIM, Vectors


def test_any_part_can_be_made_again(monkeypatch):
    monkeypatch.setattr(synthetic_vectors, "CHUNK", 400)
    one, other = Vectors(1000), Vectors(1000)
    chunks = dict(one.chunks())
    assert [(start, len(some)) for start, some in chunks.items()] == [
        (0, 400), (400, 400), (800, 200),
    ]  # fmt: skip
    np.testing.assert_array_equal(chunks[800], other.chunk(2))
    whole = np.concatenate(list(chunks.values()))
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    assert whole.shape == (1000, DIM) and whole.dtype == np.float32


def test_the_nearest_are_found_over_all_parts(monkeypatch):
    monkeypatch.setattr(synthetic_vectors, "CHUNK", 300)
    made = Vectors(1000)
    whole = np.concatenate([some for _, some in made.chunks()])
    queries = made.queries(5)
    expected = np.argsort(-(queries @ whole.T), axis=1)[:, :50]
    found = made.nearest(queries, 50)
    for one, other in zip(found, expected, strict=True):
        assert set(one.tolist()) == set(other.tolist())


def test_photos_of_the_same_thing_are_alike():
    made = Vectors(5000)
    queries = made.queries(20)
    nearest = made.nearest(queries, 10)
    whole = made.chunk(0)
    similar = np.einsum("qd,qkd->qk", queries, whole[nearest])
    assert similar.mean() > 0.6 > 0.2 > np.abs(queries @ whole.T).mean()


def test_a_sample_comes_from_all_over(monkeypatch):
    monkeypatch.setattr(synthetic_vectors, "CHUNK", 300)
    made = Vectors(1000)
    sample = made.sample(40)
    assert len(sample) == 40
    np.testing.assert_array_equal(sample[10:20], made.chunk(1)[:10])
