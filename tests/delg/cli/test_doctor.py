"""What ``delg doctor`` finds wrong."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from delg.cli import doctor

ROOT = Path(doctor.__file__).parents[2]
LOOPS = """
from delg.compiled import compiled

@compiled
def double(number):
    return 2 * number
"""


@pytest.fixture
def other_eval(tmp_path, monkeypatch) -> Path:
    """A folder called ``eval`` that Python finds first, with a compiled function in it."""
    for name in [name for name in sys.modules if name.split(".")[0] == "eval"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "loops.py").write_text(LOOPS)
    (tmp_path / "eval" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "eval"
    for name in ("eval", "eval.loops"):
        sys.modules.pop(name, None)


def test_a_package_that_is_not_the_installed_one_is_a_problem(run, other_eval, monkeypatch):
    monkeypatch.setattr(doctor, "_installed_folder", lambda: ROOT)
    done = run("doctor", "--json")
    packages = json.loads(done.stdout)["packages"]
    assert done.returncode == 1
    assert packages["eval"]["from"] == str(other_eval)
    assert [name for name in packages if "problem" in packages[name]] == ["eval"]
    assert f"problem: eval: comes from {other_eval}, not from {ROOT / 'eval'}" in done.stderr


def test_a_damaged_compile_cache_is_found(other_eval):
    loops = importlib.import_module("eval.loops")
    assert loops.double(21) == 42
    assert doctor._damaged_caches("eval") == []
    [index_file] = other_eval.rglob("*.nbi")
    for file in other_eval.rglob("*.nbc"):
        file.write_bytes(file.read_bytes()[:-100])
    assert doctor._damaged_caches("eval") == [str(index_file)]
