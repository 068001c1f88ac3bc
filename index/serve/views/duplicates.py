"""Near-duplicates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from index.serve.job_queue import never
from index.serve.pagination import PageNumber, Pagination
from index.serve.places import client_of
from index.serve.uploads import BadRequestError
from index.serve.views.search import is_fragment

if TYPE_CHECKING:
    from index.serve.pages import Pages

# Groups per page, and photos of one group that are shown.
GROUPS_PER_PAGE, GROUP_PHOTOS = 20, 24


def make_router(pages: Pages) -> APIRouter:
    """``/duplicates``; deciding on them, of a writable server alone."""
    router = APIRouter()
    service, finder = pages.service, pages.service.duplicates

    @router.get("/duplicates")
    def duplicates(request: Request, page: PageNumber = 1, ignored: bool = False) -> Response:
        listing = finder.listing(GROUPS_PER_PAGE, (page - 1) * GROUPS_PER_PAGE, ignored)
        template = "duplicates_fragment.html" if is_fragment(request) else "duplicates.html"
        filters = {"ignored": "true" if ignored else ""}
        return pages.render(
            request, template,
            listing=listing, state=listing.state, ignored=ignored, group_photos=GROUP_PHOTOS,
            pagination=Pagination("/duplicates", filters, page, listing.total, GROUPS_PER_PAGE),
        )  # fmt: skip

    if not service.settings.writable:
        return router

    @router.post("/duplicates/decide")
    async def decide(request: Request) -> Response:
        upload, client = await service.form_receiver.receive(request), client_of(request.scope)
        action, member = upload.fields.get("action", ""), upload.fields.get("group", "")
        decisions = {
            "remove": lambda: finder.remove(upload.ids, client),
            "ignore": lambda: finder.ignore(member).ids,
            "heed": lambda: finder.heed_again(member),
        }
        if action not in decisions:
            raise BadRequestError("action: must be remove, ignore or heed")
        decided = await service.jobs.run(decisions[action], never, client)
        if not is_fragment(request):
            return RedirectResponse(f"{service.root}/duplicates", 303)
        return pages.render(
            request, "duplicates_decided_fragment.html",
            action=action, decided=decided, member=member,
        )  # fmt: skip

    return router
