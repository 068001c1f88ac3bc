"""What is compiled runs the same wherever it is kept, and where it cannot be kept."""

import importlib
import os
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

from delg import compiled as compiled_module
from delg.compiled import compiled

ROOT = Path(__file__).parents[2]
COMPILED = [
    str(path.relative_to(ROOT).with_suffix("")).replace(os.sep, ".")
    for path in sorted((ROOT / "index").rglob("*.py"))
    if "\n@compiled\n" in path.read_text(encoding="utf-8")
]
SOURCE = textwrap.dedent(
    """
    from delg.compiled import compiled

    @compiled
    def total(numbers):
        found = 0.0
        for number in range(len(numbers)):
            found = more(found, numbers[number])
        return found

    @compiled
    def more(found, number):
        return found + number
    """
)
MAIN = textwrap.dedent(
    """
    import resource, sys
    import numpy as np
    import loop

    assert "numba" not in sys.modules
    if sys.argv[1:] == ["full"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    answer = loop.total(np.arange(10, dtype=np.float32))
    print(answer, sum(loop.total.stats.cache_hits.values()))
    """
)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "loop.py").write_text(SOURCE)
    (tmp_path / "main.py").write_text(MAIN)

    def started(*words: str) -> list[str]:
        command = [sys.executable, tmp_path / "main.py", *words]
        result = subprocess.run(
            command,
            env=os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_DISABLE_JIT": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.split()

    return started


def test_compiled_functions_call_those_of_their_own_file_only():
    """Numba does not notice that a function in another file has changed."""
    for name in COMPILED:
        module = importlib.import_module(name)
        kinds = (compiled_module._LazyFunction, Dispatcher)
        functions = [value for value in vars(module).values() if isinstance(value, kinds)]
        assert functions
        assert {function.__module__ for function in functions} == {name}


def test_the_next_process_finds_what_was_compiled(run):
    assert run() == ["45.0", "0"]
    assert run() == ["45.0", "1"]


def test_on_a_full_disk_each_process_compiles(run):
    assert run("full") == run("full") == ["45.0", "0"]
    assert run() == ["45.0", "0"], "nothing broken was left behind"


def cut(data: bytes) -> bytes:
    return b""


def shortened(data: bytes) -> bytes:
    return data[:-100]


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", [cut, shortened])
def test_a_damaged_cache_is_found_and_made_anew(run, tmp_path, monkeypatch, ending, damage):
    run()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "loop", raising=False)
    loop = importlib.import_module("loop")
    assert compiled_module.damaged_caches(loop) == []
    damaged = sorted(tmp_path.rglob(f"*{ending}"))
    assert damaged
    for file in damaged:
        file.write_bytes(damage(file.read_bytes()))
    assert compiled_module.damaged_caches(loop)
    assert run() == ["45.0", "0"]
    assert run() == ["45.0", "1"]


def test_where_nothing_can_be_written_it_still_runs():
    place: dict = {}
    exec(SOURCE, place)  # Of code without a file nothing is kept.
    assert place["total"](np.arange(4, dtype=np.float32)) == 6


def test_infinities_and_nan_stay_what_they_are():
    @compiled
    def smaller(values: np.ndarray, bound: float) -> int:
        count = 0
        for place in range(len(values)):
            count += values[place] < bound
        return count

    assert smaller(np.float32([1, np.nan, -np.inf, np.inf] * 9), 2.0) == 18


def test_threads_that_come_first_together_all_get_an_answer(monkeypatch):
    jit = compiled_module._jit

    def slowly(function):
        time.sleep(0.2)
        return jit(function)

    place: dict = {}
    exec(SOURCE, place)
    jit(place["more"]._function)(1.0, 2.0)  # The compiler itself is ready.
    monkeypatch.setattr(compiled_module, "_jit", slowly)

    def late(wait: float) -> float:
        time.sleep(wait)
        return place["total"](np.arange(4, dtype=np.float32))

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(late, (0, 0.25, 0.3))) == [6, 6, 6]
