from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delg.errors import DelgError
from delg.network.delg_model import Delg
from delg.training.imagenet.initialise import collect, fit


@pytest.fixture(scope="module")
def photos(
    tmp_path_factory: pytest.TempPathFactory, coffee: np.ndarray, astronaut: np.ndarray
) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    for name, pixels in (("a", coffee), ("b", astronaut), ("c", coffee[:200, :200])):
        Image.fromarray(pixels).save(folder / f"{name}.jpg")
    (folder / "broken.jpg").write_bytes(b"not a photo")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Delg]) -> Delg:
    return make_model(
        backbone="lite_short",
        global_head={"dim": 4, "normalize_pooled": True},
        local_head={"dim": 6, "attention": "norm", "decoder_activation": "linear"},
        extraction={"longest_side": 128, "scales": [0.5, 1.0], "global_scales": [1.0, 1.5]},
    )


def test_whitening_and_codes_are_learnt_from_every_readable_photo(
    model: Delg, photos: list[Path]
) -> None:
    pooled, cells = collect(model, photos)
    assert pooled is not None and pooled.shape == (3 * 2, 1280)
    np.testing.assert_allclose(np.linalg.norm(pooled, axis=1), 1, rtol=1e-4)
    # 8×5, 6×8 and 8×8 cells at scale 1, a quarter of them at scale 0.5.
    assert cells.shape[1] == 32
    assert 150 < len(cells) <= 3 * 150
    backbone = [np.array(weights) for weights in model.shallow.get_weights()]
    fit(model, photos)
    for before, after in zip(backbone, model.shallow.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    # The whitened global vectors are centred.
    kernel, bias = model.whitening.projection.get_weights()
    projected = pooled @ kernel + bias
    assert np.abs(projected.mean(axis=0)).max() < 1e-2 * np.abs(projected).max()
    # Codes can be decoded, and the mean feature is its own reconstruction.
    codes, decoded = (np.asarray(x) for x in model.autoencoder(cells[None, None]))
    np.testing.assert_allclose(model.autoencoder.encode(decoded), codes, atol=1e-3 * codes.std())
    mean = cells.mean(axis=0)
    decoded_mean = np.ravel(model.autoencoder(mean[None, None, None])[1])
    np.testing.assert_allclose(decoded_mean, mean, atol=1e-2 * np.abs(mean).max())


def test_no_readable_photo_is_an_error(model: Delg, photos: list[Path]) -> None:
    for paths in ([], [path for path in photos if path.stem == "broken"]):
        with pytest.raises(DelgError, match="no photo"):
            fit(model, paths)
