"""Searching among labels, against a plain list of them."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from index.collection.label_index import LabelIndex, fold_case

NAMES = st.text(alphabet="aAbß é̈Ω\U0001f3db-'", min_size=1, max_size=6)


@given(st.lists(NAMES, max_size=30), st.text(alphabet="aAbßsé̈Ω ", max_size=3))
def test_labels_are_found_counted_and_ordered(names, text):
    index = LabelIndex((name, 10 + row) for row, name in enumerate(names))
    counts = Counter(names)
    wanted = {name for name in counts if fold_case(text) in fold_case(name)}
    by_count = index.search(text, "count", 100, covers=2)
    assert by_count.total == len(wanted) and len(index) == len(counts)
    assert {name: count for name, count, _ in by_count.labels} == {n: counts[n] for n in wanted}
    order = [(-count, name) for name, count, _ in by_count.labels]
    assert order == sorted(order)
    by_name = index.search(text, "name", 3, offset=1).labels
    assert [name for name, _, _ in by_name] == sorted(wanted)[1:4]
    for name, _, covers in by_count.labels:
        rows = [10 + row for row, other in enumerate(names) if other == name]
        assert index.rows(name).tolist() == rows and covers == rows[:2]


def test_names_are_known_in_either_form_of_unicode():
    index = LabelIndex([("cafe\u0301", 1), ("b", 2)])
    assert index.rows("caf\u00e9").tolist() == [1] and not len(index.rows("c"))
    assert index.search("CAF\u00c9").total == 1
    assert LabelIndex([]).search("x").total == len(LabelIndex([]).rows("x")) == 0
