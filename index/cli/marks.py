"""``delg index mark`` and ``marks``: say what shows the same thing, and export it as truth."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from delg.cli.console import plural, print_json, print_result, table
from delg.cli.options import AsJson
from delg.errors import UsageError
from index.cli.options import IndexDir, open_index


class Verdict(str, Enum):
    """What somebody says of a photo and an image of the index."""

    same = "same"
    different = "different"
    none = "none"


def index_mark(
    index: IndexDir,
    photo: Annotated[Path, typer.Argument(metavar="IMAGE", help="A photo to search with.")],
    image: Annotated[str, typer.Argument(metavar="ID", help="Id of a photo of the index.")],
    verdict: Annotated[
        Verdict, typer.Argument(help="same, different, or none to forget what was said.")
    ],
) -> None:
    """Say whether a photo and one of the index show the same thing; later answers respect it."""
    with open_index(index) as images:
        images.mark(photo, image, None if verdict is Verdict.none else verdict.value)
    print_result(f"{photo}, {image}: {verdict.value}")


def index_marks(
    index: IndexDir,
    out: Annotated[
        Path | None, typer.Option(help="CSV file to write, as delg eval queries --truth takes it.")
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(help="Folder of the marked photos: name them by it, and leave others out."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List what people said of photos and images, or export it as ground truth."""
    from delg.files import write_bytes
    from index.answers.marks import truth_csv

    if queries is not None and out is None:
        raise UsageError("--queries goes with --out")
    with open_index(index) as images:
        marks = images.marks
        if out is not None:
            pairs = marks.truth(None if queries is None else _names_in(queries))
            write_bytes(out, truth_csv(pairs).encode("utf-8", "replace"))
            print_result(f"{plural(len({name for name, _ in pairs}), 'photo')} in {out}")
            return
        listed = list(marks)
    if as_json:
        for mark in listed:
            print_json(vars(mark))
        return
    table(
        ["at", "photo", "id", "verdict"],
        [[mark.at, mark.name, mark.image, mark.verdict] for mark in listed],
    )


def _names_in(folder: Path) -> dict[str, str]:
    """Key of each photo in a folder -> its path relative to that."""
    from delg.images.scan import scan
    from index.answers.marks import query_key

    return {query_key(photo.path): photo.id for photo in scan([folder]).photos}
