"""Looking through an index: filters and counts."""

from __future__ import annotations

import pytest

from index.collection.columns import Filter


@pytest.fixture
def images(make_index, photos, tmp_path):
    """12 photos with labels and metadata, and one that failed."""
    (photos / "broken_%.png").write_bytes(b"x")
    lines = [
        "id,label,room,note",
        *(f"{n:03d}.png,{'ab'[n % 2]},R{n // 6},Höhe {n}" for n in range(10)),
    ]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    images = make_index()
    images.add(photos, str(tmp_path / "labels.csv"))
    return images


def page_ids(images, limit=100, offset=0, **condition) -> tuple[list[str], int]:
    selection = images.browse(Filter(**condition), limit, offset)
    return [image.id for image in selection.images], selection.total


def test_without_a_filter_all_that_can_be_found_come_by_id_and_in_pages(images):
    names = [f"{n:03d}.png" for n in range(12)]
    assert page_ids(images) == (names, 12)
    assert page_ids(images, 5, 5) == (names[5:10], 12)
    assert page_ids(images, 5, 50) == ([], 12)


def test_each_filter_and_all_together(images):
    assert page_ids(images, label="a")[1] == 5
    assert page_ids(images, text="00", label="b")[0] == [
        "001.png",
        "003.png",
        "005.png",
        "007.png",
        "009.png",
    ]
    assert page_ids(images, key="room", value="r1")[0] == [f"{n:03d}.png" for n in range(6, 10)]
    assert page_ids(images, key="room")[1] == 10
    assert page_ids(images, key="note", value="Höhe 3", label="b", text=".PNG")[0] == ["003.png"]
    assert page_ids(images, key="nothing")[1] == page_ids(images, label="A")[1] == 0


def test_a_filter_takes_either_unicode_form(images):
    assert page_ids(images, key="note", value="Ho\u0308he 3")[0] == ["003.png"]
    assert page_ids(images, key="note", value="H\u00f6he 3")[0] == ["003.png"]


def test_failures_are_apart(images):
    assert page_ids(images, state="failed") == (["broken_%.png"], 1)
    assert images.counts()["reasons"][0][1] == 1


@pytest.mark.parametrize("text", ["%", "_", "'", '"', "\\", "' OR 1=1 --", "*"])
def test_signs_of_the_query_language_are_only_signs(images, text):
    for key in ("text", "label", "key", "value"):
        condition = {"key": "note", key: text}
        assert page_ids(images, **condition)[0] == []


def test_tallies_count_labels_and_metadata(images):
    counts = images.counts()
    assert counts["labels"] == [("a", 5), ("b", 5)]
    assert dict(counts["metadata"]) == {"room": 10, "note": 10}
    assert len(images.counts(1)["labels"]) == 1
