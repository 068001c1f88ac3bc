"""Routes of saved searches."""

from __future__ import annotations

import functools
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel

from index.serve.descriptions import CSV, described_errors
from index.serve.downloads import attachment, csv_file
from index.serve.job_queue import never
from index.serve.places import client_of
from index.serve.saved_export import file_name
from index.serve.saved_search import SavedSearch, Sign
from index.serve.saved_searches import MAX_TITLE
from index.serve.service import Service
from index.serve.uploads import MAX_PHOTOS, SearchParams, disconnected


class FurtherPhotoJson(BaseModel):
    """An upload besides the first: of the same thing (`plus`), or of what it is not (`minus`)."""

    sign: Sign
    name: str
    width: int
    height: int


class SavedSearchJson(BaseModel):
    """A saved search: its query, the parameters as they were sent, and the number of its hits;
    `expires` is when it will be deleted."""

    id: str
    title: str
    created: str
    expires: str | None
    query: str
    params: dict[str, str]
    hits: int
    verified: int
    bytes: int
    further: list[FurtherPhotoJson]


class SavedSearchesJson(BaseModel):
    """Saved searches, the newest first."""

    searches: list[SavedSearchJson]
    total: int


class SavedResultJson(SavedSearchJson):
    """A saved search with its result as it was, as `POST /api/query` answers."""

    result: dict[str, Any]


class DeletedJson(BaseModel):
    """The id of the search that was deleted."""

    deleted: str


_LIMIT = Query(ge=1, le=10_000, description="entries at most")
_OFFSET = Query(ge=0, le=10_000_000, description="entries to leave out, the newest first")
_ZIP: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}
}
_HTML: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/html": {"schema": {"type": "string"}}}}
}
# An exported page is self-contained: no scripts, nothing from elsewhere.
STANDALONE_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"
)


def add_saved_routes(router: APIRouter, service: Service) -> None:
    """Add them."""

    def as_json(search: SavedSearch) -> dict[str, Any]:
        return search.as_json(service.saved.expires(search))

    @router.get("/api/searches", response_model=SavedSearchesJson, responses=described_errors(422))
    def searches(
        limit: Annotated[int, _LIMIT] = 100, offset: Annotated[int, _OFFSET] = 0
    ) -> JSONResponse:
        """Searches that were saved."""
        entries, total = service.saved.list(limit, offset)
        return JSONResponse({"searches": [as_json(each) for each in entries], "total": total})

    @router.post(
        "/api/searches",
        status_code=201,
        response_model=SavedSearchJson,
        responses=described_errors(404, 409, 413, 415, 422),
    )
    async def save(
        request: Request,
        title: Annotated[str, Query(description="by default the name of the photo")] = "",
        id: Annotated[
            str | None,
            Query(description="search with this indexed photo; uploads are further ones"),
        ] = None,
    ) -> Response:
        """Search as `POST /api/query` does, with all its parameters, and save the search with its
        photo and its hits."""
        upload = await service.receiver.receive(request, MAX_PHOTOS)
        params = SearchParams.read(upload.fields)
        search = await service.jobs.run(
            lambda: service.save_search(upload, params), never, client_of(request.scope)
        )
        return JSONResponse(as_json(search), 201)

    @router.get(
        "/api/searches/{search_id}", response_model=SavedResultJson, responses=described_errors(404)
    )
    def search(search_id: str) -> JSONResponse:
        """A saved search with its result."""
        search, result = service.saved.get(search_id), service.saved.result(search_id)
        values = result.as_json(search.query, str(service.shared.path))
        return JSONResponse({**as_json(search), "result": values})

    @router.patch(
        "/api/searches/{search_id}",
        response_model=SavedSearchJson,
        responses=described_errors(404, 422),
    )
    def rename(
        search_id: str, title: Annotated[str, Query(max_length=MAX_TITLE)] = ""
    ) -> JSONResponse:
        """Give a saved search another title."""
        return JSONResponse(as_json(service.saved.rename(search_id, title)))

    @router.delete(
        "/api/searches/{search_id}", response_model=DeletedJson, responses=described_errors(404)
    )
    def delete(search_id: str) -> JSONResponse:
        """Delete a saved search and its photo."""
        service.saved.delete(search_id)
        return JSONResponse({"deleted": search_id})

    @router.get(
        "/api/searches/{search_id}/hits.csv",
        response_class=Response,
        responses={**described_errors(404), **CSV},
    )
    def hits_csv(search_id: str) -> Response:
        """The hits as a table."""
        name = file_name(service.saved.get(search_id).title)
        return csv_file(service.saved_csv(search_id), name)

    @router.get(
        "/api/searches/{search_id}/hits.zip",
        response_class=Response,
        responses={**described_errors(404), **_ZIP},
    )
    def hits_zip(search_id: str) -> Response:
        """The photos of the hits, and the table."""
        headers = attachment(f"{file_name(service.saved.get(search_id).title)}.zip")
        stream = service.saved_zip(search_id)
        return StreamingResponse(stream, media_type="application/zip", headers=headers)

    @router.get(
        "/api/searches/{search_id}/report.html",
        response_class=Response,
        responses={**described_errors(404), **_HTML},
    )
    async def report(request: Request, search_id: str) -> Response:
        """One page with everything in it."""
        text = await service.jobs.run(
            functools.partial(service.saved_html, search_id),
            functools.partial(disconnected, request),
            client_of(request.scope),
        )
        headers = attachment(f"{file_name(service.saved.get(search_id).title)}.html")
        headers["content-security-policy"] = STANDALONE_POLICY
        return HTMLResponse(text.encode("utf-8", "replace"), headers=headers)
