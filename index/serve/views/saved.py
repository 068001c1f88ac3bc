"""Saved searches: the list, one of them, saving, deleting and exporting."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from index.serve.job_queue import never
from index.serve.pagination import PageNumber, Pagination
from index.serve.places import client_of
from index.serve.saved_search import SavedSearch
from index.serve.uploads import MAX_PHOTOS, NotFoundError, SearchParams, disconnected
from index.serve.views.search import is_fragment, result_values

if TYPE_CHECKING:
    from index.serve.pages import Pages

SEARCHES_PER_PAGE = 50
PhotoNumber = Annotated[
    int, Query(ge=0, le=2 * MAX_PHOTOS, description="0: the first; from 1: further uploads")
]


def make_router(pages: Pages) -> APIRouter:
    """``/searches`` and what lies below."""
    router = APIRouter()
    service = pages.service

    @router.get("/searches")
    def searches(request: Request, page: PageNumber = 1) -> Response:
        offset = (page - 1) * SEARCHES_PER_PAGE
        entries, total = service.saved.list(SEARCHES_PER_PAGE, offset)
        return pages.render(
            request, "searches.html",
            searches=[(search, service.saved.expires(search)) for search in entries],
            can_save=service.saved.limits.searches > 0,
            pagination=Pagination("/searches", {}, page, total, SEARCHES_PER_PAGE),
        )  # fmt: skip

    @router.post("/searches")
    async def save(request: Request) -> Response:
        upload = await service.receiver.receive(request, MAX_PHOTOS)
        params = SearchParams.read(upload.fields)
        search = await service.jobs.run(
            lambda: service.save_search(upload, params), never, client_of(request.scope)
        )
        target = f"{service.root}/searches/{search.id}"
        if is_fragment(request):
            return Response(status_code=204, headers={"hx-redirect": target})
        return RedirectResponse(target, 303)

    @router.get("/searches/{search_id}")
    def search(request: Request, search_id: str) -> Response:
        search, result = service.saved.get(search_id), service.saved.result(search_id)
        return pages.render(
            request, "saved_search.html",
            search=search, plus=_plus(service.root, search), expires=service.saved.expires(search),
            again=_again(search), **result_values(service, result, search.query),
        )  # fmt: skip

    @router.post("/searches/{search_id}/rename")
    async def rename(request: Request, search_id: str) -> Response:
        upload = await service.form_receiver.receive(request)
        service.saved.rename(search_id, upload.fields.get("title", ""))
        return RedirectResponse(f"{service.root}/searches/{search_id}", 303)

    @router.post("/searches/{search_id}/delete")
    async def delete(search_id: str) -> Response:
        service.saved.delete(search_id)
        return RedirectResponse(f"{service.root}/searches", 303)

    @router.get("/searches/{search_id}/photo")
    async def photo(request: Request, search_id: str, number: PhotoNumber = 0) -> Response:
        jpeg = await service.thumbnail_jobs.run(
            lambda: service.saved_photo(search_id, number),
            functools.partial(disconnected, request),
            client_of(request.scope),
        )
        return Response(jpeg, media_type="image/jpeg")

    @router.get("/searches/{search_id}/original")
    def original(search_id: str, number: PhotoNumber = 0) -> Response:
        data = service.saved.photo(search_id, number)
        if not data:
            raise NotFoundError("this search was made with an indexed image")
        headers = {"content-disposition": "attachment"}
        return Response(data, media_type="application/octet-stream", headers=headers)

    return router


def _again(search: SavedSearch) -> dict[str, Any]:
    """Parameters of the search page that searches anew."""
    is_indexed = "id" in search.params and not search.further
    return dict(search.params) if is_indexed else {"saved": search.id, **search.params}


def _plus(root: str, search: SavedSearch) -> list[dict[str, Any]]:
    """The photos of the thing after the first, as the match view shows them: their addresses, and
    their sizes or the address that says them."""
    uploads = [
        {
            "url": f"{root}/searches/{search.id}/photo?number={number}",
            "width": photo.width,
            "height": photo.height,
        }
        for number, photo in enumerate(search.further, 1)
        if photo.sign == "plus"
    ]
    addresses = [f"{root}/api/images/{quote(image_id, safe='')}" for image_id in search.plus]
    return [*uploads, *({"url": f"{about}/photo", "about": about} for about in addresses)]
