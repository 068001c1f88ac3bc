"""Learning an attention from photos, as typed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from delg import load_model
from delg.errors import UsageError
from delg.zoo.registry import find_model
from index.attention import train
from index.attention.learn import CellSample
from index.cli.model import model_attention

WEIGHTS = "2,1.5,1,.5"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name in ("coffee", "chelsea"):
        Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def learnt(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "learnt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_STEPS", 20)
        model_attention("delg-lite", [photos], out, scale_weights=WEIGHTS)
    return out


def test_descriptors_stay_and_the_selection_changes(learnt: Path) -> None:
    before, after = load_model("delg-lite").network_alone, load_model(str(learnt))
    assert after.settings.aggregate is None and after.fingerprint != before.fingerprint
    assert after.settings.local_head.attention == "learned"
    assert after.settings.extraction.scale_weights == (2, 1.5, 1, 0.5)
    photo = skimage.data.astronaut()
    old, new = before.extract(photo), after.extract(photo)
    np.testing.assert_array_equal(new.global_descriptor, old.global_descriptor)
    by_place = {
        (*map(float, point), float(scale)): descriptor
        for point, scale, descriptor in zip(
            old.local.keypoints, old.local.scales, old.local.descriptors, strict=True
        )
    }
    common = 0
    for point, scale, descriptor in zip(
        new.local.keypoints, new.local.scales, new.local.descriptors, strict=True
    ):
        expected = by_place.get((*map(float, point), float(scale)))
        if expected is not None:
            np.testing.assert_array_equal(descriptor, expected)
            common += 1
    assert 100 < common < len(new.local)


def test_the_copy_has_what_stays_valid_and_no_calibration(learnt: Path) -> None:
    before, after = find_model("delg-lite"), find_model(str(learnt))
    assert after.codebook.read_bytes() == before.codebook.read_bytes()
    assert after.vocabulary.read_bytes() == before.vocabulary.read_bytes()
    assert not after.calibration.exists()


def test_scores_are_those_of_keras(learnt: Path) -> None:
    from delg.network.delg_model import Delg
    from delg.network.weights import load_weights, read_weights

    model = Delg(find_model(str(learnt)).settings)
    load_weights(model, read_weights(learnt / "weights.h5"), "learnt")
    pixels = skimage.data.coffee()[:192, :256]
    expected = np.asarray(model(pixels[None])["attention"]).ravel()
    scores = load_model(str(learnt)).backend.run(pixels).scores
    # The map that is judged is quantised in one of them.
    assert np.corrcoef(expected, scores)[0, 1] > 0.98


def test_attention_learns_what_tells_matching_cells() -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(4000, 6)).astype(np.float32)
    sample = CellSample(maps, maps[:, 2] > np.abs(maps[:, 4]), np.ones(4000, np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_STEPS", 300)
        variables = train.train_attention(sample)
    hidden = maps @ variables["hidden/kernel"][0, 0] + variables["hidden/bias"]
    spread = np.sqrt(variables["norm/moving_variance"] + 1e-3)
    hidden = (hidden - variables["norm/moving_mean"]) / spread * variables["norm/gamma"]
    hidden = np.maximum(hidden + variables["norm/beta"], 0)
    logits = hidden @ variables["score/kernel"][0, 0, :, 0] + variables["score/bias"]
    assert ((logits > 0) == sample.matches).mean() > 0.9


@pytest.mark.parametrize(
    ("model", "weights", "said"),
    [
        ("delg-lite", "1,2", "one number per scale"),
        ("delg-lite", "1,2,x,4", "not a list of numbers"),
        ("delg-lite", "1,2,-3,4", "greater than 0"),
        ("sift", None, "its local features are SIFT"),
    ],
)
def test_what_does_not_fit_is_refused(
    photos: Path, tmp_path: Path, model: str, weights: str | None, said: str
) -> None:
    with pytest.raises(Exception, match=said):
        model_attention(model, [photos], tmp_path / "out", scale_weights=weights)
    assert not (tmp_path / "out").exists()


def test_photos_that_cannot_be_read_teach_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no photo")
    with pytest.raises(UsageError, match="no pairs"):
        model_attention("delg-lite", [tmp_path], tmp_path / "out")
