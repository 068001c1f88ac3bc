"""A model with a second tower: pulled, fitted, run; and what is wrong is said."""

import shutil
import threading
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from delg import load_model
from delg.errors import DelgError, ModelError, UsageError
from delg.extraction.two_towers import TowerProjection, squeeze
from delg.settings import ModelSettings, TowerSettings
from delg.zoo.cache import HOME_VARIABLE
from delg.zoo.export import export_model
from delg.zoo.fit_towers import fit_towers
from delg.zoo.pull import pull, pullable
from delg.zoo.registry import DEFAULT_MODEL, find_model
from delg.zoo.tower_file import load_tower, tower_path

DATA = Path(__file__).parents[2] / "data" / "vit"
# A tiny CLIP of random weights, seen at another size than it was made for.
TOWER = {
    "weights": "tiny", "side": 24, "patch": 4, "grid": 4, "width": 16, "depth": 2, "heads": 2,
    "hidden": 24, "adapted_dim": 12, "dim": 48, "precision": "float32",
}  # fmt: skip
LABELS, PER_LABEL = 4, 5
# Of the network, so that it costs little.
EXTRACTION = {"longest_side": 96, "scales": [1.0], "global_scales": [1.0]}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv(HOME_VARIABLE, str(folder))
        patch.setattr("delg.zoo.fit_towers.MIN_PHOTOS", 20)
        patch.setattr("delg.zoo.fit_towers.MIN_LABELS", 3)
        yield folder


