"""Searching among some of the images: the results are those of an index of these images alone."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from dots import dots, gallery

from delg.errors import UsageError
from index.labels import GivenLabels, Label
from index.selection import Selection
from index.settings import ShortlistSettings
from index.storage.ann_index import AnnIndex


@pytest.fixture
def images(make_index, tmp_path):
    gallery(tmp_path / "photos", 30)
    labels = {
        f"{n:03d}.png": Label(("Vermeer", "Ruïne")[n % 2] if n else None, {"room": str(n % 3)})
        for n in range(29)
    }
    images = make_index()
    images.add(tmp_path / "photos", GivenLabels(labels))
    return images


def ids(result) -> set[str]:
    return {hit.id for hit in result}


def test_k_is_filled_from_what_is_selected(images):
    query = dots(4).pixels()
    chosen = {f"{n:03d}.png" for n in range(29) if n % 3 == 1}
    for where in (["room=1"], {"room": "1"}, {"room": ["1"]}):
        assert ids(images.query(query, k=20, where=where)) == chosen
        assert len(images.query(query, k=9, where=where)) == 9
    assert images.query(query, k=3, where=["room=1"])[0].id == "004.png"
    features = images.features("004.png")
    assert ids(
        images.query_features(features, 20, without=["004.png"], where=["room=1"])
    ) == chosen - {"004.png"}


def test_values_of_one_key_are_alternatives_and_keys_must_all_fit(images):
    def selected(*where: str) -> set[int]:
        return {int(i[:3]) for i in ids(images.query(dots(4).pixels(), k=50, where=where))}

    assert selected("room=0", "room=1") == {n for n in range(29) if n % 3 < 2}
    assert selected("room=0", "label=Vermeer") == {6, 12, 18, 24}
    assert selected("label=Rui\u0308ne") == set(range(1, 29, 2))
    assert selected("label=") == {0, 29} and selected("room=") == {29}
    assert selected("label=vermeer") == selected("wing=3") == set()


@pytest.mark.parametrize("bad", ["", "label", "=x"])
def test_a_condition_of_another_form_is_refused(images, bad):
    with pytest.raises(UsageError, match="KEY=VALUE"):
        images.query(dots(4).pixels(), where=[bad])


def test_least_probability_and_proof_leave_only_what_has_them(images):
    query = dots(4).pixels()
    assert ids(images.query(query, k=30, verified_only=True)) == {"004.png"}
    assert ids(images.query(query, k=30, min_probability=0.5)) == {"004.png"}
    assert not len(images.query(query, k=30, where=["room=2"], verified_only=True))
    with pytest.raises(UsageError, match="min_probability"):
        images.query(query, min_probability=1.5)


def test_a_new_label_counts_at_once(images, tmp_path):
    query = dots(4).pixels()
    assert "005.png" not in ids(images.query(query, k=30, where=["label=new"]))
    images.add(tmp_path / "photos", GivenLabels({"005.png": Label("new")}))
    assert ids(images.query(query, k=30, where=["label=new"])) == {"005.png"}


def test_a_selection_can_be_sent_elsewhere():
    selection = Selection.of(["room=1", "label=x=y"], ["a"])
    assert pickle.loads(pickle.dumps(selection)) == selection
    assert selection.where == (("room", "1"), ("label", "x=y"))
    assert selection.except_for("room") == Selection.of(["label=x=y"], ["a"])


@pytest.mark.parametrize("kind", ["flat", "fp16", "sq8", "ivf", "rabitq"])
@pytest.mark.parametrize("share", [1, 5, 300])
def test_every_kind_of_index_searches_among_rows(kind, share):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3000, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = np.arange(3000, dtype=np.int64) * 2 + 1
    ann = AnnIndex.train(
        32, 3000, lambda count: vectors[:count], ShortlistSettings(kind=kind, nlist=40, nprobe=2)
    )
    ann.add(vectors, rows)
    # Rows that are not in the index, too.
    selected = np.arange(0, 6000, share, dtype=np.int64)
    present = np.intersect1d(selected, rows)
    found, similarities = ann.search(vectors[7], 50, selected)
    assert len(found) == min(50, len(present)) and np.isin(found, present).all()
    assert (np.diff(similarities) <= 0).all()
    if kind == "flat":
        exact = vectors[(present - 1) // 2] @ vectors[7]
        assert set(found) == set(present[np.argsort(-exact)[:50]])
    assert len(ann.search(vectors[7], 50, np.zeros(0, np.int64))[0]) == 0
