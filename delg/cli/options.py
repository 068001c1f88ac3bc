"""Options and exit codes that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FAILED, WRONG_USE, PARTLY = 1, 2, 3
DEFAULT_MODEL = "delg-lite"


Sources = Annotated[
    list[Path],
    typer.Argument(metavar="SOURCE", help="Photos, or folders of photos (subfolders included)."),
]
Model = Annotated[str, typer.Option(help="Name of a model (see delg model list) or its folder.")]
Config = Annotated[Path | None, typer.Option(help="YAML file that overrides default settings.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]


def group(text: str) -> typer.Typer:
    """An empty group of commands with its help text."""
    return typer.Typer(help=text, no_args_is_help=True)
