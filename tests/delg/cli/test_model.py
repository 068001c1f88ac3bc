"""``delg model …``, and what ``delg doctor`` says of models."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import skimage.data
import yaml
from PIL import Image

from delg.cli import doctor


def test_a_model_is_pulled_from_a_file_and_listed_as_ready(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DELG_HOME", str(tmp_path / "home"))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("r50delg_gld_20200814/saved_model.pb")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"toy\n"))
    done = run("model", "pull", "delg-r50-gldv1", "--from", tmp_path / "a.tar.gz")
    assert done.returncode == 0, done.stderr
    assert "nobody publishes its checksum" in done.stderr
    assert done.stdout.startswith("delg-r50-gldv1 is in ")
    listed = run("model", "list").stdout.splitlines()
    states = {line.split()[0]: line for line in listed if line.strip()}
    assert "ready" in states["delg-r50-gldv1"]
    assert "to be pulled" in states["delg-r101-gldv1"]
    done = run("model", "pull", "delg-lite")
    assert done.returncode == 2
    assert "cannot be pulled" in done.stderr


def test_a_model_is_exported_from_the_shell_and_used_by_its_path(run, tmp_path) -> None:
    words = ("model", "export", "delg-lite", "--format", "savedmodel", "--out", "lite")
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "delg-lite as savedmodel in lite\n"
    off = {line.split(":")[0]: line for line in done.stderr.splitlines() if "off Keras'" in line}
    assert {"global_descriptor", "local_descriptors", "attention"} == {*off}
    assert [path.name for path in tmp_path.iterdir()] == ["lite"]
    info = json.loads(run("model", "info", "lite", "--json", cwd=tmp_path).stdout)
    assert info["settings"]["name"] == "delg-lite"
    Image.fromarray(skimage.data.coffee()).save(tmp_path / "a.jpg")
    Image.fromarray(skimage.data.coffee()[40:, 30:]).save(tmp_path / "b.jpg")
    match = run("match", "a.jpg", "b.jpg", "--model", "lite", "--json", cwd=tmp_path)
    assert json.loads(match.stdout)["verified"]


def test_an_unknown_format_or_a_taken_place_is_wrong_use(run, tmp_path) -> None:
    (tmp_path / "taken").write_text("")
    for kind, out, message in (
        ("coreml", "m", "no format is called 'coreml'"),
        ("litert", "taken", "taken: exists"),
    ):
        done = run("model", "export", "delg-lite", "--format", kind, "--out", out, cwd=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr


def test_the_models_as_a_table_and_in_detail(run):
    listed = run("model", "list")
    assert listed.returncode == 0 and listed.stderr == ""
    rows = [line.split() for line in listed.stdout.splitlines()[1:]]
    assert rows[0][:2] == ["delg-lite", "ready"]
    assert ["delg-r50", "needs", "weights"] in [row[:3] for row in rows]
    info = run("model", "info", "sift")
    assert info.returncode == 0 and "fingerprint:" in info.stdout and "kind: sift" in info.stdout


def test_a_model_with_a_card_shows_what_it_says(run, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "settings.yaml").write_text("name: mine\n")
    assert "card" not in json.loads(run("model", "info", folder, "--json").stdout)
    facts = {"made": "2026-01-02", "photos": 12, "validation": {"held_out_map": 0.5}}
    (folder / "MODEL_CARD.md").write_text(f"---\n{yaml.safe_dump(facts)}---\n\n# mine\n")
    assert json.loads(run("model", "info", folder, "--json").stdout)["card"] == facts
    shown = run("model", "info", folder).stdout
    assert yaml.safe_load(shown)["card"] == facts
    (folder / "MODEL_CARD.md").write_text("# no facts\n")
    done = run("model", "info", folder)
    assert done.returncode == 1 and "MODEL_CARD.md: does not begin with metadata" in done.stderr


def test_models_and_the_doctor_agree_on_what_is_shipped(run, monkeypatch):
    # The packages under test may lie beside the installed ones.
    monkeypatch.setattr(doctor, "_installed_folder", lambda: Path(doctor.__file__).parents[2])
    listed = map(json.loads, run("model", "list", "--json").stdout.splitlines())
    ready = {model["name"]: model["weights"] for model in listed}
    assert ready["delg-lite"] and ready["sift"] and not ready["delg-r50"]
    info = json.loads(run("model", "info", "--json").stdout)
    assert len(info["fingerprint"]) == 16 and info["bytes"] <= 27 * 2**20
    examined = run("doctor", "--json")
    assert (examined.returncode, examined.stderr) == (0, "")
    report = json.loads(examined.stdout)
    assert report["model"]["fingerprint"] == info["fingerprint"]
    assert report["model"]["runtime"].startswith("ONNX Runtime, int8, ")
    assert "from" in report["packages"]["cv2"]
