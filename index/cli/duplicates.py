"""``delg index duplicates``: photos that are in an index more than once."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delg.cli.console import plural, print_json, print_result, progress, table
from delg.cli.options import AsJson
from delg.errors import UsageError
from index.cli.options import IndexDir, NamedModel, open_index, user_name

if TYPE_CHECKING:
    from index.collection.duplicates import Group
    from index.image_index import ImageIndex

log = logging.getLogger(__name__)


def index_duplicates(
    index: IndexDir,
    similarity: Annotated[
        float, typer.Option(min=-1, max=1, help="Least similarity of the global descriptors.")
    ] = 0.5,
    inliers: Annotated[int, typer.Option(min=1, help="Least number of verified matches.")] = 40,
    same_files: Annotated[
        bool, typer.Option("--same-files", help="Only files with the same bytes.")
    ] = False,
    max_photos: Annotated[
        int, typer.Option(min=0, help="Photos to compare at most, the oldest first.")
    ] = 100_000,
    max_pairs: Annotated[
        int, typer.Option(min=0, help="Pairs to verify at most, the most similar first.")
    ] = 100_000,
    csv: Annotated[
        Path | None, typer.Option(help="CSV file to write, a row per photo, with a decision.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Keep this photo in place of the best; repeatable."),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="No longer list the group of this photo; repeatable."),
    ] = None,
    heed: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="List ignored groups of this photo again; repeatable."),
    ] = None,
    with_ignored: Annotated[
        bool, typer.Option("--with-ignored", help="List ignored groups as well.")
    ] = False,
    remove: Annotated[
        bool,
        typer.Option(
            "--remove", help="Remove all but the photos to keep from the index; with --force."
        ),
    ] = False,
    decisions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Do what the column decision of an edited --csv says: keep, remove or ignore.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Do remove photos; without it, they are only listed. Files stay."
        ),
    ] = False,
    model: NamedModel = None,
    as_json: AsJson = False,
) -> None:
    """List photos that are in an index more than once, and which of them to keep."""
    if decisions is not None and (remove or ignore or keep or csv):
        raise UsageError("--decisions goes without --remove, --ignore, --keep and --csv")
    if force and not (remove or decisions):
        raise UsageError("--force goes with --remove or --decisions")
    from index.collection.duplicates import Limits

    limits = Limits(
        similarity, inliers, photos=0 if same_files else max_photos, pairs=max_pairs,
        seconds=float("inf"),
    )  # fmt: skip
    with open_index(index, model=model) as images:
        if decisions is not None:
            _apply(images, decisions, force)
            return
        for image_id in heed or ():
            if not images.decisions.heed_again(image_id):
                raise UsageError(f"{image_id}: is in no ignored group")
        with progress("duplicates, per cent") as report:
            duplicates = images.duplicates(
                limits, lambda share: report(int(100 * share), 100, 0), with_ignored
            )
        groups = _ignore(images, duplicates.groups, ignore or [])
        _list(images, groups, keep or [], csv, remove, force, as_json)
    if not duplicates.complete and not same_files:
        log.warning("not all photos were compared; see --max-photos and --max-pairs")


def _ignore(images: ImageIndex, groups: Sequence[Group], ids: list[str]) -> list[Group]:
    """Ignore the groups of some photos; returns the others."""
    grouped = {image_id for group in groups for image_id in group.ids}
    if unknown := [image_id for image_id in ids if image_id not in grouped]:
        raise UsageError(f"{', '.join(unknown[:5])}: has no duplicates")
    others = [group for group in groups if not set(ids) & set(group.ids)]
    for group in groups:
        if group not in others:
            images.ignore_duplicates(group.ids)
    if ids:
        log.info("%s ignored from now on", plural(len(groups) - len(others), "group"))
    return others


def _list(
    images: ImageIndex,
    groups: list[Group],
    keep: list[str],
    csv: Path | None,
    remove: bool,
    force: bool,
    as_json: bool,
) -> None:
    from delg.files import write_text
    from index.collection.duplicate_review import duplicates_csv, suggest

    known = images.known(image_id for group in groups for image_id in group.ids)
    removed = suggest(groups, known, keep)
    if csv is not None:
        write_text(csv, duplicates_csv(groups, known, removed))
    if remove:
        _remove(images, removed, force)
    elif as_json:
        for group in groups:
            print_json(_as_json(group, set(removed)))
    else:
        _print(groups, known, set(removed))


def _as_json(group: Group, removed: Collection[str]) -> dict[str, Any]:
    keep = [image_id for image_id in group.ids if image_id not in removed]
    drop = [image_id for image_id in group.ids if image_id in removed]
    return {"kind": group.kind, "keep": keep, "remove": drop}


def _print(groups: list[Group], known: dict[str, Any], removed: Collection[str]) -> None:
    rows = []
    for number, group in enumerate(groups, 1):
        for image_id in group.ids:
            image = known[image_id]
            decision = "remove" if image_id in removed else "keep"
            size = f"{image.width or '?'} x {image.height or '?'}"
            rows.append([str(number), group.kind, decision, size, f"{image.size:,}", image_id])
    table(["group", "kind", "suggestion", "pixels", "bytes", "id"], rows)
    extra = plural(len(removed), "photo")
    print_result(f"{plural(len(groups), 'group')}; {extra} that could be removed")


def _remove(images: ImageIndex, ids: Sequence[str], force: bool) -> None:
    if not force:
        for image_id in ids:
            print_result(image_id)
        log.info(
            "%s would be removed from %s; add --force to do it",
            plural(len(ids), "image"), images.path,
        )  # fmt: skip
        return
    images.remove(ids, user_name())
    print_result(
        f"{plural(len(ids), 'image')} removed; {plural(len(images), 'photo')} left in {images.path}"
    )


def _apply(images: ImageIndex, path: Path, force: bool) -> None:
    """Do what people decided in a table."""
    from index.collection.duplicate_review import read_review

    review = read_review(path)
    for ids in review.ignore:
        images.ignore_duplicates(ids)
    if review.ignore:
        print_result(f"{plural(len(review.ignore), 'group')} ignored from now on")
    _remove(images, review.remove, force)
