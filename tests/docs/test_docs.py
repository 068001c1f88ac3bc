"""The documentation holds: links, names, commands and snippets are tried as they are written."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import skimage.data
from PIL import Image
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
GENERATED = ("settings.md", "commands.md", "http.md")
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
GUIDES = [page for page in PAGES if page.name not in GENERATED]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FILE = re.compile(r"`((?:delg|index|eval|tests|configs|docs)/[\w./-]+)`")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text("utf-8")) if kind == language]


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words of every ``delg`` command in the shell blocks of a page."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["delg"]:
                yield words


@pytest.fixture(scope="session")
def generate() -> ModuleType:
    """docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """A working folder of someone who has photos in ~/Photos."""
    photos = tmp_path / "Photos"
    for name, folder in (("astronaut", "people"), ("chelsea", "pets"), ("rocket", "things")):
        (photos / folder).mkdir(parents=True)
        picture = Image.fromarray(getattr(skimage.data, name)())
        picture.save(photos / folder / f"{name}.jpg", quality=90)
    picture = Image.fromarray(skimage.data.astronaut()[20:460, 40:480])
    picture.rotate(8).save(tmp_path / "some-photo.jpg", quality=85)
    shutil.copy(photos / "people" / "astronaut.jpg", tmp_path / "other-photo.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text("utf-8")):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        assert goal.is_relative_to(ROOT) and goal.exists(), f"{target}: no such file"
        if anchor and goal.suffix == ".md":
            known = anchor in headings(goal) or any(map(anchor.startswith, documented(goal)))
            assert known, f"{target}: no such heading"


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    text = BLOCK.sub("", page.read_text("utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", item.lower()).strip().replace(" ", "-") for item in titles}


def documented(page: Path) -> list[str]:
    """The Python objects that a page describes by their docstrings."""
    return re.findall(r"^::: ([\w.]+)$", page.read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_files_and_objects_named_in_the_text_exist(page):
    names = FILE.findall(page.read_text("utf-8"))
    missing = [name for name in names if not (ROOT / name).exists()]
    assert not missing
    for name in documented(page):
        assert resolve(name), f"{name}: cannot be imported"


def resolve(name: str) -> bool:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            result = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            result = getattr(result, part, None)
        return result is not None
    return False


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_commands_in_the_text_exist_with_their_options(page):
    known = documented_commands()
    for words in command_lines(page):
        name = max((n for n in known if " ".join([*words, ""]).startswith(f"{n} ")), key=len)
        used = {word.partition("=")[0] for word in words if re.match(r"-{1,2}[a-z]", word)}
        assert used <= {*known[name], "--help"}, f"{shlex.join(words)}: {used - known[name]}"


def documented_commands() -> dict[str, set[str]]:
    """Command -> its options, as the reference (which is checked against the code) lists them."""
    text = (ROOT / "docs" / "reference" / "commands.md").read_text("utf-8")
    parts = re.split(r"^## `(.+)`$", text, flags=re.MULTILINE)[1:]
    return {
        name: set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", body))
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 130


def test_generated_pages_are_up_to_date(generate):
    outdated = [path.name for path, text in generate.pages().items() if path.read_text() != text]
    assert not outdated, "run: python docs/generate.py"


@pytest.mark.skipif(not shutil.which("bash"), reason="the snippets are for a POSIX shell")
def test_the_readme_s_snippets_run_as_written(work, capsys):
    own_photos = next(block for block in blocks(ROOT / "README.md", "sh") if "~/Photos" in block)
    run_in_bash(own_photos, work)
    assert "astronaut" in (work / "hits.html").read_text("utf-8")
    (snippet,) = blocks(ROOT / "README.md", "python")
    exec(compile(snippet, "README.md", "exec"), {})
    first = capsys.readouterr().out.splitlines()[0].split()
    assert (first[0], first[-1]) == ("people/astronaut.jpg", "True")


def run_in_bash(block: str, work: Path) -> None:
    """Run a block; making an environment and installing the package into it are left out."""
    (work / "bin").mkdir()
    scripts = {
        "delg": f'exec "{sys.executable}" -m delg "$@"',
        "python3": "exit 0",
        "pip": "exit 0",
    }
    for name, text in scripts.items():
        script = work / "bin" / name
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (work / ".venv" / "bin").mkdir(parents=True)
    (work / ".venv" / "bin" / "activate").touch()
    env = environment()
    env["PATH"] = f"{work / 'bin'}{os.pathsep}{env['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=work, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_the_quickstart_runs_as_written(work, generate):
    page = ROOT / "docs" / "quickstart.md"
    for words in command_lines(page):
        if words[1] == "doctor":
            continue
        words = [str(Path(word).expanduser()) for word in words[1:]]
        done = CliRunner().invoke(generate.application(), words)
        assert done.exit_code == 0, f"{words}: {done.output}"
    assert list((work / "matches").iterdir()) and (work / "match.jpg").exists()
    for snippet in blocks(page, "python"):
        exec(compile(snippet, str(page), "exec"), {})


def test_the_notebook_runs(work):
    notebook = json.loads((ROOT / "docs" / "examples" / "search.ipynb").read_text("utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in notebook["cells"]), "clear the outputs"
    names: dict[str, object] = {}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"cell {number}", "exec"), names)
    assert names["best"].id == "astronaut.jpg" and names["best"].verified
    assert names["right"] == len(names["answerable"])
    assert not names["stranger"].verified
