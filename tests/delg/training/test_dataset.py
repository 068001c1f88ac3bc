from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from delg.errors import DelgError, UsageError
from delg.images.decode import ImageError, decode
from delg.training.batches import Batches, Sampler
from delg.training.dataset import list_items, split_items
from delg.training.gldv2 import read_gldv2
from delg.training.image_cache import CachedStore, DiskStore, trim_borders
from delg.training.items import Item
from delg.training.label_cleaning import knn_label_agreement
from delg.training.settings import AugmentSettings, DataSettings, ScheduleSettings
from delg.training.tfrecords import list_records, read_image, write_tfrecords


def items_of(**sizes: int) -> list[Item]:
    return [Item(f"{k}/{i}", Path("x"), k) for k, n in sizes.items() for i in range(n)]


@pytest.fixture
def folder(tmp_path: Path, coffee: np.ndarray) -> Path:
    root = tmp_path / "photos"
    for number, label in enumerate("aab"):
        (root / label).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / label / f"{number}.png"), coffee[:120, number * 50 :][:, :160])
    (root / "b" / "broken.jpg").write_bytes(b"no photo")
    return root


def test_a_class_with_one_photo_is_trained_on() -> None:
    """The published code put it into validation only."""
    parts = split_items(items_of(lone=1, pair=2, many=20), DataSettings(validation_share=0.5), 0)
    assert {item.label for item in parts.train} == {"lone", "pair", "many"}
    assert [item.label for item in parts.validation].count("lone") == 0
    assert len(parts.validation) == 11


def test_each_label_is_split_by_itself() -> None:
    settings = DataSettings(validation_share=0.3)
    few = split_items(items_of(a=10, b=10), settings, 7)
    more = split_items(items_of(a=10, c=50, b=10), settings, 7)
    for label in "ab":
        assert [i for i in few.validation if i.label == label] == [
            i for i in more.validation if i.label == label
        ]
    assert split_items(items_of(a=10, b=10), settings, 8) != few


def test_held_out_labels_are_never_trained_on() -> None:
    settings = DataSettings(held_out=("out_*",), held_out_photos=3)
    parts = split_items(items_of(out_a=5, out_b=2, c=4), settings, 0)
    assert parts.labels == ["c"]
    assert sorted(i.label for i in parts.held_out) == ["out_a"] * 3 + ["out_b"] * 2


def test_folders_give_labels_and_kinds_do_not(folder: Path) -> None:
    items, _ = list_items(DataSettings(folders=(folder,), category_labels=("b",)))
    assert [item.label for item in items] == ["a", "a", None, None]
    assert [i.label for i in list_items(DataSettings(unlabelled=(folder,)))[0]] == [None] * 4
    with pytest.raises(UsageError, match="no photos"):
        list_items(DataSettings())


def test_every_photo_comes_once_an_epoch_in_a_new_order() -> None:
    """The published code shuffled within a buffer of 100."""
    labels = np.repeat(np.arange(10), 100).astype(np.int32)
    sampler = Sampler(labels, ScheduleSettings(batch=50), seed=3)
    epochs = [np.concatenate([sampler.photos(e * 20 + s) for s in range(20)]) for e in (0, 1)]
    for order in epochs:
        assert sorted(order) == list(range(1000))
        # Through the whole collection from the first batch on, not only its beginning.
        assert order[:50].max() > 800
        assert len(set(labels[order[:50]])) >= 8
    assert (epochs[0] != epochs[1]).mean() > 0.9
    again = Sampler(labels, ScheduleSettings(batch=50), seed=3)
    assert (again.photos(33) == np.split(epochs[1], 20)[13]).all()


def test_a_broken_photo_is_replaced_by_the_next_with_its_own_label(folder: Path) -> None:
    items, _ = list_items(DataSettings(folders=(folder,)))
    assert items[3].id == "photos/b/broken.jpg"
    store = DiskStore(items, 64, trim=False)
    labels = np.arange(len(items), dtype=np.int32)
    schedule = ScheduleSettings(batch=len(items), threads=1)
    [batch] = Batches(store, labels, AugmentSettings(side=32), schedule, seed=0).from_step(0, 1)
    assert sorted(batch.photos) == [0, 0, 1, 2]
    np.testing.assert_array_equal(batch.labels, labels[batch.photos])
    assert [failure.path for failure in store.failures] == ["photos/b/broken.jpg"]


def test_balanced_draws_do_not_follow_the_sizes() -> None:
    labels = np.array([0] * 950 + [1] * 50, np.int32)
    sampler = Sampler(labels, ScheduleSettings(batch=20, balanced=1.0), seed=0)
    drawn = labels[np.concatenate([sampler.photos(step) for step in range(50)])]
    assert 0.4 < drawn.mean() < 0.6


