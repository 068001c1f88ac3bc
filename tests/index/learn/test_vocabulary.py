"""The vocabulary comes with the model: learnt by one command, the same from the same photos."""

from pathlib import Path

import numpy as np
import pytest
from commands import run as run
from dots import DotModel, gallery, model_folder

from delg.errors import UsageError
from delg.zoo.registry import find_model
from index.learn.vocabulary import learn_vocabulary
from index.storage.product_quantizer import ProductQuantizer
from index.storage.vocabulary import read_vocabulary


@pytest.fixture(scope="module")
def training_photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    gallery(folder, 30, first=1000)
    return folder


def test_the_same_photos_give_the_same_vocabulary(tmp_path, training_photos):
    model = DotModel(model_folder(tmp_path / "model"))
    first = learn_vocabulary(model, [training_photos], words=50)
    again = learn_vocabulary(model, [training_photos], words=50)
    assert first.digest == again.digest and first.size == 50
    # From descriptors as a codebook would give them back.
    sample = np.concatenate(
        [model.extract(path).local.descriptors for path in sorted(training_photos.iterdir())]
    )
    codebook = ProductQuantizer.train(np.tile(sample, (4, 1)))
    assert learn_vocabulary(model, [training_photos], codebook, 50).digest != first.digest


def test_too_few_photos_are_refused(tmp_path, training_photos):
    model = DotModel(model_folder(tmp_path / "model"))
    with pytest.raises(UsageError, match="1,200 local features; a vocabulary of 200 words needs"):
        learn_vocabulary(model, [training_photos], words=200)


def test_the_vocabulary_that_ships_fits_the_model():
    path = find_model("delg-lite").vocabulary
    vocabulary = read_vocabulary(path, 112)
    assert (vocabulary.size, vocabulary.dim) == (4096, 64)
    assert path.stat().st_size < 1_000_000


def test_the_command_does_not_overwrite(run, tmp_path):
    (tmp_path / "taken.h5").touch()
    taken = "--photos", tmp_path, "--out", tmp_path / "taken.h5"
    done = run("model", "vocabulary", "delg-lite", *taken)
    assert done.returncode == 2 and "exists" in done.stderr
    done = run("model", "vocabulary", "delg-lite", "--photos", tmp_path, "--out", tmp_path / "v.h5")
    assert done.returncode == 2 and "0 local features" in done.stderr
