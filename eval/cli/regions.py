"""``delg eval regions``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delg.cli.console import print_json, print_result, progress, table
from delg.cli.options import AsJson, Config
from index.cli.options import IndexDir, open_index

if TYPE_CHECKING:
    from eval.regions.measure import RegionsRow

_COLUMNS = (
    "things", "share", "method", "first right", "recall", "all found", "wrong per photo", "ms",
)  # fmt: skip


def add_commands(app: typer.Typer) -> None:
    """Add the command to ``delg eval``."""
    app.command("regions")(regions)


def regions(
    index: IndexDir,
    objects: Annotated[
        Path, typer.Option(help="Folder of flat things' photos, with the ids they have in it.")
    ],
    backgrounds: Annotated[Path, typer.Option(help="Folder of photos to paste them into.")],
    distractors: Annotated[
        list[Path] | None, typer.Option(help="Another index to search in; repeatable.")
    ] = None,
    share: Annotated[
        list[float] | None,
        typer.Option(
            min=0.01,
            max=0.5,
            help="Share of the area that each thing covers; repeatable. Default: .05, .1, .25.",
        ),
    ] = None,
    things: Annotated[int, typer.Option(min=1, help="Number of things in each photo.")] = 1,
    photos: Annotated[int, typer.Option(min=1, help="Number of photos made per share.")] = 100,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Measure what is found of things pasted into other photos, with regions and without."""
    from eval.datasets.photos import list_photos
    from eval.regions.measure import CompositeSet, measure_regions

    with open_index(index, config) as images:
        others = [open_index(path) for path in distractors or ()]
        rows: list[RegionsRow] = []
        for each in share or (0.05, 0.1, 0.25):
            spec = CompositeSet(things, each, photos)
            with progress(f"{things} × {each:.0%}") as report:
                rows += measure_regions(
                    images, others, list_photos(objects), list_photos(backgrounds), spec, report
                )
        for other in others:
            other.close()
    if as_json:
        for row in rows:
            print_json(row.as_json())
        return
    print_result(f"{photos} photos per share")
    table(_COLUMNS, [_cells(row.as_json()) for row in rows])


def _cells(row: dict[str, Any]) -> list[str]:
    shares = [f"{row[name]:.2f}" for name in ("first", "recall", "complete", "wrong")]
    return [
        str(row["things"]), f"{row['share']:.0%}", row["method"], *shares,
        f"{row['milliseconds']:.0f}",
    ]  # fmt: skip
