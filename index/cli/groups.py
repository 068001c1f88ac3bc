"""``delg index groups``: the photos of an index that show the same thing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delg.cli.console import plural, print_json, print_result, progress, table
from delg.cli.options import AsJson
from index.cli.options import IndexDir, NamedModel, open_index

if TYPE_CHECKING:
    from index.collection.groups import InstanceGroup
    from index.image_index import ImageIndex

_TwoIds = tuple[str, str] | None


def index_groups(
    index: IndexDir,
    depth: Annotated[
        int, typer.Option(min=1, help="Most similar photos that each photo is compared with.")
    ] = 20,
    min_probability: Annotated[
        float, typer.Option(min=0, max=1, help="Least probability of the pairs that join photos.")
    ] = 0.0,
    csv: Annotated[Path | None, typer.Option(help="CSV file to write, a row per photo.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Label file to write, as --labels takes it; a label per group."),
    ] = None,
    same: Annotated[
        _TwoIds,
        typer.Option(metavar="ID ID", help="Mark two photos as the same thing: merge groups."),
    ] = None,
    different: Annotated[
        _TwoIds,
        typer.Option(metavar="ID ID", help="Mark two photos as different things: split a group."),
    ] = None,
    merge: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Merge the groups of these photos; repeat it for each."),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID",
            help="These photos show something else than the rest of their group; repeatable.",
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Compare all photos again, not only new ones.")
    ] = False,
    model: NamedModel = None,
    as_json: AsJson = False,
) -> None:
    """Group the photos of an index that show the same thing."""
    from delg.files import write_text
    from index.collection.group_table import groups_csv, labels_csv

    with open_index(index, model=model) as images:
        if same:
            images.mark_images(*same, "same")
        if different:
            images.mark_images(*different, "different")
        with progress("photos compared") as report:
            result = images.groups(depth, min_probability, again, report)
        if merge or split:
            _regroup(images, result.groups, merge or [], split or [])
            result = images.groups(depth, min_probability)
        if csv is not None:
            ids = [image_id for group in result.groups for image_id in group.ids]
            write_text(csv, groups_csv(result.groups, images.known(ids)))
    if labels is not None:
        write_text(labels, labels_csv(result.groups))
    if as_json:
        for group in result.groups:
            print_json(group.as_json())
        return
    table(
        ["photos", "strength", "representative"],
        [
            [f"{len(group.members):,}", f"{group.strength:.1%}", group.representative]
            for group in result.groups
        ],
    )
    grouped = sum(len(group.members) for group in result.groups)
    print_result(
        f"{plural(len(result.groups), 'group')} with {grouped:,} of "
        f"{plural(result.photos, 'photo')}; {result.compared:,} compared now"
    )


def _regroup(
    images: ImageIndex, groups: Sequence[InstanceGroup], merge: list[str], split: list[str]
) -> None:
    """Merge and split groups by marks."""
    from index.collection.regroup import members_to_merge, members_to_split

    if merge:
        images.merge_groups(*members_to_merge(groups, merge))
    if split:
        images.split_group(*members_to_split(groups, split))
