"""Answers that browsers save as files."""

from __future__ import annotations

from fastapi import Response


def attachment(name: str) -> dict[str, str]:
    """Headers of a file to save under that name, in ASCII."""
    return {"content-disposition": f'attachment; filename="{name}"'}


def csv_file(table: str | bytes, name: str) -> Response:
    """A table to save as ``name.csv``; text is encoded as UTF-8, halves of characters as ``?``."""
    data = table.encode("utf-8", "replace") if isinstance(table, str) else table
    return Response(data, media_type="text/csv; charset=utf-8", headers=attachment(f"{name}.csv"))
