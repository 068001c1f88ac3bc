"""The page of batches: many photos, each a query of its own, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

if TYPE_CHECKING:
    from index.serve.pages import Pages


def make_router(pages: Pages) -> APIRouter:
    """``/batch``; its script uses ``/api/queries``."""
    router = APIRouter()

    @router.get("/batch")
    def batch(request: Request) -> Response:
        with pages.service.shared.reading() as images:
            accepts_photos = images.accepts_images
        limit = pages.service.settings.batch_photos
        return pages.render(request, "batch.html", accepts_photos=accepts_photos, limit=limit)

    return router
