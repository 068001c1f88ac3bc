"""What commands have in common: options and exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FAILED, WRONG_USE, PARTLY = 1, 2, 3
DEFAULT_MODEL = "delg-lite"


Sources = Annotated[list[Path], typer.Argument(help="Folders (searched recursively) and photos.")]
Model = Annotated[str, typer.Option(help="A shipped model, or a model's folder.")]
Config = Annotated[Path | None, typer.Option(help="YAML that overrides settings.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


def group(text: str) -> typer.Typer:
    """An empty group of commands."""
    return typer.Typer(help=text, no_args_is_help=True)
