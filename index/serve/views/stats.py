"""Statistics, and the API by example."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from index.storage.ann_index import KIND_DESCRIPTIONS

if TYPE_CHECKING:
    from index.serve.pages import Pages


def make_router(pages: Pages) -> APIRouter:
    """``/stats`` and ``/api``."""
    router = APIRouter()

    @router.get("/stats")
    def stats(request: Request) -> Response:
        counts, stats = pages.service.remembered.counts(), pages.service.stats()
        shortlist = KIND_DESCRIPTIONS[stats["shortlist"]]
        return pages.render(request, "stats.html", stats=stats, shortlist=shortlist, counts=counts)

    @router.get("/api")
    def api(request: Request) -> Response:
        base = str(request.base_url).rstrip("/") + pages.service.root
        return pages.render(request, "api.html", base=base)

    return router