def make_folder(folder: Path, **changes: object) -> Path:
    """A model of delg-lite's weights with the tiny tower."""
    lite = find_model(DEFAULT_MODEL)
    values = lite.settings.model_dump(mode="json", exclude_defaults=True)
    values |= {"name": "tiny-towers", "tower": {**TOWER, **changes}, "extraction": EXTRACTION}
    folder.mkdir()
    (folder / "settings.yaml").write_text(yaml.safe_dump(values))
    for path in lite.files():
        shutil.copyfile(path, folder / path.name)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Photos of things of one colour each, in folders."""
    rng = np.random.default_rng(0)
    for label in range(LABELS):
        folder = tmp_path_factory.getbasetemp() / "photos" / f"thing{label}"
        folder.mkdir(parents=True)
        colour = rng.integers(0, 256, 3)
        for number in range(PER_LABEL):
            noise = rng.normal(0, 40, (40, 50, 3))
            pixels = (colour + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path_factory.getbasetemp() / "photos"


@pytest.fixture(scope="module")
def model(home, photos, tmp_path_factory) -> Path:
    """The folder of a model whose tower was pulled and joined."""
    folder = make_folder(tmp_path_factory.mktemp("models") / "tiny")
    pull(str(folder), DATA / "clip.safetensors")
    files = find_model(str(folder))
    fit_towers(files, [photos], PER_LABEL).projection.save(files.projection)
    return folder


def test_the_joint_descriptor_is_of_both_towers_and_the_local_features_are_the_networks(model):
    pixels = np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8)
    box = (10, 5, 40, 30)
    joint = load_model(str(model))
    lite = load_model(extraction=joint.settings.extraction)
    features, expected = joint.extract(pixels, box), lite.extract(pixels, box)
    assert features.global_descriptor.shape == (48,) and joint.global_dim == 48
    np.testing.assert_array_equal(features.local.descriptors, expected.local.descriptors)
    assert len(joint.network_alone.extract(pixels).global_descriptor) == 768
    # Joined anew from its parts; the tower sees the box at its full side.
    settings = find_model(str(model)).settings
    assert settings.tower is not None
    tower = load_tower(settings.tower)
    crop = np.ascontiguousarray(pixels[5:35, 10:50])
    pooled = tower.run(squeeze(crop, 24))
    parts = joint._tower._projection
    adapted = (pooled - parts.mean) @ parts.kernel
    both = np.r_[expected.global_descriptor, adapted / np.linalg.norm(adapted)] @ parts.rotation
    np.testing.assert_allclose(features.global_descriptor, both / np.linalg.norm(both), atol=1e-5)


def test_many_photos_give_what_single_ones_do(model, photos):
    paths = sorted(photos.rglob("*.png"))[:4]
    joint = load_model(str(model))
    for path, features in zip(paths, joint.extract_many(paths), strict=True):
        expected = joint.extract(path).global_descriptor
        np.testing.assert_allclose(features.global_descriptor, expected, atol=1e-5)


def test_fitting_again_gives_the_same_bytes_and_takes_what_was_kept(model, photos, tmp_path):
    files, kept = find_model(str(model)), tmp_path / "kept.npz"
    first = fit_towers(files, [photos], PER_LABEL, kept)
    assert (first.photos, first.labels) == (LABELS * PER_LABEL, LABELS)
    calls: list[tuple] = []
    again = fit_towers(files, [photos], PER_LABEL, kept, lambda *done: calls.append(done))
    assert calls == []
    for name in ("mean", "kernel", "rotation"):
        np.testing.assert_array_equal(
            getattr(first.projection, name), getattr(again.projection, name)
        )
    with pytest.raises(UsageError, match="it takes 20 or more of 3 labels"):
        fit_towers(files, [photos], 2, kept)
    kept.write_bytes(b"no archive")
    with pytest.raises(UsageError, match=r"kept\.npz: cannot be read"):
        fit_towers(files, [photos], PER_LABEL, kept)


def test_the_fingerprint_covers_both_towers_and_what_joins_them(model, tmp_path, home):
    before = find_model(str(model)).fingerprint
    other = tmp_path / "other"
    shutil.copytree(model, other)
    assert find_model(str(other)).fingerprint == before
    files = find_model(str(other))
    assert files.settings.tower is not None
    projection = TowerProjection.load(
        files.projection, files.settings.tower, 1536, load_model(str(other))._tower._projection.base
    )
    TowerProjection(
        projection.mean + 1, projection.kernel, projection.rotation, projection.base
    ).save(files.projection)
    assert find_model(str(other)).fingerprint != before
    record = tower_path(files.settings.tower).with_suffix(".json")
    text = record.read_text()
    record.write_text(text.replace('"digest": "', '"digest": "0'))
    try:
        assert find_model(str(model)).fingerprint != before
        with pytest.raises(ModelError, match="another tower than its record"):
            load_model(str(model))
    finally:
        record.write_text(text)


def test_a_projection_for_other_weights_of_the_network_is_an_error(model, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(model, other)
    files = find_model(str(other))
    joined = load_model(str(model))._tower._projection
    TowerProjection(joined.mean, joined.kernel, joined.rotation, "f" * 64).save(files.projection)
    with pytest.raises(ModelError, match=r"learnt for weights f{16} .*delg model fit-towers"):
        load_model(str(other))
    TowerProjection(joined.mean, joined.kernel[:, :5], joined.rotation, joined.base).save(
        files.projection
    )
    with pytest.raises(ModelError, match="does not fit the settings"):
        load_model(str(other))
    files.projection.unlink()
    with pytest.raises(ModelError, match="make it with delg model fit-towers"):
        load_model(str(other))


def test_a_damaged_tower_is_an_error(model):
    settings = find_model(str(model)).settings
    assert settings.tower is not None
    path = tower_path(settings.tower)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"x")
    try:
        with pytest.raises(ModelError, match="not those that were written"):
            load_model(str(model))
    finally:
        path.write_bytes(data)


def test_what_two_towers_cannot_do_is_said(model, tmp_path):
    with pytest.raises(ModelError, match="not one network alone"):
        export_model(find_model(str(model)), tmp_path / "x.onnx", "onnx")
    with pytest.raises(ValueError, match="tower goes with a network"):
        ModelSettings(name="x", local_only=True, tower=TowerSettings(weights="x"))
    with pytest.raises(ValueError, match="side must be a multiple"):
        TowerSettings(weights="x", side=321)


@pytest.fixture
def server(tmp_path):
    """Serves the folder ``served``."""
    (tmp_path / "served").mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    served = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "served"))
    )
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()


def test_pulling_checks_the_published_checksum_and_goes_on_after_an_interruption(
    server, tmp_path, monkeypatch
):
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    data = (DATA / "openai.pt").read_bytes()
    (tmp_path / "served" / "weights.pt").write_bytes(data)
    url = f"{server}/weights.pt"
    folder = make_folder(tmp_path / "m", url=url, sha256=sha256(data).hexdigest())
    settings = find_model(str(folder)).settings
    assert settings.tower is not None
    with pytest.raises(ModelError, match="delg model pull tiny-towers"):
        load_model(str(folder))
    (tmp_path / "served" / "weights.pt").write_bytes(data + b"x")
    with pytest.raises(DelgError, match="its SHA-256 is"):
        pull(str(folder))
    assert not list((tmp_path / "home" / "downloads").iterdir())
    (tmp_path / "served" / "weights.pt").write_bytes(data)
    # Killed once the download was there, and once the tower was, but not its record.
    downloaded = tmp_path / "home" / "downloads" / "tiny.pt"
    downloaded.write_bytes(data)
    path = tower_path(settings.tower)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half")
    pulled = pull(str(folder), url=f"{server}/nowhere")
    assert pulled.sha256 == sha256(data).hexdigest() and not downloaded.exists()
    assert load_tower(settings.tower).side == 24
    assert pull(str(folder)).sha256 == ""


def test_pulling_says_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    assert "delg-lite-clip" in pullable()
    (tmp_path / "x.pt").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="neither PyTorch's"):
        pull("delg-lite-clip", tmp_path / "x.pt")
    with pytest.raises(UsageError, match="no such file"):
        pull("delg-lite-clip", tmp_path / "y.pt")
    folder = make_folder(tmp_path / "m", depth=3)
    with pytest.raises(ModelError, match="does not fit the settings"):
        pull(str(folder), DATA / "clip.safetensors")
    with pytest.raises(UsageError, match="give --from FILE"):
        pull(str(folder))
    with pytest.raises(UsageError, match="cannot be pulled"):
        pull("delg-r50")
