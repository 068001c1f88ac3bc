"""Global descriptors in a byte per component: what is kept of them, and that all parts of an index
agree on it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delg.settings import parse
from delg.types import ImageFeatures, LocalFeatures
from delg.zoo.registry import find_model
from index import ImageIndex, IndexSettings
from index.feature_spec import FeatureSpec
from index.learn.tune import _kinds
from index.search.requests import DescriptorsRequest
from index.settings import ShortlistSettings, StoreSettings
from index.storage.adaptation import Adaptation
from index.storage.ann_index import AnnIndex, choose_kind
from index.storage.catalog_tables import ImageRow
from index.storage.global_codec import decode_global, encode_global
from index.storage.maintenance import check, compact
from index.storage.store import Store

DIM = 768
NOTHING = LocalFeatures(
    np.zeros((0, 2), np.float32), np.zeros((0, 24), np.float32),
    np.zeros(0, np.float32), np.zeros(0, np.float32),
)  # fmt: skip


def unit(count: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, dim))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20))
def test_a_byte_is_off_by_half_a_step_at_most_and_clips_beyond_its_range(components):
    values = np.array(components, np.float32)
    encoded = encode_global(values, "int8")
    back = decode_global(encoded)
    assert encoded.dtype == np.int8 and back.dtype == np.float32
    # Before it is rounded, a vector is stretched by .3 % at most.
    clipped = values.clip(-127 / 512, 127 / 512)
    np.testing.assert_allclose(back, clipped, atol=1.01 / 1024 + 0.003 * 0.25)
    np.testing.assert_array_equal(encode_global(back, "int8"), encoded)
    # What travels to other machines, and FAISS's fp16, hold it without loss.
    np.testing.assert_array_equal(back.astype(np.float16).astype(np.float32), back)


@pytest.mark.parametrize(("codec", "error"), [("int8", 3e-3), ("float16", 3e-4), ("float32", 0)])
def test_similarities_and_lengths_hardly_change(codec, error):
    vectors, queries = unit(200), unit(20, seed=1)
    near = (0.6 * vectors[:20] + 0.8 * queries).astype(np.float32)
    encoded = encode_global(vectors, codec)
    assert encoded.dtype == codec
    assert np.abs(decode_global(encoded) @ near.T - vectors @ near.T).max() <= error
    assert np.abs(np.linalg.norm(decode_global(encoded), axis=1) - 1).max() <= 5e-4


def test_faiss_finds_what_bytes_hold_without_another_look(tmp_path: Path):
    stored, rows = decode_global(encode_global(unit(500), "int8")), np.arange(500) * 3
    ann_index = AnnIndex.train(DIM, 500, lambda most: stored[:most], ShortlistSettings(), "int8")
    ann_index.add(stored, rows)
    ann_index.save(tmp_path, 1)
    back, _ = AnnIndex.load(tmp_path, DIM, None)
    for each in (ann_index, back):
        assert each.kind == "int8" and each.bytes_per_image == DIM + 8
        assert each.is_exact("int8") and not each.is_exact("float16") and not each.is_exact()
        for query in unit(10, seed=2):
            nearest, similarities = each.search(query, 20)
            exact = stored @ query
            assert nearest.tolist() == (3 * np.argsort(-exact)[:20]).tolist()
            np.testing.assert_allclose(similarities, np.sort(exact)[::-1][:20], atol=1e-6)


def test_auto_takes_a_byte_where_the_store_does():
    options = ShortlistSettings(ivf_from=1000)
    assert choose_kind(options, 10, "int8") == "int8"
    assert choose_kind(options, 10, "float16") == choose_kind(options, 10, "float32") == "fp16"
    assert choose_kind(options, 1000, "int8") == "rabitq"
    assert choose_kind(ShortlistSettings(kind="fp16"), 10, "int8") == "fp16"


@pytest.mark.parametrize(
    ("model", "values", "codec", "stored"),
    [
        ("delg-lite", {}, "int8", "int8"),
        ("delg-lite", {"global_codec": "float16"}, "float16", "float16"),
        ("delg-lite", {"local_codec": "float32"}, "auto", "float32"),
        ("delg-lite-clip", {}, "int8", "int8"),
        ("sift", {}, "auto", "float16"),
        (None, {}, "auto", "float16"),
    ],
)
def test_a_new_index_takes_bytes_where_its_model_joins_descriptors(model, values, codec, stored):
    model_settings = find_model(model).settings if model else None
    settings = parse(IndexSettings, {"store": values}, "test").of_model(model_settings)
    assert settings.store.global_codec == codec and settings.store.global_type == stored


def test_few_components_hold_too_much_each_for_a_byte():
    model = find_model().settings
    narrow = model.model_copy(
        update={
            "global_head": model.global_head.model_copy(update={"dim": 64}),
            "aggregate": model.aggregate.model_copy(update={"adapted_dim": 64}),
        }
    )
    assert IndexSettings().of_model(narrow).store.global_type == "float16"


def test_settings_of_before_say_two_bytes():
    assert StoreSettings().global_type == "float16"


def make_store(folder: Path, codec: str, count: int = 60) -> Store:
    values = {"store": {"global_codec": codec, "segment_images": 25}}
    spec = FeatureSpec("made-up", DIM, 24, aggregated=False)
    ImageIndex.create_for_features(folder, spec, parse(IndexSettings, values, "test")).close()
    store = Store(folder)
    with store.lock():
        rows = [ImageRow(f"{n:03d}", "", 0, 0, "", width=64, height=48) for n in range(count)]
        store.commit(rows, [ImageFeatures(each, NOTHING, 64, 48) for each in unit(count)])
        store.save_ann_index()
    return store


def test_an_index_of_bytes_holds_half_and_finds_the_same(tmp_path: Path):
    wide, narrow = make_store(tmp_path / "a", "float16"), make_store(tmp_path / "b", "int8")
    assert (wide.ann_index.kind, narrow.ann_index.kind) == ("fp16", "int8")
    sizes = [sum(segment.bytes for segment in s.catalog.segments()) for s in (wide, narrow)]
    assert sizes[0] - sizes[1] > 0.9 * 60 * DIM
    for query in (0.5 * unit(60) + 0.87 * unit(60, seed=5))[::7].astype(np.float32):
        (rows, similarities), (others, values) = (s.nearest(query, 3) for s in (wide, narrow))
        assert rows[0] == others[0]
        np.testing.assert_allclose(similarities, values, atol=3e-3)
        # Of a row it says the same wherever it looks.
        np.testing.assert_allclose(narrow.similarities(query, others), values, atol=1e-6)
    assert check(narrow).problems == []


def test_compacting_leaves_bytes_as_they_are(tmp_path: Path):
    store = make_store(tmp_path / "a", "int8")
    with store.lock():
        store.remove([f"{n:03d}" for n in range(0, 60, 2)])
        compact(store)
    kept = store.global_descriptors(store.searchable())
    np.testing.assert_array_equal(kept, decode_global(encode_global(unit(60)[1::2], "int8")))
    assert store.ann_index.kind == "int8" and check(store).problems == []


@pytest.mark.parametrize("codec", ["int8", "float16", "float32"])
def test_what_travels_is_no_longer_than_what_is_stored(tmp_path: Path, codec):
    store = make_store(tmp_path / "a", codec)
    rows = store.searchable()[::7]
    sent = DescriptorsRequest(rows).answer(store)
    assert sent.dtype == codec
    np.testing.assert_array_equal(decode_global(sent), store.global_descriptors(rows))


def test_adapted_descriptors_are_compared_in_two_bytes(tmp_path: Path):
    store = make_store(tmp_path / "a", "int8")
    # Four components of unit length together, which a byte each would clip.
    kernel = np.eye(DIM, 4, dtype=np.float16)
    with store.lock():
        store.set_adaptation(Adaptation(np.zeros(DIM, np.float32), kernel), {})
    assert store.ann_index.kind == "fp16" and store.settings.store.global_type == "int8"
    rows = store.searchable()
    expected = store.global_descriptors(rows)[7]
    assert np.abs(expected).max() > 0.25
    assert store.nearest(expected, 1)[0].tolist() == [rows[7]]
    # The comparison that others are measured against must not clip either.
    assert [each.kind for each in _kinds(store, len(rows))] == ["fp16"]
    with store.lock():
        store.set_adaptation(None, {})
    assert store.ann_index.kind == "int8"
    assert [each.kind for each in _kinds(store, len(rows))] == ["int8"]
