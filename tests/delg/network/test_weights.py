from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from delg.errors import DelgError, ModelError
from delg.network.delg_model import Delg
from delg.network.weights import (
    load_weights,
    named_variables,
    read_weights,
    save_weights,
    weights_digest,
)

PIXELS = np.random.default_rng(3).integers(0, 256, (1, 64, 96, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def model(make_small: Callable[..., Delg]) -> Delg:
    return make_small(1)


@pytest.fixture(scope="module")
def other(make_small: Callable[..., Delg]) -> Delg:
    """The same architecture with other weights."""
    return make_small(2)


@pytest.fixture
def path(model: Delg, tmp_path: Path) -> Path:
    path = tmp_path / "weights.h5"
    save_weights(model, path)
    return path


def same(model: Delg, values: dict[str, np.ndarray]) -> bool:
    return all(
        np.array_equal(variable.value, values[name]) for name, variable in named_variables(model)
    )


def exact(model: Delg) -> dict[str, np.ndarray]:
    return {name: np.array(variable.value) for name, variable in named_variables(model)}


def test_every_variable_of_the_model_has_a_name_of_its_own(model: Delg) -> None:
    names = [name for name, _ in named_variables(model)]
    assert len(names) == len(set(names)) == len(model.weights)
    assert {"gem/p", "stem_conv/kernel", "head_bn/moving_variance"} <= set(names)
    assert {"whitening/projection/bias", "autoencoder/encoder/kernel"} <= set(names)
    assert {"attention/norm/gamma", "attention/score/kernel"} <= set(names)


def test_names_depend_on_the_architecture_alone(model: Delg, other: Delg) -> None:
    assert [name for name, _ in named_variables(model)] == [
        name for name, _ in named_variables(other)
    ]


def test_round_trip_in_float32_is_exact(model: Delg, other: Delg, tmp_path: Path) -> None:
    save_weights(model, tmp_path / "w.h5", dtype="float32")
    load_weights(other, read_weights(tmp_path / "w.h5"), "w.h5")
    assert same(other, exact(model))
    expected = model(PIXELS)
    for name, value in other(PIXELS).items():
        np.testing.assert_array_equal(value, expected[name])


def test_round_trip_in_float16_is_close_and_half_the_size(
    model: Delg, other: Delg, path: Path, tmp_path: Path
) -> None:
    load_weights(other, read_weights(path), "weights.h5")
    close = exact(other)
    for name, value in exact(model).items():
        np.testing.assert_allclose(close[name], value, rtol=2e-3, atol=1e-6)
    similarity = np.sum(
        np.asarray(model(PIXELS)["global_descriptor"])
        * np.asarray(other(PIXELS)["global_descriptor"])
    )
    assert similarity > 0.999
    save_weights(model, tmp_path / "full.h5", dtype="float32")
    assert path.stat().st_size < 0.6 * (tmp_path / "full.h5").stat().st_size


def test_values_that_do_not_fit_float16_stay_float32(
    make_small: Callable[..., Delg], tmp_path: Path
) -> None:
    model = make_small()
    large = np.linspace(-1e6, 1e6, 16).astype(np.float32)
    model.whitening.projection.bias.assign(large)
    with np.errstate(over="ignore"):
        save_weights(model, tmp_path / "w.h5")
    values = read_weights(tmp_path / "w.h5")
    assert values["whitening/projection/bias"].dtype == np.float32
    assert (values["whitening/projection/bias"] == large).all()
    assert values["whitening/projection/kernel"].dtype == np.float16


def test_a_failed_save_leaves_the_old_file(
    model: Delg, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(h5py.File, "create_dataset", full)
    with pytest.raises(DelgError, match=r"h5: cannot be written: No space"):
        save_weights(model, path)
    assert path.read_bytes() == before


def test_a_saved_file_is_the_only_one_left(path: Path) -> None:
    assert list(path.parent.iterdir()) == [path]


# Strictness.


def test_a_missing_variable_is_named(model: Delg, path: Path) -> None:
    values = read_weights(path)
    del values["whitening/projection/bias"]
    with pytest.raises(ModelError, match=r"mine\.h5.*missing whitening/projection/bias"):
        load_weights(model, values, "mine.h5")


def test_a_variable_left_over_is_named(model: Delg, path: Path) -> None:
    values = {**read_weights(path), "classifier/kernel": np.zeros((3, 3))}
    with pytest.raises(ModelError, match="unknown classifier/kernel"):
        load_weights(model, values, "mine.h5")


def test_of_many_variables_the_number_is_told(model: Delg, path: Path) -> None:
    values = read_weights(path)
    with pytest.raises(ModelError, match=f"and {len(values) - 3} more"):
        load_weights(model, {}, "mine.h5")


def test_another_shape_is_named_and_nothing_is_changed(model: Delg, other: Delg) -> None:
    before = exact(other)
    last = list(before)[-1]
    values = {**exact(model), last: np.zeros((2, 3, 4), np.float32)}
    with pytest.raises(ModelError, match=rf"mine\.h5: {last}.*\(2, 3, 4\)"):
        load_weights(other, values, "mine.h5")
    assert same(other, before)


def test_weights_of_another_architecture_are_refused(
    make_model: Callable[..., Delg], path: Path
) -> None:
    wider = make_model(backbone="lite_short", global_head={"dim": 17})
    with pytest.raises(ModelError, match=r"weights\.h5"):
        load_weights(wider, read_weights(path), str(path))


# Files.


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.h5"):
        read_weights(tmp_path / "gone.h5")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89HDF\r\n\x1a\n" + b"\0" * 100])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.h5").write_bytes(content)
    with pytest.raises(ModelError, match=r"w\.h5"):
        read_weights(tmp_path / "w.h5")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=tmp_path.name):
        read_weights(tmp_path)


@pytest.mark.parametrize("part", [0.01, 0.2, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(path: Path, part: float) -> None:
    complete = path.read_bytes()
    path.write_bytes(complete[: int(len(complete) * part)])
    with pytest.raises(ModelError, match=r"weights\.h5"):
        read_weights(path)


def test_damaged_files_are_refused_or_read(tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    with h5py.File(path, "w", track_order=True) as file:
        for number in range(8):
            file[f"block{number}/kernel"] = np.full((3, 4), number, np.float16)
            file[f"block{number}/bias"] = np.full(4, number, np.float32)
    complete, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        content = bytearray(complete)
        content[rng.integers(len(complete))] = rng.integers(256)
        path.write_bytes(content)
        try:
            read_weights(path)
        except ModelError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 10


def test_datasets_that_hold_no_numbers_are_refused(model: Delg, path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["gem/p"]
        file["gem/p"] = "three"
    with pytest.raises(ModelError, match="gem/p"):
        load_weights(model, read_weights(path), "mine.h5")


# Digest.


def test_digest_depends_on_the_content_not_on_the_layout(path: Path, tmp_path: Path) -> None:
    values = read_weights(path)
    with h5py.File(tmp_path / "again.h5", "w") as file:
        for name in reversed(values):
            chunks = {"compression": "gzip", "chunks": True} if values[name].ndim else {}
            file.create_dataset(name, data=values[name], **chunks)
    again = read_weights(tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() != path.read_bytes()
    assert weights_digest(again) == weights_digest(values)


def test_digest_does_not_depend_on_the_order_in_memory() -> None:
    array = np.arange(12.0).reshape(3, 4)
    assert weights_digest({"a": array}) == weights_digest({"a": np.asfortranarray(array)})


def test_digest_sees_every_change() -> None:
    values = {"a/b": np.arange(6, dtype=np.float32).reshape(2, 3), "c": np.zeros(2, np.float32)}
    changed = [
        {**values, "c": np.array([0, 1e-30], np.float32)},
        {**values, "c": np.zeros(2, np.float16)},
        {**values, "c": np.zeros((2, 1), np.float32)},
        {**values, "d": np.zeros(0, np.float32)},
        {"a/b": values["a/b"]},
        {"a/b": values["a/b"], "C": values["c"]},
        {**values, "a/b": values["a/b"].reshape(3, 2)},
    ]
    digests = {weights_digest(each) for each in [values, *changed]}
    assert len(digests) == 1 + len(changed)


def test_same_weights_saved_twice_have_the_same_digest(
    model: Delg, path: Path, tmp_path: Path
) -> None:
    save_weights(model, tmp_path / "again.h5")
    assert weights_digest(read_weights(tmp_path / "again.h5")) == weights_digest(read_weights(path))
