"""The inverted file gives what comparing photo by photo gives, whatever was added and removed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delg.extraction.aggregation import WordVectors, asmk_star_similarity
from index.storage import inverted_file
from index.storage.inverted_file import InvertedFile, Postings
from index.storage.vocabulary import BinaryWords, Vocabulary
from index.storage.word_file import FILE, load_inverted_file, save_inverted_file

WORDS = 12


def vocabulary(dim: int) -> Vocabulary:
    rng = np.random.default_rng(dim)
    eye = np.eye(dim, dtype=np.float32)
    centroids = rng.normal(size=(WORDS, dim)).astype(np.float16)
    return Vocabulary(np.zeros(dim, np.float32), eye, centroids)


def random_words(seed: int, dim: int) -> WordVectors:
    rng = np.random.default_rng(seed)
    words = np.flatnonzero(rng.random(WORDS) < rng.random())
    return WordVectors(words, rng.choice([-1, 1], (len(words), dim)).astype(np.float32))


def binary(photo: WordVectors) -> BinaryWords:
    bits = np.packbits(photo.vectors > 0, axis=1)
    return BinaryWords(photo.words.astype(np.uint16), bits)


def check(inverted: InvertedFile, photos: dict[int, WordVectors], dim: int, alpha, tau) -> None:
    query = random_words(999, dim)
    rows, similarities = inverted.similarities(binary(query))
    assert rows.tolist() == sorted(photos) == sorted(inverted.rows().tolist())
    assert len(inverted) == len(photos)
    expected = [asmk_star_similarity(query, photos[row], alpha, tau) for row in rows.tolist()]
    assert similarities == pytest.approx(expected, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    dim=st.sampled_from([5, 32, 64, 70, 128]),
    block=st.sampled_from([3, 8, 1 << 16]),
    alpha=st.sampled_from([1.0, 3.0]),
    tau=st.sampled_from([0.0, 0.2]),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=12),
)
def test_any_adds_and_removals_equal_comparing_one_by_one(dim, block, alpha, tau, steps):
    whole = inverted_file.MAX_BLOCK_IMAGES
    inverted_file.MAX_BLOCK_IMAGES = block
    try:
        words = vocabulary(dim)
        inverted = InvertedFile(words, alpha, tau)
        photos: dict[int, WordVectors] = {}
        following = 1
        for adds, number in steps:
            if adds:
                rows = list(range(following, following + number))
                following += number
                new = {row: random_words(row, dim) for row in rows}
                photos |= new
                inverted.add(
                    np.array(rows, np.int64), Postings.of(words, list(map(binary, new.values())))
                )
            else:
                gone = [row for row in list(photos) if row % 10 <= number]
                for row in gone:
                    del photos[row]
                inverted.remove(np.array(gone, np.int64))
            check(inverted, photos, dim, alpha, tau)
    finally:
        inverted_file.MAX_BLOCK_IMAGES = whole


def test_adding_one_at_a_time_leaves_few_blocks_and_the_same_bytes():
    words = vocabulary(64)
    photos = {row: random_words(row, 64) for row in range(200)}
    single, bulk = InvertedFile(words, 3, 0), InvertedFile(words, 3, 0)
    for row, photo in photos.items():
        single.add(np.array([row]), Postings.of(words, [binary(photo)]))
    bulk.add(np.arange(200), Postings.of(words, list(map(binary, photos.values()))))
    check(single, photos, 64, 3, 0)
    assert len(single._blocks) <= 8
    postings = sum(len(photo) for photo in photos.values())
    # A photo's number takes two bytes and its signs eight.
    assert bulk.bytes <= 10 * postings + 200 * 14 + 8 * (WORDS + 1)


def test_what_is_removed_leaves_memory():
    words = vocabulary(64)
    photos = [binary(random_words(row, 64)) for row in range(100)]
    inverted = InvertedFile(words, 3, 0)
    inverted.add(np.arange(100), Postings.of(words, photos))
    full = inverted.bytes
    inverted.remove(np.arange(60))
    assert inverted.bytes < full / 2 + 8 * (WORDS + 1)
    inverted.remove(np.arange(100))
    assert len(inverted) == 0 and len(inverted.similarities(photos[0])[0]) == 0


def test_what_is_stored_is_what_was_saved(tmp_path):
    words = vocabulary(70)
    photos = {row: random_words(row, 70) for row in range(50)}
    inverted = InvertedFile(words, 3, 0)
    inverted.add(np.arange(50), Postings.of(words, list(map(binary, photos.values()))))
    inverted.remove(np.array([3, 4]))
    save_inverted_file(tmp_path, inverted, 7)
    loaded, generation = load_inverted_file(tmp_path, words, 3, 0)
    left = {row: photo for row, photo in photos.items() if row not in (3, 4)}
    assert generation == 7
    check(loaded, left, 70, 3, 0)
    # It goes on as any other.
    loaded.remove(np.array([5]))
    loaded.add(np.array([60]), Postings.of(words, [binary(photos[5])]))
    check(loaded, {**{r: p for r, p in left.items() if r != 5}, 60: photos[5]}, 70, 3, 0)
    assert load_inverted_file(tmp_path, vocabulary(64), 3, 0) is None


@settings(max_examples=30, deadline=None)
@given(place=st.floats(0, 1), mask=st.integers(1, 255))
def test_a_damaged_file_counts_as_missing_or_says_the_same(place, mask, tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    words = vocabulary(64)
    photos = {row: random_words(row, 64) for row in range(9)}
    inverted = InvertedFile(words, 3, 0)
    inverted.add(np.arange(9), Postings.of(words, list(map(binary, photos.values()))))
    save_inverted_file(folder, inverted, 7)
    data = bytearray((folder / FILE).read_bytes())
    data[int(place * (len(data) - 1))] ^= mask
    (folder / FILE).write_bytes(data)
    loaded = load_inverted_file(folder, words, 3, 0)
    if loaded is not None:
        check(loaded[0], photos, 64, 3, 0)
