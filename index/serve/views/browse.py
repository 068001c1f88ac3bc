"""Browsing photos, one photo, and the photos that failed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
from fastapi import APIRouter, Request, Response

from delg.errors import DelgError
from index.collection.browse import ImagePage
from index.collection.columns import Filter, Sort
from index.collection.explore import describe_exploration
from index.search.notes import few_features
from index.serve.pagination import PageNumber, Pagination
from index.serve.views.search import is_fragment

if TYPE_CHECKING:
    from index.serve.pages import Pages

PHOTOS_PER_PAGE, FAILURES_PER_PAGE = 48, 100


def make_router(pages: Pages) -> APIRouter:
    """``/browse``, ``/image`` and ``/failures``."""
    router = APIRouter()
    shared = pages.service.shared

    @router.get("/browse")
    def browse(
        request: Request, q: str = "", label: str = "", key: str = "", value: str = "",
        sort: Sort = "id", plain: bool = False, page: PageNumber = 1,
    ) -> Response:  # fmt: skip
        few = pages.service.remembered.plain()
        condition = Filter("ok", q.strip(), label.strip(), key.strip(), value.strip())
        rows = pages.service.remembered.columns().select(condition, sort)
        if plain:
            rows = rows[np.isin(rows, list(few))]
        first = (page - 1) * PHOTOS_PER_PAGE
        with shared.reading() as images:
            shown = images.by_rows(rows[first : first + PHOTOS_PER_PAGE].tolist())
        selection = ImagePage(shown, len(rows))
        filters = {"q": q, "label": label, "key": key, "value": value}
        filters |= {"sort": "" if sort == "id" else sort, "plain": "true" if plain else ""}
        return pages.render(
            request, "photos_fragment.html" if is_fragment(request) else "browse.html",
            selection=selection, images=selection.images, filters=filters,
            counts=pages.service.remembered.counts(), few=few,
            is_filtered=plain or condition != Filter(),
            pagination=Pagination("/browse", filters, page, selection.total, PHOTOS_PER_PAGE),
        )  # fmt: skip

    @router.get("/image")
    def image(request: Request, id: str) -> Response:
        row, facts = pages.service.image(id), {}
        with contextlib.suppress(DelgError):
            if exploration := pages.service.remembered.exploration():
                facts = describe_exploration(exploration, row)
        features = pages.service.remembered.plain().get(row.row)
        notes = [] if features is None else [few_features(features)]
        return pages.render(request, "image.html", row=row, facts=facts, notes=notes)

    @router.get("/failures")
    def failures(request: Request, q: str = "", page: PageNumber = 1) -> Response:
        condition, offset = Filter("failed", q.strip()), (page - 1) * FAILURES_PER_PAGE
        with shared.reading() as images:
            selection = images.browse(condition, FAILURES_PER_PAGE, offset)
        counts = pages.service.remembered.counts()
        return pages.render(
            request, "failures.html",
            selection=selection, counts=counts, q=q,
            pagination=Pagination(
                "/failures", {"q": q}, page, selection.total, FAILURES_PER_PAGE
            ),
        )  # fmt: skip

    return router
