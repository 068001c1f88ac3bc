"""An index chooses no model by itself: whoever made it may be a stranger."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from dots import model_folder

from delg.errors import ModelError, UsageError
from delg.zoo.trust import FILE, distrust, trust, trusted_models
from index import ImageIndex


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("DELG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def stranger(tmp_path, home) -> Path:
    """An index and its model, from elsewhere."""
    folder = model_folder(tmp_path / "stranger" / "model")
    ImageIndex.create(tmp_path / "stranger" / "their.index", str(folder)).close()
    shutil.rmtree(home)
    return tmp_path / "stranger" / "their.index"


def record(index: Path, key: str, value: object) -> None:
    db = sqlite3.connect(index / "catalog.sqlite")
    db.execute("UPDATE meta SET value = ? WHERE key = ?", (str(value), key))
    db.commit()
    db.close()


def is_loaded(index: Path, model: str | None = None) -> bool:
    """Whether the index's model is loaded; the model of dots has no network, and that is said."""
    with ImageIndex.open(index, model) as images, pytest.raises(ModelError) as error:
        images.extractor  # noqa: B018
    if "names the model" in str(error.value):
        return False
    assert "does not fit the settings" in str(error.value)
    return True


def test_a_strangers_model_is_refused_by_name_until_it_is_named_or_trusted(stranger):
    folder = stranger.parent / "model"
    with ImageIndex.open(stranger) as images:
        with pytest.raises(ModelError, match=f"delg model trust {folder}"):
            images.extractor  # noqa: B018
        # What needs no model goes on, and nothing of the stranger's is read.
        assert images.pyramid == () and images.check().problems == []
    assert is_loaded(stranger, str(folder)) and not is_loaded(stranger)
    trust(str(folder))
    assert is_loaded(stranger)
    assert distrust(str(folder)) and not is_loaded(stranger)


def test_who_names_a_model_for_a_new_index_may_use_it_until_it_changes(tmp_path):
    folder = model_folder(tmp_path / "own")
    ImageIndex.create(tmp_path / "my.index", str(folder)).close()
    assert [entry.model for entry in trusted_models()] == [str(folder)]
    assert is_loaded(tmp_path / "my.index")
    # Another index may not do with another folder what this one may, nor with other weights.
    shutil.copytree(folder, tmp_path / "copy")
    record(tmp_path / "my.index", "model", tmp_path / "copy")
    assert not is_loaded(tmp_path / "my.index")
    record(tmp_path / "my.index", "model", folder)
    record(tmp_path / "my.index", "weights", folder / "weights.h5")
    assert not is_loaded(tmp_path / "my.index")
    record(tmp_path / "my.index", "weights", "")
    (folder / "network.onnx").write_bytes(b"another network")
    assert not is_loaded(tmp_path / "my.index")


@pytest.mark.parametrize("name", ["model", "./model", "../stranger/model", "delg-lite/../model"])
def test_relative_paths_lead_nowhere_either(stranger, monkeypatch, name):
    monkeypatch.chdir(stranger.parent)
    (stranger.parent / "delg-lite").mkdir()
    record(stranger, "model", name)
    assert not is_loaded(stranger)


def test_weights_for_a_shipped_model_are_not_the_indexs_choice(stranger):
    record(stranger, "model", "delg-lite")
    record(stranger, "weights", stranger.parent / "model" / "weights.h5")
    with ImageIndex.open(stranger) as images, pytest.raises(ModelError, match="trust delg-lite"):
        images.extractor  # noqa: B018


def test_an_index_like_a_strangers_does_not_make_its_model_trusted(stranger):
    with ImageIndex.open(stranger) as images, pytest.raises(ModelError, match="names the model"):
        images.create_like(stranger.parent / "copy.index")
    assert trusted_models() == []


@pytest.mark.parametrize("content", ["", "[1]", "{", json.dumps([{"model": "x"}]), "[" * 100_000])
def test_a_damaged_list_trusts_nothing(stranger, home, content):
    home.mkdir()
    (home / FILE).write_text(content)
    assert not is_loaded(stranger)


def test_the_command_line(stranger, run, shop):
    folder = stranger.parent / "model"
    query = ["query", shop[0] / "query.jpg", "--index", stranger]
    done = run(*query)
    assert done.returncode == 1 and f"delg model trust {folder}" in done.stderr
    done = run(*query, "--model", folder)
    assert done.returncode == 1 and "does not fit the settings" in done.stderr
    assert run("model", "trust", folder).returncode == 0
    assert run("model", "trust").stdout.split() == [str(folder)]
    assert "does not fit the settings" in run(*query).stderr
    assert run("model", "trust", folder, "--remove").returncode == 0
    assert run("model", "trust", folder, "--remove").returncode == 2


def test_another_model_than_the_indexs_is_refused(stranger):
    with pytest.raises(UsageError, match="was made by model"):
        ImageIndex.open(stranger, "delg-lite")
