"""Options and exit codes that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from delg.remote_path import as_location

FAILED, WRONG_USE, PARTLY = 1, 2, 3
DEFAULT_MODEL = "delg-lite"


Sources = Annotated[
    list[Any],
    typer.Argument(
        metavar="SOURCE",
        parser=as_location,
        help="Photos, or folders of photos (subfolders included); also s3://, gs://, sftp:// and "
        "https:// URLs, @FILE, a text file of URLs, and IIIF manifests.",
    ),
]
Model = Annotated[str, typer.Option(help="Name of a model (see delg model list) or its folder.")]
Config = Annotated[Path | None, typer.Option(help="YAML file that overrides default settings.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]


def group(text: str) -> typer.Typer:
    """An empty group of commands with its help text."""
    return typer.Typer(help=text, no_args_is_help=True)
