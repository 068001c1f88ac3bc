"""Groups of the same instance: all of them, and one."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from index.serve.group_finder import GroupOrder
from index.serve.job_queue import never
from index.serve.pagination import PageNumber, Pagination
from index.serve.places import client_of
from index.serve.views.search import is_fragment

if TYPE_CHECKING:
    from index.serve.pages import Pages

GROUPS_PER_PAGE = 48
# Weakest pair from which on a group is called sure, as answers are.
SURE = 0.95


def make_router(pages: Pages) -> APIRouter:
    """``/groups`` and ``/group``; comparing, merging and splitting, of a writable server alone."""
    router = APIRouter()
    service, finder = pages.service, pages.service.groups

    @router.get("/groups")
    def groups(
        request: Request,
        order: GroupOrder = "largest",
        page: PageNumber = 1,
        merged: int = 0,
        split: int = 0,
    ) -> Response:
        listing = finder.listing(GROUPS_PER_PAGE, (page - 1) * GROUPS_PER_PAGE, order)
        filters: dict[str, str] = {"order": "" if order == "largest" else order}
        return pages.render(
            request, "groups_fragment.html" if is_fragment(request) else "groups.html",
            listing=listing, state=listing.state, order=order, sure=SURE, merged=merged,
            split=split, folder=service.shared.path,
            pagination=Pagination("/groups", filters, page, listing.total, GROUPS_PER_PAGE),
        )  # fmt: skip

    @router.get("/group")
    def group(request: Request, id: str, split: int = 0) -> Response:
        members, rows = finder.group(id)
        ordered = []
        if members is not None:
            represents = members.representative
            ordered = sorted(
                members.members, key=lambda each: (each.id != represents, -each.strength)
            )
        return pages.render(
            request,
            "group.html",
            group=members,
            ordered=ordered,
            rows=rows,
            id=id,
            sure=SURE,
            split=split,
        )

    if not service.settings.writable:
        return router

    @router.post("/groups/compare")
    async def compare() -> Response:
        finder.compare()
        return RedirectResponse(f"{service.root}/groups", 303)

    @router.post("/groups/merge")
    async def merge(request: Request) -> Response:
        upload, client = await service.form_receiver.receive(request), client_of(request.scope)
        ids = await service.jobs.run(lambda: finder.merge(upload.ids), never, client)
        return RedirectResponse(f"{service.root}/groups?merged={len(ids)}", 303)

    @router.post("/groups/split")
    async def split(request: Request) -> Response:
        upload, client = await service.form_receiver.receive(request), client_of(request.scope)
        apart, rest = await service.jobs.run(lambda: finder.split(upload.ids), never, client)
        if len(rest) == 1:
            return RedirectResponse(f"{service.root}/groups?split={len(apart)}", 303)
        address = urlencode({"id": rest[0], "split": len(apart)})
        return RedirectResponse(f"{service.root}/group?{address}", 303)

    return router
