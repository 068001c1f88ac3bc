"""``delg model codebook``: what an index needs of a model beyond its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from delg.cli.console import print_result, progress
from delg.errors import UsageError


def model_codebook(
    model: Annotated[str, typer.Argument(help="A model's name or folder.")],
    photos: Annotated[
        list[Path], typer.Option(help="Photos, or folders of them, to learn from; repeatable.")
    ],
    weights: Annotated[Path | None, typer.Option(help="Another weight file for it.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write (default: codebook.h5 beside the weights).")
    ] = None,
) -> None:
    """Learn how indexes store a model's local features in few bytes, from some hundred photos."""
    from delg.zoo.registry import find_model, load_model
    from index.learn_codebook import learn_codebook
    from index.storage.codebook import codebook_digest, write_codebook

    path = out or find_model(model, weights).codebook
    if path.exists():
        raise UsageError(f"{path}: exists; delete it first, or choose another place with --out")
    extractor = load_model(model, weights)
    with progress("photos") as report:
        codebook = learn_codebook(extractor, photos, report)
    write_codebook(path, codebook)
    print_result(f"codebook {codebook_digest(codebook)} of {extractor.name} in {path}")
