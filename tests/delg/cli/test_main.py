"""What holds for all commands: help, mistakes, interruptions, plug-ins."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import delg

HELP = """
import sys
from typer.main import get_command
from typer.testing import CliRunner
from delg.cli.main import add_commands_of_other_packages, app

add_commands_of_other_packages()

def walk(command, words):
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, [*words, name])

for words in walk(get_command(app), []):
    shown = CliRunner().invoke(app, [*words, "--help"])
    assert shown.exit_code == 0 and "Usage" in shown.output, words
    print(" ".join(words))
heavy = {"tensorflow", "keras", "faiss", "cv2", "h5py", "numba", "numpy", "skimage"}
print(sorted(heavy & set(sys.modules)))
"""


def test_every_command_explains_itself_without_loading_anything_heavy():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *commands, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert {"query", "match", "extract", "demo", "doctor", "index build", "model list"} <= {
        *commands
    }


@pytest.mark.parametrize("words", [(), ("index",), ("model",)])
def test_a_command_without_its_words_shows_help_and_is_wrong_use(run, words):
    done = run(*words)
    assert done.returncode == 2
    assert "Usage" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("query", "query.jpg", "--index", "photos"), 1, "photos: no index there"),
        (("query", "query.jpg", "--index", "i", "--box", "1,2,3"), 2, "--box 1,2,3: expected"),
        (("query", "query.jpg", "--index", "i", "--box", "0,0,0,9"), 2, "--box 0,0,0,9: width"),
        (("query", "query.jpg", "--index", "i", "--box", "nan,0,9,9"), 2, "--box nan,0,9,9"),
        (("query", "query.jpg", "--index", "i", "-k", "0"), 2, "-k"),
        (("query", "query.jpg", "--index", "i", "--rerank", "-1"), 2, "--rerank"),
        (("query", "query.jpg", "--index", "i", "--orientations", "3"), 2, "--orientations"),
        (("query", "query.jpg", "--index", "i", "--config", "labels.csv"), 2, "labels.csv"),
        (("query", "query.jpg"), 2, "--index"),
        (("match", "query.jpg"), 2, "Missing argument"),
        (("match", "query.jpg", "nowhere.jpg", "--model", "delg-r50"), 1, "no weights"),
        (("extract", "photos"), 2, "--out"),
        (("extract", "nowhere", "--out", "f.h5"), 2, "nowhere: no such folder or file"),
        (("model", "info", "delg-light"), 1, "no model is called 'delg-light'"),
        (("index", "biuld", "photos"), 2, "biuld"),
        (("query", "query.jpg", "--index", "i", "--jsno"), 2, "--jsno"),
    ],
)
def test_mistakes_are_named_on_the_side_with_their_exit_code(shop, run, words, code, said):
    folder, _ = shop
    done = run(*words, cwd=folder)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert not (folder / "f.h5").exists()


def test_an_interruption_says_what_becomes_of_the_work(shop, tmp_path):
    folder, _ = shop
    process = subprocess.Popen(
        [sys.executable, "-m", "delg", "index", "build", folder / "photos", "--index", "new"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        # A shell's background jobs ignore it, and their children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while process.poll() is None and not (tmp_path / "new" / "writer.lock").exists():
        pass
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert "interrupted; what was committed is kept, and the same command continues" in err


def test_a_reader_that_has_seen_enough_is_no_error(run):
    words = [sys.executable, "-m", "delg", "model", "info"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert b"Traceback" not in said and b"Exception" not in said


PLUGIN = """
import sys
from importlib import metadata

broken = metadata.EntryPoint("theirs", "no_such_package:register", "delg.commands")
real = metadata.entry_points

def with_broken(group):
    return [*real(group=group), *([broken] if group == "delg.commands" else [])]

metadata.entry_points = with_broken
import delg.cli.main as cli
"""


def run_main(body: str, *words: str) -> subprocess.CompletedProcess:
    """The command line in a process that runs ``body`` before it."""
    text = f"{PLUGIN}\n{body}\nsys.argv = ['delg', *{words!r}]\ncli.main()"
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)


def test_a_broken_plug_in_is_a_warning_and_the_other_commands_work():
    done = run_main("", "--version")
    assert (done.returncode, done.stdout) == (0, f"delg {delg.__version__}\n")
    assert done.stderr.startswith("warning: the commands of theirs (no_such_package:register)")
    assert "No module named 'no_such_package'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_library_that_meets_the_end_of_a_file_is_a_clear_error():
    body = """
import io, pickle
@cli.app.command()
def load():
    pickle.load(io.BytesIO())
"""
    done = run_main(body, "load")
    assert (done.returncode, done.stdout) == (1, "")
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: a file ends too early: Ran out of input (met in ")
    assert "Abort" not in done.stderr and "Traceback" not in done.stderr


def test_help_lists_the_commands_in_the_order_a_newcomer_meets_them(run):
    shown = run("--help").stdout
    places = [shown.index(f"│ {name} ") for name in ("demo", "index", "query", "match", "serve")]
    assert places == sorted(places)
    assert "--install-completion" in shown
