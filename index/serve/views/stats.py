"""Statistics, and the API by example."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from index.storage.ann_index import KIND_DESCRIPTIONS

if TYPE_CHECKING:
    from index.serve.pages import Pages

# Labels and metadata keys that are counted.
_MAX_COUNTS = 200


def make_router(pages: Pages) -> APIRouter:
    """``/stats`` and ``/api``."""
    router = APIRouter()
    shared = pages.service.shared

    @router.get("/stats")
    def stats(request: Request) -> Response:
        with shared.reading() as images:
            counts = images.counts(_MAX_COUNTS)
        stats = pages.service.stats()
        shortlist = KIND_DESCRIPTIONS[stats["shortlist"]]
        return pages.render(request, "stats.html", stats=stats, shortlist=shortlist, counts=counts)

    @router.get("/api")
    def api(request: Request) -> Response:
        return pages.render(request, "api.html", base=str(request.base_url).rstrip("/"))

    return router
