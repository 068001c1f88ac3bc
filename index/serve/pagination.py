"""Splitting long lists into pages."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import Query

# The number of a page in an address.
PageNumber = Annotated[int, Query(ge=1, le=1_000_000)]


class Pagination:
    """One page of a list, and the addresses of the others.

    Args:
        path: of the page.
        filters: parameters that every page keeps; empty ones are left out.
        page: number of the page, from 1.
        total: number of entries in the list.
        page_size: entries per page.

    Attributes:
        page, last: numbers of this page and of the last one, from 1.
        first_entry, last_entry: numbers of this page's entries, from 1; both 0 if it has none.
    """

    def __init__(
        self, path: str, filters: dict[str, str], page: int, total: int, page_size: int
    ) -> None:
        self._path = path
        self._filters = {key: value for key, value in filters.items() if value}
        self.page, self.total = page, total
        self.last = max(1, -(-total // page_size))
        start = (page - 1) * page_size
        self.first_entry = start + 1 if total > start else 0
        self.last_entry = min(total, page * page_size) if self.first_entry else 0

    def url(self, page: int) -> str:
        """The address of a page."""
        query = urlencode({**self._filters, **({"page": page} if page > 1 else {})})
        return f"{self._path}?{query}" if query else self._path
