import subprocess
import sys

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shortlist_race import race

from index.settings import ShortlistSettings
from index.storage.ann_index import FILE, AnnIndex, choose_kind

DIM = 32
KINDS = ("flat", "fp16", "sq8", "ivf", "rabitq")
# Of the ten nearest by brute force, how many each kind must find.
RECALL = {"flat": 1.0, "fp16": 1.0, "sq8": 1.0, "ivf": 0.9, "rabitq": 0.9}

# Damage some of the bytes, and every byte of the footer; memory is limited, so that a damaged
# length that asks for too much of it is an error and not the end of the machine.
FUZZ = f"""
import resource, sys
from pathlib import Path
import numpy as np
from index.storage.ann_index import FILE, AnnIndex
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
path, refused = Path(sys.argv[1]) / FILE, 0
whole = path.read_bytes()
footer = len(whole) - 40
for place in [*range(0, 200, 5), *range(200, footer, 301), *range(footer, len(whole))]:
    for value in (0, 0xFF, whole[place] ^ 1):
        data = bytearray(whole)
        data[place] = value
        path.write_bytes(data)
        try:
            found = AnnIndex.load(path.parent, {DIM}, 1)
            if found is None:
                refused += 1
                continue
            found[0].rows()
            found[0].search(np.ones({DIM}, np.float32), 10)
        except BaseException as error:
            raise AssertionError((place, value)) from error
print(refused)
"""


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def clusters(seed: int, count: int) -> np.ndarray:
    """Unit vectors around 20 centres, as photos of 20 things would give."""
    centres = np.random.default_rng(99).normal(size=(20, DIM))
    rng = np.random.default_rng(seed)
    return unit(centres[rng.integers(0, 20, count)] + rng.normal(0, 0.5, (count, DIM)))


def build(kind: str, vectors: np.ndarray, rows: np.ndarray, **values: object) -> AnnIndex:
    options = ShortlistSettings(kind=kind, **values)
    ann_index = AnnIndex.train(DIM, len(vectors), lambda most: vectors[:most], options)
    ann_index.add(vectors, rows)
    return ann_index


