"""What is learnt comes with the model: no index depends on what was added to it first."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from commands import run as run
from dots import DotModel, dots, gallery, model_folder

from delg import load_model
from delg.errors import ModelError, UsageError
from delg.zoo.registry import find_model
from index import ImageIndex
from index.labels import GivenLabels, Label
from index.learn.codebook import learn_codebook
from index.storage.codebook import read_codebook, write_codebook
from index.storage.opened_store import CODEBOOK
from index.storage.product_quantizer import MIN_TRAINING_VECTORS, ProductQuantizer
from index.storage.store import Store


@pytest.fixture(scope="module")
def training_photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    gallery(folder, 110, first=1000)
    return folder


@pytest.fixture(scope="module")
def coded_folder(tmp_path_factory, training_photos) -> Path:
    """A model of dots that has a codebook."""
    folder = model_folder(tmp_path_factory.mktemp("coded") / "model")
    write_codebook(folder / "codebook.h5", learn_codebook(DotModel(folder), [training_photos]))
    return folder


@pytest.fixture
def coded(coded_folder) -> DotModel:
    return DotModel(coded_folder)


def new_index(path: Path, model: DotModel) -> ImageIndex:
    images = ImageIndex.create(path, str(model.folder))
    images.use(model)
    return images


def records(images: ImageIndex) -> dict[str, bytes]:
    """The encoded local features of each photo."""
    store = images._store
    codebook = store.codebook
    return {
        row.id: store.segments[row.segment].encoded(row.position, codebook).records.tobytes()
        for row in store.catalog.images("ok")
    }


def blank_pages(folder: Path) -> Path:
    """Pages with the same few specks."""
    specks = dots(77, count=4)
    for number in range(12):
        specks.moved([[1, 0, number], [0, 1, 0], [0, 0, 1]], specks.size).save(
            folder / f"blank{number}.png"
        )
    return folder


def answers(images: ImageIndex, queries: list[Path]) -> list[list[tuple]]:
    return [[(hit.id, hit.score, hit.inliers) for hit in images.query(path)] for path in queries]


def test_the_order_of_adding_changes_nothing(coded, photos, tmp_path):
    blank, paths = blank_pages(tmp_path / "blank"), sorted(photos.iterdir())
    one, two = new_index(tmp_path / "one", coded), new_index(tmp_path / "two", coded)
    one.add(blank)
    one.add(photos)
    for path in reversed(paths):
        two.add(path)
    two.add(blank)
    for images in (one, two):
        assert all(segment.quantizer is not None for segment in images._store.segments.values())
    first = records(one)
    assert first == records(two) and len(first) == 24
    assert answers(one, paths) == answers(two, paths)
    one.compact()
    two.compact()
    assert first == records(one) == records(two)
    assert one.info()["codebook"] == two.info()["codebook"] != ""
    assert not one.check().notes and not one.check().problems


def test_a_model_gets_its_codebook_later(model, coded_folder, photos, tmp_path, caplog):
    folder = shutil.copytree(model.folder, tmp_path / "model")
    model = DotModel(folder)
    with caplog.at_level("INFO"):
        images = new_index(tmp_path / "my.index", model)
    assert "delg model codebook" in caplog.text
    images.add(photos)
    assert [segment.quantizer for segment in images._store.segments.values()] == [None]
    assert not images.check().notes
    before = answers(images, [photos / "003.png"])
    shutil.copy(coded_folder / "codebook.h5", folder)
    assert "compact encodes them" in " ".join(images.check().notes)
    images.compact()
    assert not images.check().notes
    [segment] = images._store.segments.values()
    assert segment.quantizer.is_same(read_codebook(folder / "codebook.h5", 32))
    assert answers(images, [photos / "003.png"])[0][0][0] == before[0][0][0] == "003.png"
    like = images.create_like(tmp_path / "like.index")
    assert like._store.codebook.is_same(segment.quantizer)


@pytest.fixture
def spoilt(coded, photos, tmp_path) -> ImageIndex:
    """An index as versions made it that learnt codes from the first photos, which were blank."""
    rng = np.random.default_rng(0)
    specks = np.eye(32, dtype=np.float32)[:2][rng.integers(0, 2, MIN_TRAINING_VECTORS)]
    images = new_index(tmp_path / "old.index", coded)
    images._store.set_codebook(ProductQuantizer.train(specks))
    images.add(photos, GivenLabels({"003.png": Label("three", {})}))
    with images._store.catalog.write() as db:
        db.execute("DELETE FROM meta WHERE key = ?", (CODEBOOK,))
    images.close()
    images = ImageIndex.open(images.path)
    images.use(coded)
    return images


def test_spoilt_codes_are_reported_and_mended(spoilt, photos, coded, tmp_path):
    assert not any(hit.verified for hit in spoilt.query(photos / "003.png"))
    [problem] = spoilt.check().problems
    assert "spoilt in 12 photos" in problem and "compact" in problem
    spoilt.compact()
    assert not spoilt.check().problems and len(spoilt) == 12
    assert spoilt.image("003.png").label == "three"
    fresh = new_index(tmp_path / "fresh.index", coded)
    fresh.add(photos)
    assert records(spoilt) == records(fresh)
    assert answers(spoilt, [photos / "003.png"]) == answers(fresh, [photos / "003.png"])


def test_photos_that_are_gone_keep_the_codes_they_have(spoilt, photos, coded):
    before = records(spoilt)
    (photos / "001.png").unlink()
    dots(99).save(photos / "002.png")
    spoilt.compact()
    store = Store(spoilt.path)
    assert sorted(len(segment) for segment in store.segments.values()) == [2, 10]
    [problem] = spoilt.check().problems or [""]
    assert problem == "" or "in 2 photos" in problem
    assert len(spoilt) == 12 and before.keys() == records(spoilt).keys()
    spoilt.add(photos)
    assert spoilt._store.segments.quantizers[-1] is spoilt._store.codebook


def test_new_photos_of_an_older_index_are_encoded_by_the_codebook_of_the_model(spoilt, tmp_path):
    gallery(tmp_path / "more", 2, first=50)
    spoilt.add(tmp_path / "more")
    assert spoilt.query(tmp_path / "more" / "051.png")[0].verified


def test_the_same_photos_give_the_same_codebook(coded, coded_folder, training_photos):
    again = learn_codebook(coded, [training_photos])
    assert again.is_same(read_codebook(coded_folder / "codebook.h5", 32))


def test_too_few_photos_are_refused(coded, photos):
    with pytest.raises(UsageError, match="480 local features; a codebook needs 4,000"):
        learn_codebook(coded, [photos])


def test_the_models_that_ship_have_codebooks_that_fit_photos(real_photos):
    for name in ("delg-lite", "sift"):
        model = load_model(name)
        codebook = read_codebook(find_model(name).codebook, model.local_dim)
        for photo in ("astronaut", "page"):
            local = model.extract(real_photos / f"{photo}.jpg").local.descriptors
            decoded = codebook.reconstruct(codebook.encode(local))
            assert (decoded * local).sum(axis=1).mean() > 0.8


@pytest.mark.parametrize("part", ["missing", "type", "shape", "width", "nan", "bytes"])
def test_a_broken_codebook_is_refused_by_name(coded_folder, tmp_path, part):
    path = tmp_path / "codebook.h5"
    shutil.copy(coded_folder / "codebook.h5", path)
    if part == "bytes":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        with h5py.File(path, "r+") as file:
            rotation = file["rotation"][()]
            del file["rotation"]
            if part == "nan":
                rotation[0] = np.nan
            changed = {
                "type": rotation.astype(np.float64),
                "shape": rotation[:, 1:],
                "width": rotation[1:],
                "nan": rotation,
            }
            if part != "missing":
                file["rotation"] = changed[part]
    with pytest.raises(ModelError, match=r"codebook\.h5"):
        read_codebook(path, 32)


def test_the_command_does_not_overwrite(run, tmp_path):
    done = run("model", "codebook", "delg-lite", "--photos", tmp_path)
    assert done.returncode == 2 and "exists" in done.stderr
