"""An index adapted to labels: what it learns, what stays as it was, and that kills cost nothing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dots import Dots, contents, dots

from delg.errors import UsageError
from delg.types import ImageFeatures, LocalFeatures
from index import ImageIndex
from index.feature_spec import FeatureSpec
from index.storage.ann_index import FILE as SHORTLIST
from index.storage.catalog_tables import ImageRow

DIM, NUISANCES, LABELS, PER_LABEL = 32, 4, 24, 6


def descriptors(labels: int, per_label: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors and labels: things differ in all directions, and photos of one thing, much
    more, in a few that are the same for all."""
    rng = np.random.default_rng(seed)
    shared = np.linalg.qr(np.random.default_rng(9).normal(size=(DIM, NUISANCES)))[0].T
    things = np.repeat(rng.normal(size=(labels, DIM)), per_label, axis=0)
    nuisance = 5 * rng.normal(size=(len(things), NUISANCES)) @ shared
    vectors = things + nuisance + 0.3 * rng.normal(size=things.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), np.repeat(np.arange(labels), per_label)


def features(vector: np.ndarray) -> ImageFeatures:
    return ImageFeatures(vector, LocalFeatures.empty(8), 64, 48)


def make(place: Path, labels: int = LABELS, per_label: int = PER_LABEL) -> ImageIndex:
    """An index of such descriptors, labelled by the folder in their ids."""
    vectors, numbers = descriptors(labels, per_label)
    images = ImageIndex.create_for_features(place, FeatureSpec("x", DIM, 8, aggregated=False))
    ids = [f"{label:02d}/{number}.jpg" for number, label in enumerate(numbers)]
    with images._store.lock():
        images._store.commit(
            [ImageRow(name, "", 0, 0, "", width=64, height=48) for name in ids],
            [features(vector) for vector in vectors],
        )
        images._store.save_ann_index()
    return images


def similarities(images: ImageIndex) -> dict[str, float]:
    vector = images.features("00/0.jpg").global_descriptor
    return {hit.id: hit.similarity for hit in images.query_features(features(vector), 500, 0)}


def test_photos_of_held_out_labels_are_found_better_and_undo_restores_all(tmp_path):
    images = make(tmp_path / "i")
    before, stored = similarities(images), contents(images.path)
    report = images.adapt("folders")
    assert report.applied and (report.labels, report.photos) == (LABELS, LABELS * PER_LABEL)
    assert report.map_before < 0.5 and report.map_after > 0.8
    after = similarities(images)
    assert [name for name in list(after)[:PER_LABEL] if name.startswith("00/")] == list(after)[
        :PER_LABEL
    ]
    # What is stored stays as the model made it, and so does what is exported.
    assert contents(images.path) == stored
    assert images.check().problems == [] and images.check().notes == []
    assert images.info()["adaptation"] == images._store.adaptation.digest
    again = ImageIndex.open(images.path)
    assert again._store.ann_index_current and similarities(again) == after
    assert again.undo_adaptation() and not again.undo_adaptation()
    assert similarities(again) == before and again.info()["adaptation"] == ""
    # Another process, which was open meanwhile, sees one state until it moves on.
    assert similarities(images) == after
    images.refresh()
    assert similarities(images) == before


def test_adding_removing_and_compacting_go_on_in_the_adapted_space(tmp_path):
    images = make(tmp_path / "i")
    images.adapt("folders")
    expected = similarities(images)
    first = images.features("00/0.jpg")
    with images._store.lock():
        images._store.commit([ImageRow("new.jpg", "", 0, 0, "", width=64, height=48)], [first])
        images._store.save_ann_index()
    assert similarities(images)["new.jpg"] == pytest.approx(1, abs=1e-5)
    images.remove(["00/1.jpg", "new.jpg"])
    images.compact()
    del expected["00/1.jpg"]
    assert similarities(images) == pytest.approx(expected, abs=1e-6)
    assert images.check().problems == []
    (images.path / SHORTLIST).unlink()
    assert similarities(ImageIndex.open(images.path)) == pytest.approx(expected, abs=1e-6)


def test_a_shortlist_of_another_space_is_never_used(tmp_path):
    images = make(tmp_path / "i")
    plain, before = (images.path / SHORTLIST).read_bytes(), similarities(images)
    images.adapt("folders")
    after = similarities(images)
    adapted = (images.path / SHORTLIST).read_bytes()
    (images.path / SHORTLIST).write_bytes(plain)
    assert similarities(ImageIndex.open(images.path)) == after
    images.undo_adaptation()
    (images.path / SHORTLIST).write_bytes(adapted)
    assert similarities(ImageIndex.open(images.path)) == before


