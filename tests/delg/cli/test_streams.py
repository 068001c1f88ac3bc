"""Where the answer goes: pipes, terminals, full disks, closed descriptors, names of any kind."""

import os
import pty
import shlex
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from delg.cli.streams import printable

LONG = "a-collection/with-folders/of-some-depth/" * 3 + "photo.jpg"
TABLE = (
    f"from delg.cli.console import table; table(['rank', 'id', 'label'], [['1', {LONG!r}, 'x']])"
)


@pytest.fixture
def shell(shop):
    """A line for the shell, in which ``delg`` is the command -> what became of it."""
    delg = shlex.join([sys.executable, "-m", "delg"])
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    environment.pop("PYTHONUNBUFFERED", None)

    def run(line: str, **variables: str) -> subprocess.CompletedProcess:
        line = line.replace("delg", delg, 1)
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            capture_output=True, cwd=shop[0], env={**environment, **variables},
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert b"Traceback" not in said and b"Exception" not in said, said.decode()
        return done

    return run


def test_a_name_is_shown_in_one_line_that_no_terminal_obeys():
    assert printable("a\nb\x1b[31m\x07\u202e\u2028é日本") == (
        "a\\nb\\x1b[31m\\x07\\u202e\\u2028é日本"
    )
    assert printable(os.fsdecode(b"caf\xe9.jpg")) == "caf\\xe9.jpg"
    assert printable("\ud800") == "\\ud800"


def test_ids_are_complete_on_a_terminal_of_80_columns_and_in_a_pipe():
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    subprocess.run([sys.executable, "-c", TABLE], stdout=slave, check=True)
    os.close(slave)
    shown = os.read(master, 100_000).decode()
    assert LONG in shown
    piped = subprocess.run([sys.executable, "-c", TABLE], capture_output=True, text=True)
    assert piped.stdout.splitlines() == [
        f"rank  id{' ' * (len(LONG) - 2)}  label",
        f"1     {LONG}  x",
    ]


@pytest.mark.parametrize(
    ("line", "code", "reason"),
    [
        ("delg --version >/dev/full", 1, b"No space left on device"),
        ("delg --help >/dev/full", 1, b"No space left on device"),
        ("delg model list >/dev/full", 1, b"No space left on device"),
        ("delg model list --json >&-", 1, b"it is closed"),
        ("delg model info nothing >&-", 1, b"no model is called"),
        ("delg index biuld >/dev/full", 2, b"biuld"),
        # Who looks at the first line only has what it wanted.
        ("delg model list --json | head -c 1", 0, b""),
    ],
)
def test_an_answer_that_cannot_be_written_is_a_failure_that_says_so(shell, line, code, reason):
    done = shell(line)
    assert done.returncode == code
    assert reason in done.stderr and (reason or not done.stderr)


def test_without_stderr_the_answer_is_the_same(shell):
    # A photo that is missing has its reason on stderr.
    line = "delg query query.jpg nowhere.jpg --index i --json"
    done = shell(f"{line} 2>&-")
    assert done.returncode == 3
    assert done.stdout.startswith(b'{"query": "query.jpg"') and done.stdout.count(b"\n") == 2


def test_a_lost_answer_undoes_nothing_that_was_asked_for(shell, shop, tmp_path):
    page = tmp_path / "page.html"
    done = shell(f"delg query query.jpg query.jpg --index i --html {page} >/dev/full")
    assert done.returncode == 1 and done.stderr.count(b"error") == 1
    assert page.read_text().count("pets/chelsea.jpg") >= 2


def test_names_that_utf_8_or_the_terminal_cannot_encode(shell, shop, tmp_path):
    odd = os.fsencode(tmp_path) + b"/\xff\n\xc3\xa9.jpg"
    Path(os.fsdecode(odd)).symlink_to(shop[0] / "query.jpg")
    line = f"delg query {tmp_path}/*.jpg --index i --html {tmp_path}/page.html"
    done = shell(line, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert b"\\xff\\n\\xe9.jpg (" in done.stdout.splitlines()[0]
    assert "pets/chelsea.jpg" in (tmp_path / "page.html").read_text("utf-8")