def test_the_cache_gives_what_decoding_gives(folder: Path, tmp_path: Path) -> None:
    items, _ = list_items(DataSettings(folders=(folder,)))
    disk = DiskStore(items, 100, False)
    cached = CachedStore(items, 100, False, tmp_path / "cache")
    assert [one.path for one in cached.failures] == ["photos/b/broken.jpg"]
    assert [i.id for i in cached.items] == ["photos/a/0.png", "photos/a/1.png", "photos/b/2.png"]
    for number in range(3):
        assert max(cached[number].shape) == 100
        np.testing.assert_array_equal(cached[number], disk[number])
    with pytest.raises(ImageError):
        disk[3]
    assert len(disk.failures) == 1
    stamp = (tmp_path / "cache" / "pixels.bin").stat().st_mtime_ns
    CachedStore(items, 100, False, tmp_path / "cache")
    assert (tmp_path / "cache" / "pixels.bin").stat().st_mtime_ns == stamp
    CachedStore(items, 64, False, tmp_path / "cache")
    assert (tmp_path / "cache" / "pixels.bin").stat().st_mtime_ns != stamp


def test_letterboxes_are_cut_off_and_dark_photos_are_not(coffee: np.ndarray) -> None:
    boxed = np.zeros((600, 600, 3), np.uint8)
    boxed[100:500] = coffee[:400, :600]
    np.testing.assert_array_equal(trim_borders(boxed), boxed[100:500])
    np.testing.assert_array_equal(trim_borders(coffee), coffee)
    assert trim_borders(np.zeros((50, 50, 3), np.uint8)).size


def test_tfrecords_come_back(folder: Path, tmp_path: Path) -> None:
    items, _ = list_items(DataSettings(folders=(folder,)))
    written, failures = write_tfrecords(items, tmp_path, "train", 2)
    assert (written, len(failures)) == (3, 1)
    found = list_records([str(tmp_path / "train-*")])
    assert {i.id: i.label for i in found} == {
        "photos/a/0.png": "0",
        "photos/a/1.png": "0",
        "photos/b/2.png": "1",
    }
    first = next(item for item in found if item.id == "photos/a/0.png")
    pixels = decode(read_image(first.source)).astype(int)
    assert abs(pixels - decode(items[0].source)).mean() < 3
    shard = tmp_path / "train-00000-of-00002"
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(DelgError, match="middle of a record"):
        list_records([str(shard)])
    with pytest.raises(UsageError, match="no file"):
        list_records([str(tmp_path / "absent-*")])


@pytest.mark.parametrize("clean", [True, False])
def test_gldv2_tables(tmp_path: Path, clean: bool) -> None:
    rows = (
        [("landmark_id", "images"), ("7", "0123456789abcdef 00aa"), ("9", "fedcba")]
        if clean
        else [("id", "url", "landmark_id"), ("0123456789abcdef", "http", "7"), ("00aa", "", "7"),
              ("fedcba", "", "9")]
    )  # fmt: skip
    path = tmp_path / "train.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    found = read_gldv2(path, tmp_path)
    assert [(i.id, i.label) for i in found] == [
        ("0123456789abcdef", "7"), ("00aa", "7"), ("fedcba", "9"),
    ]  # fmt: skip
    assert found[0].source == tmp_path / "0" / "1" / "2" / "0123456789abcdef.jpg"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="expected the columns"):
        read_gldv2(path, tmp_path)


def test_a_missing_image_is_a_failure_and_not_the_end(folder: Path, tmp_path: Path) -> None:
    items, _ = list_items(DataSettings(folders=(folder,)))
    absent = Item("absent", tmp_path / "absent.jpg", "7")
    assert [f.id for f in CachedStore([*items, absent], 64, True, tmp_path / "c").items] == [
        item.id for item in items[:3]
    ]


def test_labels_that_neighbours_do_not_share_are_noise() -> None:
    rng = np.random.default_rng(0)
    base = np.repeat(np.eye(3), 8, axis=0) + rng.normal(0, 0.05, (24, 3))
    descriptors = (base / np.linalg.norm(base, axis=1, keepdims=True)).astype(np.float32)
    labels = np.repeat([0, 1, 2], 8).astype(np.int32)
    labels[0], labels[23] = 2, -1
    found = knn_label_agreement(descriptors, labels, 5, 0.4)
    assert np.flatnonzero(~found).tolist() == [0, 23]
    assert knn_label_agreement(
        np.eye(3, dtype=np.float32), np.arange(3, dtype=np.int32), 5, 1
    ).all()
