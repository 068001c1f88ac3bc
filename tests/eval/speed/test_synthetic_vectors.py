from __future__ import annotations

import numpy as np

from eval.speed import synthetic_vectors
from eval.speed.synthetic_vectors import DIM, Vectors


def test_any_part_can_be_made_again(monkeypatch):
    monkeypatch.setattr(synthetic_vectors, "CHUNK", 400)
    first, second = Vectors(1000), Vectors(1000)
    chunks = dict(first.chunks())
    assert [(start, len(some)) for start, some in chunks.items()] == [
        (0, 400), (400, 400), (800, 200),
    ]  # fmt: skip
    np.testing.assert_array_equal(chunks[800], second.chunk(2))
    vectors = np.concatenate(list(chunks.values()))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors.shape == (1000, DIM) and vectors.dtype == np.float32


def test_the_nearest_are_found_over_all_parts(monkeypatch):
    monkeypatch.setattr(synthetic_vectors, "CHUNK", 300)
    synthetic = Vectors(1000)
    vectors = np.concatenate([some for _, some in synthetic.chunks()])
    queries = synthetic.queries(5)
    expected = np.argsort(-(queries @ vectors.T), axis=1)[:, :50]
    nearest = synthetic.nearest(queries, 50)
    for rows, other in zip(nearest, expected, strict=True):
        assert set(rows.tolist()) == set(other.tolist())


def test_photos_of_the_same_thing_are_alike():
    synthetic = Vectors(5000)
    queries = synthetic.queries(20)
    nearest = synthetic.nearest(queries, 10)
    vectors = synthetic.chunk(0)
    similar = np.einsum("qd,qkd->qk", queries, vectors[nearest])
    assert similar.mean() > 0.6 > 0.2 > np.abs(queries @ vectors.T).mean()


def test_a_sample_comes_from_all_over(monkeypatch):
    monkeypatch.setattr(synthetic_vectors, "CHUNK", 300)
    synthetic = Vectors(1000)
    sample = synthetic.sample(40)
    assert len(sample) == 40
    np.testing.assert_array_equal(sample[10:20], synthetic.chunk(1)[:10])
