"""``delg index edit``, ``restore``, ``undo``, ``trash``, ``log``: changes of single images."""

from __future__ import annotations

from typing import Annotated

import typer

from delg.cli.console import plural, print_json, print_result, table
from delg.cli.options import AsJson
from delg.errors import UsageError
from index.cli.options import IndexDir, open_index, user_name

_Limit = Annotated[int, typer.Option("--limit", min=1, help="Entries at most.")]
_Ids = Annotated[list[str], typer.Argument(metavar="ID", help="Ids of images.")]


def index_edit(
    index: IndexDir,
    ids: _Ids,
    label: Annotated[str | None, typer.Option(help="New label; empty for none.")] = None,
    values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="New value of metadata; repeatable."),
    ] = None,
    unset: Annotated[
        list[str] | None,
        typer.Option("--unset", metavar="KEY", help="Metadata to delete; repeatable."),
    ] = None,
) -> None:
    """Change the label and metadata of images."""
    metadata: dict[str, str | None] = dict.fromkeys(unset or ())
    for text in values or ():
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"--set {text}: expected KEY=VALUE")
        metadata[key] = value
    if label is None and not metadata:
        raise UsageError("nothing to change: give --label, --set or --unset")
    with open_index(index) as images:
        edited = images.edit(ids, label, metadata, user_name())
    print_result(f"{plural(len(edited), 'image')} changed")


def index_restore(index: IndexDir, ids: _Ids) -> None:
    """Bring removed images back; see delg index trash."""
    with open_index(index) as images:
        restored = images.restore(ids, user_name())
    print_result(f"{plural(len(restored), 'image')} restored")


def index_undo(
    index: IndexDir,
    image_id: Annotated[str, typer.Argument(metavar="ID", help="Id of an image.")],
) -> None:
    """Take back the last change of an image; see delg index log."""
    with open_index(index) as images:
        change = images.undo(image_id, user_name())
    print_result(f"{image_id}: undone: {change.action} of {change.at}")


def index_trash(index: IndexDir, limit: _Limit = 100, as_json: AsJson = False) -> None:
    """List removed images that can be restored, until the index is compacted."""
    with open_index(index) as images:
        trash = images.trash(limit)
    if as_json:
        for image, removed in trash:
            print_json({"id": image.id, "label": image.label, "removed": removed})
        return
    table(["removed", "id", "label"], [[at, image.id, image.label or ""] for image, at in trash])


def index_log(index: IndexDir, limit: _Limit = 100, as_json: AsJson = False) -> None:
    """List what people added over HTTP, edited, removed and restored."""
    with open_index(index) as images:
        changes = images.changes(limit)
    if as_json:
        for change in changes:
            print_json(vars(change))
        return
    rows = [
        [
            change.at,
            change.by,
            change.action,
            change.id,
            _describe(change.before),
            _describe(change.after),
        ]
        for change in changes
    ]
    table(["at", "by", "action", "id", "before", "after"], rows)


def _describe(known: dict[str, object]) -> str:
    label, metadata = known.get("label"), known.get("metadata")
    parts = [str(label)] if label else []
    if isinstance(metadata, dict):
        parts += [f"{key}={value}" for key, value in metadata.items()]
    return ", ".join(parts)
