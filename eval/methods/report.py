"""Measurements on disk: ``methods.json``, ``methods.md`` and ``methods.html``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from delg.files import write_bytes, write_text
from eval.methods.measure import ALONE, Measurement
from eval.methods.table import as_json, markdown, tables
from eval.run import environment_info
from index.visualize.html import load_template

JSON_FILE, MARKDOWN_FILE, PAGE_FILE = "methods.json", "methods.md", "methods.html"


def condition_title(condition: str) -> str:
    """A condition in words."""
    return "Each gallery alone" if condition == ALONE else "Among distractors"


def write_methods(folder: Path, measurements: Sequence[Measurement]) -> None:
    """Write all measurements into a folder.

    Raises:
        DelgError: it cannot be written.
    """
    environment = environment_info()
    values = {"measurements": [as_json(m) for m in measurements], **environment}
    write_text(folder / JSON_FILE, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    content = tables(measurements)
    write_text(
        folder / MARKDOWN_FILE,
        "\n".join(f"## {condition_title(t.condition)}\n\n{markdown(t)}" for t in content),
    )
    page = load_template("eval.reports", "methods.html").render(
        tables=[(condition_title(table.condition), table) for table in content],
        environment=[
            ("Command", environment["command"]),
            ("Machine", environment["machine"]),
            ("Finished", environment["finished"]),
        ],
    )
    write_bytes(folder / PAGE_FILE, page.encode("utf-8", "replace"))
