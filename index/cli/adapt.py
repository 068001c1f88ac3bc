"""``delg index adapt``: compare photos as the user's own labels teach."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from delg.cli.console import plural, print_json, print_result
from delg.cli.options import FAILED, AsJson
from delg.errors import UsageError
from index.cli.options import IndexDir, open_index

log = logging.getLogger(__name__)


def index_adapt(
    index: IndexDir,
    labels: Annotated[
        str | None,
        typer.Option(
            help="'folders', or a CSV file with columns id,label (default: the labels that the "
            "index records)."
        ),
    ] = None,
    shrinkage: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="How far to hold back, 0 to 1, in directions labels do not show."
        ),
    ] = 0.3,
    force: Annotated[
        bool, typer.Option("--force", help="Adapt even if held-out labels are found no better.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Remove the adaptation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Adapt the global descriptors of an index to labelled photos, from what is stored."""
    if undo and (labels or force):
        raise UsageError("--undo goes with no other option but --index")
    with open_index(index) as images:
        if undo:
            was_adapted = images.undo_adaptation()
            print_result(f"{index}: " + ("adaptation removed" if was_adapted else "not adapted"))
            return
        report = images.adapt(labels, shrinkage, force)
    if as_json:
        print_json(vars(report))
    else:
        for image_id in report.unknown_labels:
            log.info("label file: no photo has the id %s", image_id)
        print_result(
            f"{plural(report.labels, 'label')}, {plural(report.photos, 'photo')}: mAP of held-out "
            f"labels {report.map_before:.3f} before, {report.map_after:.3f} after; "
            + (
                f"{index} is adapted (--undo removes it)"
                if report.applied
                else "nothing was changed (--force adapts all the same)"
            )
            + f" ({report.seconds:.1f} s)"
        )
    if not report.applied:
        raise typer.Exit(FAILED)
