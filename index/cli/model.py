"""``delg model codebook`` and ``vocabulary``: what an index needs of a model beyond its weights."""

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


def model_vocabulary(
    model: Annotated[str, typer.Argument(help="A model's name or folder.")],
    photos: Annotated[
        list[Path], typer.Option(help="Photos, or folders of them, to learn from; repeatable.")
    ],
    weights: Annotated[Path | None, typer.Option(help="Another weight file for it.")] = None,
    words: Annotated[int, typer.Option(min=16, max=65_536, help="Number of visual words.")] = 4096,
    out: Annotated[
        Path | None, typer.Option(help="File to write (default: vocabulary.h5 beside the weights).")
    ] = None,
) -> None:
    """Learn a model's visual words, by which indexes find what its global descriptor misses."""
    from delg.zoo.registry import find_model, load_model
    from index.learn_vocabulary import learn_vocabulary
    from index.storage.codebook import read_codebook
    from index.storage.vocabulary import write_vocabulary

    files = find_model(model, weights)
    path = out or files.vocabulary
    if path.exists():
        raise UsageError(f"{path}: exists; delete it first, or choose another place with --out")
    extractor = load_model(model, weights)
    codebook = None
    if files.codebook.exists():
        codebook = read_codebook(files.codebook, extractor.local_dim)
    with progress("photos") as report:
        vocabulary = learn_vocabulary(extractor, photos, codebook, words, report)
    write_vocabulary(path, vocabulary)
    print_result(
        f"vocabulary {vocabulary.digest} of {extractor.name}, {words:,} words, in {path} "
        f"({path.stat().st_size / 1e6:.1f} MB)"
    )
