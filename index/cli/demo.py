"""``delg demo``: the main job on packaged photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder for photos, index and page.")] = Path(
        "demo-output"
    ),
) -> None:
    """Index a small gallery of packaged photos, query it, and write a page to open."""
    from index.demo.run import run_demo

    raise typer.Exit(run_demo(out))
