"""``delg index explore``: maps of a collection for its pages."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from delg.cli.console import plural, print_json, print_result, progress
from delg.cli.options import AsJson
from index.cli.options import IndexDir, open_index


class MapLayout(str, Enum):
    """How photos are laid out."""

    auto = "auto"
    umap = "umap"
    pca = "pca"


def index_explore(
    index: IndexDir,
    layout: Annotated[
        MapLayout,
        typer.Option(
            help="umap: similar photos lie together, needs umap-learn; pca: at once; auto: umap if "
            "it is installed."
        ),
    ] = MapLayout.auto,
    photos: Annotated[
        bool, typer.Option("--photos/--no-photos", help="Read date and place from photos' EXIF.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Compute the maps that `delg serve` shows: by similarity, and by where photos were taken."""
    from index.collection.explore import NO_DATE

    with open_index(index) as images, progress("photos") as report:
        exploration = images.explore(layout.value, photos, report)
    located, dated = len(exploration.located), int((exploration.dates != NO_DATE).sum())
    if as_json:
        values = {"photos": len(exploration), "located": located, "dated": dated}
        print_json({**values, "layout": exploration.layout})
        return
    print_result(
        f"{plural(len(exploration), 'photo')} on the map ({exploration.layout}); {dated:,} with a "
        f"date, {located:,} with coordinates"
    )
