"""``delg model pull`` and ``delg model export``."""

from __future__ import annotations

import io
import tarfile


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
