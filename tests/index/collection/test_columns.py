"""Filtering, sorting and counting by columns, against a plain list of photos."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from index.collection.columns import CollectionTable, Columns, Filter
from index.selection import Selection

NAMES = st.sampled_from(["a", "B", "b", "ab", "é", "e\u0301", "Ω c", ""])
KEYS = ("room", "artist", "label")
PHOTOS = st.lists(
    st.tuples(NAMES, st.none() | NAMES.filter(bool), st.dictionaries(st.sampled_from(KEYS), NAMES),
              st.integers(0, 5)),
    max_size=15,
)  # fmt: skip
CONDITIONS = st.lists(st.tuples(st.sampled_from((*KEYS, "none")), NAMES), max_size=3)


def table_of(photos) -> CollectionTable:
    ids = [f"{name}/{number}" for number, (name, *_) in enumerate(photos)]
    return CollectionTable(
        np.arange(len(photos)) * 3 + 1, ids, [label for _, label, _, _ in photos],
        [json.dumps(metadata) for _, _, metadata, _ in photos],
        np.array([pixels for *_, pixels in photos], np.int64),
    )  # fmt: skip


def value_of(photo, key: str) -> str:
    return (photo[1] if key == "label" else photo[2].get(key)) or ""


def same(one: str, other: str) -> bool:
    return one.replace("e\u0301", "é") == other.replace("e\u0301", "é")


def lower(text: str) -> str:
    return text.replace("e\u0301", "é").lower()


def fits(photo, where) -> bool:
    return all(
        any(same(value_of(photo, key), value) for name, value in where if name == key)
        for key, _ in where
    )


@given(PHOTOS, CONDITIONS)
def test_facets_count_what_fulfils_the_conditions_of_other_keys(photos, where):
    facets = Columns(table_of(photos)).facets(Selection(tuple(where)), 2)
    assert facets.images == sum(fits(photo, where) for photo in photos)
    for key in KEYS:
        others = [condition for condition in where if condition[0] != key]
        values = [value_of(photo, key) for photo in photos if fits(photo, others)]
        counts = Counter(filter(None, values))
        expected = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:2]
        assert facets.counts.get(key, []) == expected


@given(PHOTOS, NAMES, NAMES, NAMES)
def test_photos_are_selected_in_every_order(photos, text, label, value):
    table = table_of(photos)
    columns = Columns(table)
    chosen = [
        (row, photo)
        for row, photo, image_id in zip(table.rows.tolist(), photos, table.ids, strict=True)
        if text.lower() in image_id.lower().replace("e\u0301", "é")
        or (same(text, "é") and "e" in image_id.replace("é", "e\u0301"))
        if not label or same(value_of(photo, "label"), label)
        if not value or lower(value) in lower(photo[2].get("room", ""))
    ]
    condition = Filter(text=text, label=label, key="room" if value else "", value=value)
    ids = dict(zip(table.rows.tolist(), table.ids, strict=True))
    keys = {
        "id": lambda each: ids[each[0]],
        "newest": lambda each: -each[0],
        "largest": lambda each: (-each[1][3], ids[each[0]]),
        "label": lambda each: (each[1][1] is None, each[1][1] or "", ids[each[0]]),
    }
    for sort, key in keys.items():
        expected = [row for row, _ in sorted(chosen, key=key)]
        assert columns.select(condition, sort).tolist() == expected


@given(st.lists(PHOTOS, min_size=1, max_size=3))
def test_tables_of_several_catalogs_are_one(parts):
    photos = [photo for part in parts for photo in part]
    whole, tables, start = table_of(photos), [], 0
    for part in parts:
        end = start + len(part)
        tables.append(
            CollectionTable(
                whole.rows[start:end], whole.ids[start:end], whole.labels[start:end],
                whole.metadata[start:end], whole.pixels[start:end],
            )
        )  # fmt: skip
        start = end
    joined = CollectionTable.join(tables[::-1])
    assert joined.ids == whole.ids and joined.metadata == whole.metadata
    assert (joined.rows == whole.rows).all() and (joined.pixels == whole.pixels).all()
    spread = Columns(joined).spread(4)
    assert len(spread) == min(4, len(photos)) or len(spread) <= len(photos)
    assert set(spread) <= set(whole.rows.tolist())


@given(PHOTOS, st.sets(st.integers(0, 50)))
def test_labels_of_some_photos_are_counted(photos, chosen):
    columns = Columns(table_of(photos))
    rows = np.array(sorted(chosen), np.int64)
    present = dict(zip(columns.rows.tolist(), photos, strict=True))
    assert columns.among(rows).tolist() == sorted(chosen & set(present))
    labels = Counter(present[row][1] for row in chosen & set(present) if present[row][1])
    assert dict(columns.labels_among(rows, 99)) == labels
