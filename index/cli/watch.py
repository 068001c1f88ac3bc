"""``delg index watch``: keep an index up to date with folders."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Annotated

import typer

from delg.cli.console import plural, print_result, report_failures
from delg.errors import DelgError
from index.cli.options import Exclude, IndexDir, Labels, NamedModel, Prefix, open_index

log = logging.getLogger(__name__)


def index_watch(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER", help="Folders of photos to follow.")
    ],
    index: IndexDir,
    model: NamedModel = None,
    labels: Labels = None,
    prefix: Prefix = "",
    exclude: Exclude = None,
    settle: Annotated[
        float, typer.Option(min=0.1, help="Seconds without a change to wait for before adding.")
    ] = 2.0,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove photos whose file is gone, too.")
    ] = False,
) -> None:
    """Follow folders: add new and changed photos as they arrive, until Ctrl-C."""
    from index.photos.watch import watch

    with open_index(index, model=model) as images:

        def update() -> None:
            try:
                summary = images.add(folders, labels, prefix, exclude=exclude or ())
                gone = images.remove_vanished() if remove else []
            except DelgError as error:
                # Another process may be writing, or a disk be away for a moment.
                log.warning("%s", error)
                return
            report_failures(summary.failed)
            changed = summary.added + summary.updated
            if changed or gone:
                print_result(
                    f"{plural(changed, 'photo')} added or updated, {len(gone)} removed; "
                    f"{plural(len(images), 'photo')} in {index}"
                )

        log.info("following %s; stop with Ctrl-C", ", ".join(map(str, folders)))
        try:
            watch(folders, update, settle, threading.Event())
        except KeyboardInterrupt:
            log.info("stopped")
