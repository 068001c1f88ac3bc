"""Typical, different and suspicious photos of a label, among photos of dots."""

from __future__ import annotations

import numpy as np
from dots import dots

LEFT = np.array([[1.0, 0.02, 3], [-0.02, 1.0, 2], [0, 0, 1]])


def test_what_is_wrong_with_a_label_is_found(make_index, tmp_path):
    images = make_index()
    folder = tmp_path / "photos"
    labels = {}
    for name, seed, label in (
        ("a1", 1, "a"), ("a2", 1, "a"), ("a3", 1, "a"), ("stray", 7, "a"),
        ("b1", 2, "b"), ("b2", 2, "b"), ("wrong", 2, "a"),
    ):  # fmt: skip
        turned = dots(seed) if name[-1] == "1" else dots(seed).moved(LEFT, (160, 120))
        turned.save(folder / f"{name}.png")
        labels[f"{name}.png"] = label
    lines = ["id,label", *(f"{name},{label}" for name, label in labels.items())]
    (tmp_path / "l.csv").write_text("\n".join(lines))
    images.add(folder, str(tmp_path / "l.csv"))
    index = images.labels()
    assert index.search().labels[0][:2] == ("a", 5)
    rows, similarities = images.typicality(index.rows("a").tolist())
    assert similarities == sorted(similarities, reverse=True) and set(rows) == set(index.rows("a"))
    assert images.by_rows(rows)[-1].id in ("stray.png", "wrong.png")
    review = images.review_label("a", index.rows("a").tolist())
    assert [(found.id, found.other_label) for found in review.mislabelled] == [("wrong.png", "b")]
    assert set(review.unmatched) == {"stray.png", "wrong.png"} and review.reviewed == 5
    clean = images.review_label("b", index.rows("b").tolist())
    assert not clean.unmatched and {found.other for found in clean.mislabelled} <= {"wrong.png"}
    assert images.typicality([]) == ([], [])
