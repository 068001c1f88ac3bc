"""``delg index searches``: what was saved on the pages of ``delg serve``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delg.cli.console import plural, print_json, print_result, table
from delg.cli.options import AsJson
from delg.errors import UsageError
from index.cli.options import IndexDir, open_index

if TYPE_CHECKING:
    from index.image_index import ImageIndex
    from index.results import QueryResult
    from index.serve.saved_search import SavedSearch
    from index.serve.saved_searches import SavedSearches

app = typer.Typer(help="List, show, rename, delete and export saved searches.")

Saved = Annotated[
    Path | None,
    typer.Option(help="SQLite file of saved searches (default: inside the index)."),
]
SearchId = Annotated[str, typer.Argument(metavar="ID", help="Id of a saved search.")]


def _open(index: Path, saved: Path | None) -> SavedSearches:
    from index import ImageIndex
    from index.serve.saved_searches import FILE, Limits, SavedSearches

    if not ImageIndex.exists(index):
        raise UsageError(f"{index}: no index; create one with delg index build")
    return SavedSearches(saved or index / FILE, Limits(0, 0, None))


@app.command("list")
def list_searches(index: IndexDir, saved: Saved = None, as_json: AsJson = False) -> None:
    """List saved searches, the newest first."""
    searches, _ = _open(index, saved).list(-1)
    if as_json:
        for search in searches:
            print_json(search.as_json())
        return
    rows = [search.as_json() for search in searches]
    table(
        ["id", "saved", "title", "query", "verified", "hits"],
        [
            [row["id"], row["created"], row["title"], _query(search), str(row["verified"]),
             str(row["hits"])]
            for row, search in zip(rows, searches, strict=True)
        ],
    )  # fmt: skip


def _query(search: SavedSearch) -> str:
    return search.query + (f" and {len(search.others)} more" if search.others else "")


@app.command("show")
def show(
    search_id: SearchId, index: IndexDir, saved: Saved = None, as_json: AsJson = False
) -> None:
    """Show the hits of a saved search."""
    from index.cli.query_output import Output, print_hits

    store = _open(index, saved)
    search, result = store.get(search_id), store.result(search_id)
    if as_json:
        values = {**search.as_json(), "result": result.as_json(search.query, str(index))}
        print_json(values)
        return
    print_result(f"{search.title} ({search.as_json()['created']})")
    for sign, name in search.others:
        print_result(f"{'and' if sign == 'plus' else 'but not'} {name}")
    print_hits(search.query, index, result, Output.table)


@app.command("rename")
def rename(
    search_id: SearchId,
    title: Annotated[str, typer.Argument(help="New title; empty for the name of its query.")],
    index: IndexDir,
    saved: Saved = None,
) -> None:
    """Give a saved search another title."""
    print_result(_open(index, saved).rename(search_id, title).title)


@app.command("delete")
def delete(
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of saved searches.")],
    index: IndexDir,
    saved: Saved = None,
) -> None:
    """Delete saved searches and their photos."""
    store = _open(index, saved)
    for search_id in ids:
        store.get(search_id)
    for search_id in ids:
        store.delete(search_id)
    print_result(f"{len(ids):,} deleted")


@app.command("export")
def export(
    search_id: SearchId,
    index: IndexDir,
    out: Annotated[
        Path, typer.Option(help="File to write: .csv, .html, or .zip with the photos of the hits.")
    ],
    saved: Saved = None,
) -> None:
    """Write a saved search as a table, a page or an archive."""
    from delg.files import write_bytes

    if out.suffix.lower() not in (".csv", ".html", ".zip"):
        raise UsageError(f"--out {out}: must end in .csv, .html or .zip")
    store = _open(index, saved)
    search, result = store.get(search_id), store.result(search_id)
    with open_index(index) as images:
        data = _export(images, store, search, result, out.suffix.lower())
    write_bytes(out, data)
    print_result(f"{plural(len(result), 'hit')} in {out}")


def _export(
    images: ImageIndex,
    store: SavedSearches,
    search: SavedSearch,
    result: QueryResult,
    kind: str,
) -> bytes:
    from delg.images.decode import ImageError, decode, decode_bytes
    from index.serve.saved_export import export_csv, export_html, export_zip
    from index.serve.thumbnails import PHOTO_SIDE, Pixels, encode_within
    from index.serve.uploads import NotFoundError

    limits = images.settings.images

    def read(photo: int | str) -> Pixels:
        if isinstance(photo, int):
            return decode_bytes(store.photo(search.id, photo), limits)
        path = images.paths([photo]).get(photo)
        try:
            if path:
                return decode(path, limits)
        except ImageError:
            pass
        raise NotFoundError(f"{photo}: its photo cannot be read")

    if kind == ".csv":
        return export_csv(search, result)
    if kind == ".zip":
        jpegs = export_zip(search, result, lambda id: encode_within(read(id), PHOTO_SIDE))
        return b"".join(jpegs)
    return export_html(search, result, map(read, search.photos)).encode("utf-8", "replace")
