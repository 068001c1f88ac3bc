from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from delg.inference.tensorflow_network import TensorFlowNetwork
from delg.network.delg_model import Delg

PIXELS = np.random.default_rng(1).integers(0, 256, (96, 160, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def model(make_small: Callable[..., Delg]) -> Delg:
    return make_small()


@pytest.fixture(scope="module")
def network(model: Delg) -> TensorFlowNetwork:
    return TensorFlowNetwork(model)


def test_the_frozen_network_answers_as_the_model(model: Delg, network: TensorFlowNetwork) -> None:
    expected = {name: np.asarray(value)[0] for name, value in model(PIXELS[None]).items()}
    maps = network.run(PIXELS, with_global=True)
    rows, columns = expected["attention"].shape
    np.testing.assert_allclose(maps.global_descriptor, expected["global_descriptor"], atol=1e-4)
    descriptors = maps.descriptors.reshape(rows, columns, -1)
    np.testing.assert_allclose(descriptors, expected["local_descriptors"], atol=1e-4)
    np.testing.assert_allclose(maps.scores.reshape(rows, columns), expected["attention"], rtol=1e-3)


def test_the_global_descriptor_is_left_out_unless_asked_for(network: TensorFlowNetwork) -> None:
    without, with_it = network.run(PIXELS, False), network.run(PIXELS, True)
    assert without.global_descriptor is None
    assert np.linalg.norm(with_it.global_descriptor) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(without.descriptors, with_it.descriptors, atol=1e-5)
    np.testing.assert_allclose(without.scores, with_it.scores, rtol=1e-5)


def test_centres_go_row_by_row_in_x_y_order(model: Delg, network: TensorFlowNetwork) -> None:
    maps = network.run(PIXELS, False)
    assert maps.centres.shape == (6 * 10, 2)
    assert maps.centres.dtype == np.float32
    first, step = model.offset, model.stride
    assert maps.centres[0].tolist() == [first, first]
    assert maps.centres[1].tolist() == [first + step, first]
    assert maps.centres[10].tolist() == [first, first + step]
    assert maps.centres[-1].tolist() == [first + 9 * step, first + 5 * step]


def test_scores_and_descriptors_belong_to_the_same_cells(network: TensorFlowNetwork) -> None:
    """A patch changes only the cells that can see it: those below it, not their mirror image."""
    grey = np.full((1024, 640, 3), 128, np.uint8)
    patched = grey.copy()
    patched[768:800, 192:224] = 255
    before, after = network.run(grey, False), network.run(patched, False)
    change = np.abs(before.descriptors - after.descriptors).max(axis=1)
    assert change.max() > 1e-3
    # Half of the receptive field of 339 pixels, and half of the patch.
    reached = np.abs(before.centres[change > 1e-5] - (207.5, 783.5)).max()
    assert reached <= 339 / 2 + 32 / 2
    scored = np.abs(before.scores - after.scores)
    middle = (before.centres * scored[:, None]).sum(axis=0) / scored.sum()
    assert np.abs(middle - (207.5, 783.5)).max() < 48


def test_later_changes_of_the_model_are_not_seen(model: Delg, network: TensorFlowNetwork) -> None:
    before = network.run(PIXELS, True)
    saved = model.whitening.get_weights()
    model.whitening.set_weights([w + 1 for w in saved])
    after = network.run(PIXELS, True)
    model.whitening.set_weights(saved)
    assert (before.global_descriptor == after.global_descriptor).all()
