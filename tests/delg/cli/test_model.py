"""``delg model pull`` and ``delg model export``."""

from __future__ import annotations

import io
import json
import tarfile

import skimage.data
from PIL import Image


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