def brute_force(
    vectors: np.ndarray, rows: np.ndarray, query: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    similarities = vectors @ query
    order = np.lexsort((rows, -similarities))[:count]
    return rows[order], similarities[order]


def look(
    ann_index: AnnIndex, vectors: np.ndarray, query: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """What it finds; looked at again with the ``vectors`` under ``ROWS`` if it is not exact."""
    rows, similarities = ann_index.search(
        query, ann_index.candidate_count(count, ShortlistSettings())
    )
    if ann_index.is_exact():
        return rows, similarities
    exact = vectors[np.searchsorted(ROWS, rows)] @ query
    order = np.lexsort((rows, -exact))[:count]
    return rows[order], exact[order]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clusters(0, 1200)


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return clusters(1, 40)


ROWS = 7 + 3 * np.arange(1200, dtype=np.int64)


@pytest.mark.parametrize("kind", KINDS)
def test_the_nearest_are_those_of_brute_force(kind, vectors, queries):
    ann_index = build(kind, vectors, ROWS)
    assert ann_index.kind == kind and len(ann_index) == 1200
    hits = 0
    for query in queries:
        rows, similarities = look(ann_index, vectors, query, 10)
        expected, exact = brute_force(vectors, ROWS, query, 10)
        assert rows.dtype == np.int64 and len(rows) == 10
        assert (np.diff(similarities) <= 0).all()
        hits += len(set(rows.tolist()) & set(expected.tolist()))
        is_exhaustive = kind in ("flat", "fp16", "sq8")
        if is_exhaustive:
            assert rows.tolist() == expected.tolist()
        np.testing.assert_allclose(similarities, exact, atol=1e-6 if is_exhaustive else 0.1)
    assert hits / (10 * len(queries)) >= RECALL[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_removed_rows_are_never_found_and_the_others_still_are(kind, vectors, queries):
    ann_index = build(kind, vectors, ROWS)
    gone = ROWS[::3]
    ann_index.remove(gone)
    remaining = np.setdiff1d(ROWS, gone)
    assert len(ann_index) == len(remaining)
    assert sorted(ann_index.rows().tolist()) == remaining.tolist()
    hits = 0
    keep = np.isin(ROWS, remaining)
    for query in queries:
        rows, _ = look(ann_index, vectors, query, 10)
        assert not set(rows.tolist()) & set(gone.tolist())
        expected, _ = brute_force(vectors[keep], remaining, query, 10)
        hits += len(set(rows.tolist()) & set(expected.tolist()))
    assert hits / (10 * len(queries)) >= RECALL[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_added_after_a_removal_are_found(kind, vectors):
    ann_index = build(kind, vectors, ROWS)
    ann_index.remove(ROWS[:200])
    new = unit(np.random.default_rng(5).normal(size=(3, DIM)))
    ann_index.add(new, np.array([9001, 9002, 9003]))
    for row, vector in zip((9001, 9002, 9003), new, strict=True):
        assert ann_index.search(vector, 1)[0].tolist() == [row]


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_back_from_disk_with_the_generation_it_shows(kind, tmp_path, vectors, queries):
    ann_index = build(kind, vectors, ROWS, nprobe=5)
    ann_index.save(tmp_path, 2**40 + 3)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    back, generation = AnnIndex.load(tmp_path, DIM, 5)
    assert generation == 2**40 + 3 and back.kind == kind
    assert back.rows().tolist() == ann_index.rows().tolist()
    for query in queries[:10]:
        for values_before, values_after in zip(
            ann_index.search(query, 10), back.search(query, 10), strict=True
        ):
            np.testing.assert_array_equal(values_before, values_after)
    back.remove(ROWS[:5])
    back.add(vectors[:5], ROWS[:5])
    assert len(back) == 1200


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12)
@given(
    steps=st.lists(st.tuples(st.booleans(), st.sets(st.integers(1, 40), max_size=12)), max_size=8)
)
def test_any_sequence_of_adding_and_removing_leaves_the_right_rows(kind, steps):
    values = unit(np.random.default_rng(3).normal(size=(41, DIM)))
    ann_index = AnnIndex.train(DIM, 41, lambda most: values[:most], ShortlistSettings(kind=kind))
    present: set[int] = set()
    for adding, chosen in steps:
        if adding:
            new = np.array(sorted(chosen - present), np.int64)
            ann_index.add(values[new], new)
            present |= chosen
        else:
            ann_index.remove(np.array(sorted(chosen), np.int64))
            present -= chosen
        assert len(ann_index) == len(present)
        assert sorted(ann_index.rows().tolist()) == sorted(present)
        assert sorted(ann_index.search(values[0], 100)[0].tolist()) == sorted(present)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_similarities_come_in_the_order_of_rows(kind):
    values = np.repeat(unit(np.ones((1, DIM))), 30, axis=0)
    ann_index = build(kind, values, np.arange(1, 31))
    ann_index.remove(np.array([2, 5]))
    remaining = [row for row in range(1, 31) if row not in (2, 5)]
    assert ann_index.search(values[0], 100)[0].tolist() == remaining


@pytest.mark.parametrize("kind", ["flat", "fp16", "sq8"])
def test_of_equal_similarities_the_first_rows_are_taken(kind):
    values = np.repeat(unit(np.ones((1, DIM))), 30, axis=0)
    ann_index = build(kind, values, np.arange(1, 31))
    ann_index.remove(np.array([2, 5]))
    assert ann_index.search(values[0], 4)[0].tolist() == [1, 3, 4, 6]


@pytest.mark.parametrize("kind", [*KINDS, "auto"])
def test_an_empty_one_finds_nothing_and_is_exact_until_there_is_something_to_train_on(
    kind, tmp_path
):
    options = ShortlistSettings(kind=kind)
    ann_index = AnnIndex.train(DIM, 0, lambda most: np.zeros((0, DIM), np.float32), options)
    assert len(ann_index) == 0 and ann_index.kind == "flat"
    rows, similarities = ann_index.search(unit(np.ones(DIM)), 10)
    assert rows.shape == (0,) and similarities.shape == (0,)
    ann_index.save(tmp_path, 0)
    back, _ = AnnIndex.load(tmp_path, DIM, 1)
    assert len(back) == 0 and back.rows().shape == (0,)


def test_asking_for_none_gives_none(vectors):
    assert len(build("flat", vectors, ROWS).search(vectors[0], 0)[0]) == 0


def test_asking_for_more_than_there_are_gives_all(vectors):
    ann_index = build("ivf", vectors[:100], ROWS[:100], nlist=2, nprobe=2)
    assert len(ann_index.search(vectors[0], 1000)[0]) == 100


def test_few_probes_give_fewer_and_never_a_row_that_is_not_there(vectors):
    ann_index = build("ivf", vectors, ROWS, nlist=20, nprobe=1)
    rows, _ = ann_index.search(vectors[0], 1200)
    assert 0 < len(rows) < 1200
    assert np.isin(rows, ROWS).all()


def test_auto_searches_all_of_few_and_an_inverted_file_for_many():
    options, stored = ShortlistSettings(ivf_from=1000), "float16"
    assert choose_kind(options, 0, stored) == choose_kind(options, 999, stored) == "fp16"
    assert choose_kind(options, 1000, stored) == "rabitq"
    assert choose_kind(ShortlistSettings(kind="sq8"), 10**9, stored) == "sq8"


def test_it_suits_until_a_fresh_build_would_choose_otherwise(vectors):
    options = ShortlistSettings(ivf_from=150)
    few = build("fp16", vectors[:149], ROWS[:149])
    assert few.suits(options)
    few.add(vectors[149:150], ROWS[149:150])
    assert not few.suits(options)
    assert not few.suits(ShortlistSettings(kind="sq8"))
    assert not build("flat", vectors[:149], ROWS[:149]).suits(options)
    # Trained for 80 images it has two lists; 1200 would be given more than four times as many.
    many = build("ivf", vectors[:80], ROWS[:80])
    assert many.suits(ShortlistSettings(kind="ivf"))
    many.add(vectors[80:], ROWS[80:])
    assert not many.suits(ShortlistSettings(kind="ivf"))


def test_a_rough_kind_asks_for_more_than_are_wanted(vectors):
    options = ShortlistSettings(refine_factor=3)
    assert build("rabitq", vectors, ROWS).candidate_count(100, options) == 300
    assert build("rabitq", vectors, ROWS).candidate_count(10_000, options) == 14_000
    assert build("ivf", vectors, ROWS).candidate_count(100, options) == 200
    assert build("flat", vectors, ROWS).candidate_count(100, options) == 100


def test_a_rough_kind_takes_a_quarter_of_the_bytes(tmp_path):
    many = unit(np.random.default_rng(0).normal(size=(4000, 512)))
    options = ShortlistSettings(kind="rabitq", nlist=16)
    ann_index = AnnIndex.train(512, 4000, lambda most: many[:most], options)
    ann_index.add(many, np.arange(4000))
    ann_index.save(tmp_path, 1)
    assert (tmp_path / FILE).stat().st_size < 4000 * 100


def test_the_number_of_lists_can_be_set(tmp_path, vectors):
    build("ivf", vectors, ROWS, nlist=11).save(tmp_path, 1)
    assert faiss.extract_index_ivf(faiss.read_index(str(tmp_path / FILE))).nlist == 11


def test_a_missing_file_is_none(tmp_path):
    assert AnnIndex.load(tmp_path, DIM, 1) is None
    assert AnnIndex.load(tmp_path / "nowhere", DIM, 1) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_none(kind, tmp_path, vectors):
    build(kind, vectors[:50], ROWS[:50], nlist=1).save(tmp_path, 1)
    data = (tmp_path / FILE).read_bytes()
    for length in range(0, len(data), max(1, len(data) // 60)):
        (tmp_path / FILE).write_bytes(data[:length])
        assert AnnIndex.load(tmp_path, DIM, 1) is None


@pytest.mark.parametrize("data", [b"", b"x", b"garbage" * 1000])
def test_garbage_is_none_even_with_a_good_end(tmp_path, data, vectors):
    (tmp_path / FILE).write_bytes(data)
    assert AnnIndex.load(tmp_path, DIM, 1) is None
    build("flat", vectors[:50], ROWS[:50]).save(tmp_path, 1)
    end = (tmp_path / FILE).read_bytes()[-64:]
    (tmp_path / FILE).write_bytes(data + end)
    assert AnnIndex.load(tmp_path, DIM, 1) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_byte_in_what_is_stored_is_none(kind, tmp_path, vectors):
    build(kind, vectors[:50], ROWS[:50], nlist=1).save(tmp_path, 1)
    before = (tmp_path / FILE).read_bytes()
    for place in [*range(0, 120, 3), *range(120, len(before) - 64, 101)]:
        data = bytearray(before)
        data[place] ^= 0x10
        (tmp_path / FILE).write_bytes(data)
        assert AnnIndex.load(tmp_path, DIM, 1) is None, place


@pytest.mark.parametrize("kind", ["flat", "rabitq"])
def test_damaged_bytes_are_refused_or_leave_something_usable(kind, tmp_path, vectors):
    build(kind, vectors[:50], ROWS[:50], nlist=1).save(tmp_path, 1)
    process = subprocess.run(
        [sys.executable, "-c", FUZZ, str(tmp_path)], capture_output=True, text=True, timeout=280
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert int(process.stdout) > 0


def test_descriptors_of_another_width_are_none(tmp_path, vectors):
    build("flat", vectors, ROWS).save(tmp_path, 1)
    assert AnnIndex.load(tmp_path, DIM + 1, 1) is None


def test_saving_replaces_what_was_there(tmp_path, vectors):
    build("flat", vectors, ROWS).save(tmp_path, 1)
    build("flat", vectors[:10], ROWS[:10]).save(tmp_path, 2)
    back, generation = AnnIndex.load(tmp_path, DIM, 1)
    assert (len(back), generation) == (10, 2)


def test_what_is_read_while_another_process_writes_is_of_one_generation(tmp_path):
    tried, bad = race(tmp_path, 3)
    assert tried > 20 and bad == 0
