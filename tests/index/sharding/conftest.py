"""Photos, a model with a vocabulary, and one small Ray cluster for the tests of shards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from dots import DotModel, Dots, dots, gallery, model_folder

from eval.speed.ray_cluster import ray_cluster
from index import ImageIndex
from index.sharding.sharded_index import ShardedIndex
from index.sharding.shards import ShardMap
from index.storage.vocabulary import Vocabulary, write_vocabulary

SHARDS = 2
HELPERS = Path(__file__).parents[2] / "helpers"


def join(*parts: Dots) -> Dots:
    points, first = np.unique(
        np.concatenate([part.points for part in parts]), axis=0, return_index=True
    )
    return Dots(points, np.concatenate([part.colours for part in parts])[first], parts[0].size)


@pytest.fixture(scope="session")
def words_model(tmp_path_factory) -> Path:
    """The folder of a model of dots with a vocabulary."""
    folder = model_folder(tmp_path_factory.mktemp("words-model"))
    local = np.concatenate([DotModel(folder).extract(dots(n).pixels()).local.descriptors
                            for n in range(12)])  # fmt: skip
    write_vocabulary(folder / "vocabulary.h5", Vocabulary.train(local, words=200))
    return folder


@pytest.fixture(scope="session")
def sharded_photos(tmp_path_factory) -> Path:
    """36 photos of dots, some of which share dots, and one photo five times under other names;
    one that cannot be read; and a table of labels."""
    folder = tmp_path_factory.mktemp("sharded") / "photos"
    gallery(folder, 24)
    for n in range(6):
        join(dots(n, 25), dots(100 + n, 25)).save(folder / f"like-{n}.png")
    for n in range(5):
        dots(50).save(folder / f"same-{n}.png")
    (folder / "broken.png").write_bytes(b"no photo")
    rows = [f"{n:03d}.png,{'tower' if n % 2 else 'bridge'},{n % 3}" for n in range(24)]
    (folder.parent / "labels.csv").write_text("\n".join(["id,label,room", *rows]))
    return folder


def create(folder: Path, model: Path, replicas: int = 1) -> ShardedIndex:
    """A new index of shards that may take their time, as others may use the machine."""
    ShardedIndex.create_sharded(folder, SHARDS, str(model), None, replicas).close()
    ShardMap.read(folder).model_copy(update={"deadline_seconds": 300.0}).write(folder)
    return ShardedIndex.open(folder)


def build(images: ImageIndex, model: Path, photos: Path) -> ImageIndex:
    images.share_model(partial(DotModel, model))
    images.add(photos, labels=str(photos.parent / "labels.csv"))
    return images


@pytest.fixture(scope="session")
def one(tmp_path_factory, words_model, sharded_photos) -> ImageIndex:
    """All photos in one index; only to be read."""
    images = ImageIndex.create(tmp_path_factory.mktemp("one") / "one.index", str(words_model))
    return build(images, words_model, sharded_photos)


@pytest.fixture(scope="session")
def several(tmp_path_factory, words_model, sharded_photos) -> ImageIndex:
    """The same photos in several shards; only to be read."""
    folder = tmp_path_factory.mktemp("several") / "several.index"
    images = create(folder, words_model)
    return build(images, words_model, sharded_photos)


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """A cluster of two nodes on this machine."""
    pytest.importorskip("ray")
    paths = os.pathsep.join([str(HELPERS), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", paths)
        with ray_cluster(2) as address:
            assert address is not None
            yield address