def test_too_few_labels_are_refused_with_the_numbers_needed(tmp_path):
    few = make(tmp_path / "few", labels=4, per_label=20)
    with pytest.raises(UsageError, match=r"8 labels or more .* 50 such photos; there are 4 and 80"):
        few.adapt("folders")
    with pytest.raises(UsageError, match="there are 0 and 0"):
        few.adapt()
    with pytest.raises(UsageError, match="shrinkage=2"):
        few.adapt("folders", shrinkage=2)
    assert few.info()["adaptation"] == ""


def test_labels_that_teach_nothing_change_nothing(tmp_path):
    images = make(tmp_path / "i")
    rng = np.random.default_rng(3)
    ids = images.ids()
    path = tmp_path / "labels.csv"
    path.write_text(
        "id,label\nnowhere.jpg,0\n" + "".join(f"{name},{rng.integers(24)}\n" for name in ids)
    )
    # Shrunk entirely, only the mean is taken off.
    report = images.adapt(str(path), shrinkage=1)
    assert report.unknown_labels == ["nowhere.jpg"]
    if report.map_after <= report.map_before:
        assert not report.applied and images.info()["adaptation"] == ""
    assert images.adapt(str(path), force=True).applied


def test_indexes_adapted_otherwise_are_not_searched_together(tmp_path, make_index, photos):
    one, two = make_index("one"), make_index("two")
    one.add(photos)
    two.add(photos)
    adaptation = make(tmp_path / "i")
    adaptation.adapt("folders")
    wide = np.eye(64, dtype=np.float16)
    with one._store.lock():
        one._store.set_adaptation(
            replace(adaptation._store.adaptation, mean=np.zeros(64, np.float32), kernel=wide), {}
        )
    with pytest.raises(UsageError, match="two has the adaptation none"):
        one.search(photos / "000.png", others=[two])
    with one.create_like(tmp_path / "like") as like:
        like.add(photos)
        assert one.search(photos / "000.png", others=[like]).hits(1, 0)[0].similarity > 0.99


LABELLED = [f"{label}/{number}.png" for label in "abcdefgh" for number in range(7)]


@pytest.fixture
def labelled(tmp_path, make_index) -> Path:
    """An index of photos of eight things, in folders."""
    for name in LABELLED:
        thing, other = dots(ord(name[0]), 30), dots(sum(name.encode()) * 7 + int(name[2]), 20)
        both = Dots(np.r_[thing.points, other.points], np.r_[thing.colours, other.colours])
        both.save(tmp_path / "photos" / name)
    with make_index() as images:
        images.add(tmp_path / "photos")
    return images.path


@pytest.mark.parametrize(
    ("point", "is_adapted"),
    [
        ("inside the adaptation", False),
        ("before the shortlist", True),
        ("inside the shortlist", True),
    ],
)
def test_killed_while_it_adapts_an_index_is_adapted_or_not(
    labelled, work, reopen, tmp_path, point, is_adapted
):
    before = contents(labelled)
    code, _ = work("adapt", labelled, "--kill", f"{point}:1")
    assert code == -9
    with reopen(labelled) as images:
        assert (images.info()["adaptation"] != "") == is_adapted
        hits = images.query(tmp_path / "photos" / "a/0.png", k=100, rerank=0)
        assert len(hits) == len(LABELLED) and hits[0].id == "a/0.png"
        assert hits[0].similarity == pytest.approx(1, abs=1e-3)
        assert images.check().problems == []
        digest = images.info()["adaptation"]
    code, report = work("adapt", labelled)
    assert code == 0 and report["applied"]
    with reopen(labelled) as images:
        assert images.check().notes == []
        assert digest in ("", images.info()["adaptation"])
    assert contents(labelled) == before


def test_the_command(labelled, run, tmp_path):
    done = run("index", "adapt", "--index", labelled, "--labels", "folders", "--force", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["labels"], report["photos"], report["applied"]) == (8, 56, True)
    done = run("index", "adapt", "--index", labelled, "--undo")
    assert done.stdout == f"{labelled}: adaptation removed\n"
    path = tmp_path / "l.csv"
    path.write_text("id,label\na/0.png,x\n")
    done = run("index", "adapt", "--index", labelled, "--labels", path)
    assert done.returncode == 2 and "adapting takes 8 labels" in done.stderr
