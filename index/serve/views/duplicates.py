"""Near-duplicates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from index.serve.duplicate_finder import DuplicateFinder
from index.serve.pagination import PageNumber, Pagination
from index.serve.views.search import is_fragment

if TYPE_CHECKING:
    from index.serve.pages import Pages

# Groups per page, and photos of one group that are shown.
GROUPS_PER_PAGE, GROUP_PHOTOS = 20, 24


def make_router(pages: Pages, finder: DuplicateFinder) -> APIRouter:
    """``/duplicates``."""
    router = APIRouter()
    shared = pages.service.shared

    @router.get("/duplicates")
    def duplicates(request: Request, page: PageNumber = 1) -> Response:
        search = finder.current()
        groups = search.duplicates.groups if search.duplicates else ()
        on_page = groups[(page - 1) * GROUPS_PER_PAGE : page * GROUPS_PER_PAGE]
        with shared.reading() as images:
            rows = {image_id: images.image(image_id) for g in on_page for image_id in g.ids}
        template = "duplicates_fragment.html" if is_fragment(request) else "duplicates.html"
        return pages.render(
            request, template,
            search=search, groups=on_page, rows=rows, group_photos=GROUP_PHOTOS,
            pagination=Pagination("/duplicates", {}, page, len(groups), GROUPS_PER_PAGE),
        )  # fmt: skip

    return router
