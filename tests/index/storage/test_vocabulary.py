"""Visual words: learnt, stored, refused when damaged."""

import h5py
import numpy as np
import pytest

from delg.errors import ModelError
from delg.extraction.aggregation import asmk, sum_residuals
from index.storage.vocabulary import Vocabulary, read_vocabulary, write_vocabulary

DIM = 24


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    # Directions that vary as unequally as those of real descriptors.
    vectors = rng.normal(size=(count, DIM)) * 0.9 ** np.arange(DIM) + 0.3
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def sample() -> np.ndarray:
    return unit(np.random.default_rng(0), 3000)


@pytest.fixture(scope="module")
def vocabulary(sample) -> Vocabulary:
    return Vocabulary.train(sample, words=50, dim=16)


def test_the_same_sample_gives_the_same_words(sample, vocabulary):
    again = Vocabulary.train(sample, words=50, dim=16)
    assert again.digest == vocabulary.digest and (again.size, again.dim) == (50, 16)
    assert Vocabulary.train(sample[:-1], words=50, dim=16).digest != vocabulary.digest


def test_descriptors_are_whitened(sample, vocabulary):
    raw = (sample - vocabulary.mean) @ vocabulary.projection
    assert np.cov(raw.T) == pytest.approx(np.eye(16), abs=0.05)
    assert np.linalg.norm(vocabulary.project(sample), axis=1) == pytest.approx(1, abs=1e-5)


def test_words_are_the_nearest_centroids(sample, vocabulary):
    vectors = vocabulary.project(sample[:100])
    centroids = vocabulary.centroids.astype(np.float32)
    distances = ((vectors[:, None] - centroids) ** 2).sum(axis=2)
    assert (vocabulary.assign(vectors, 3) == np.argsort(distances, axis=1)[:, :3]).all()
    # They fit the sample far better than other vectors would.
    assert distances.min(axis=1).mean() < 0.8 * distances.mean()


def test_a_photo_keeps_the_words_of_its_best_features(sample, vocabulary):
    photo = sample[:40]
    nearest = vocabulary.assign(vocabulary.project(photo))[:, 0]
    kept = vocabulary.photo_words(photo, 10)
    first_ten = list(dict.fromkeys(nearest.tolist()))[:10]
    assert kept.words.tolist() == sorted(first_ten)
    # Each word's signs are of all features that were looked at and fell into it.
    seen = np.flatnonzero(np.isin(nearest[:30], first_ten))
    expected = asmk(
        sum_residuals(
            vocabulary.project(photo[seen]), nearest[seen], vocabulary.centroids.astype(np.float32)
        )
    )
    assert (kept.signs == np.packbits(expected.vectors > 0, axis=1)).all()
    everything = vocabulary.query_words(photo, 1)
    assert set(kept.words.tolist()) <= set(everything.words.tolist())
    assert len(vocabulary.photo_words(photo[:0], 10)) == 0
    assert len(vocabulary.query_words(photo[:0], 5)) == 0


def test_a_file_holds_all_of_it(tmp_path, vocabulary):
    path = tmp_path / "vocabulary.h5"
    write_vocabulary(path, vocabulary)
    again = read_vocabulary(path, DIM)
    assert again.digest == vocabulary.digest
    with pytest.raises(ModelError, match=r"descriptors of 24 numbers; the model's have 40"):
        read_vocabulary(path, 40)


@pytest.mark.parametrize("part", ["missing", "type", "shape", "nan", "bytes"])
def test_a_broken_vocabulary_is_refused_by_name(tmp_path, vocabulary, part):
    path = tmp_path / "vocabulary.h5"
    write_vocabulary(path, vocabulary)
    if part == "bytes":
        path.write_bytes(path.read_bytes()[:2000])
    else:
        with h5py.File(path, "r+") as file:
            projection = file["projection"][()]
            del file["projection"]
            if part == "nan":
                projection[0] = np.nan
            changed = {
                "type": projection.astype(np.float64),
                "shape": projection[:, 1:],
                "nan": projection,
            }
            if part != "missing":
                file["projection"] = changed[part]
    with pytest.raises(ModelError, match=r"vocabulary\.h5"):
        read_vocabulary(path, DIM)
