"""The HTTP API: JSON as the command line prints it."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from index.serve.job_queue import never
from index.serve.service import Service
from index.serve.thumbnails import PHOTO_SIDE, THUMBNAIL_SIDE
from index.serve.uploads import MOST_HITS, MOST_RERANKED, Asked, gone
from index.storage.catalog import ImageRow

# What a query is called that came without a file name.
UNNAMED = "image"


class Problem(BaseModel):
    """What went wrong, and what to do about it."""

    error: str


class HitJson(BaseModel):
    """A photo found."""

    rank: int
    id: str
    path: str
    label: str | None
    score: float
    similarity: float
    inliers: int
    verified: bool
    transform: list[list[float]] | None


class QueryJson(BaseModel):
    """The hits of a query, best first."""

    query: str
    index: str
    model: str
    orientation: int
    timing_ms: dict[str, float]
    hits: list[HitJson]


class ImageJson(BaseModel):
    """What the index knows of an image."""

    id: str
    path: str
    state: Literal["ok", "failed"]
    reason: str | None
    label: str | None
    metadata: dict[str, str]
    width: int | None
    height: int | None
    bytes: int
    sha256: str


class RemovedJson(BaseModel):
    """The image that was taken out."""

    removed: str


class HealthJson(BaseModel):
    """The server answers, and its model is loaded."""

    status: Literal["ok"]


def image_json(row: ImageRow) -> dict[str, Any]:
    """An image as the API gives it."""
    return {
        "id": row.id,
        "path": row.path,
        "state": row.state,
        "reason": row.reason,
        "label": row.label,
        "metadata": row.metadata,
        "width": row.width,
        "height": row.height,
        "bytes": row.size,
        "sha256": row.sha256,
    }


def _says(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The statuses of errors, for the API's description."""
    reasons = {
        401: "a token is needed",
        403: "not from there",
        404: "no such image",
        409: "does not go with what the index holds",
        413: "too many bytes or pixels",
        415: "neither a form nor a photo",
        422: "a photo or a value that cannot be used",
        503: "too busy; try again after `Retry-After` seconds",
    }
    return {
        status: {"description": reasons[status], "model": Problem}
        for status in (401, 403, *statuses, 503)
    }


_PHOTO = {"type": "string", "format": "binary"}
_ORIENTATIONS = {"type": "string", "enum": ["auto", "1", "4"]}
_BOX = {"type": "string", "description": "X,Y,WIDTH,HEIGHT in pixels of the upright photo"}
_QUERY_BODY = {
    "requestBody": {
        "required": False,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": _PHOTO,
                        "k": {"type": "integer", "minimum": 1, "maximum": MOST_HITS},
                        "rerank": {"type": "integer", "minimum": 0, "maximum": MOST_RERANKED},
                        "box": _BOX,
                        "orientations": _ORIENTATIONS,
                        "id": {"type": "string"},
                    },
                }
            },
            "application/octet-stream": {"schema": _PHOTO},
            "image/*": {"schema": _PHOTO},
        },
    }
}
_ADD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": _PHOTO,
                        "id": {"type": "string", "description": "default: the file's name"},
                        "label": {"type": "string"},
                        "metadata": {"type": "string", "description": "a JSON object of texts"},
                    },
                }
            },
            "application/octet-stream": {"schema": _PHOTO},
            "image/*": {"schema": _PHOTO},
        },
    }
}
_JPEG = {"content": {"image/jpeg": {"schema": _PHOTO}}, "description": "JPEG"}


def make_router(service: Service) -> APIRouter:
    """The routes; those that change the index only where that is allowed."""
    router = APIRouter(tags=["api"])

    @router.post(
        "/api/query",
        response_model=QueryJson,
        responses=_says(404, 409, 413, 415, 422),
        openapi_extra=_QUERY_BODY,
    )
    async def query(
        request: Request,
        k: Annotated[int | None, Query(ge=1, le=MOST_HITS, description="hits wanted")] = None,
        rerank: Annotated[
            int | None,
            Query(ge=0, le=MOST_RERANKED, description="candidates to verify; 0 is global-only"),
        ] = None,
        box: Annotated[
            str | None, Query(description="look only at X,Y,WIDTH,HEIGHT of the photo")
        ] = None,
        orientations: Annotated[
            Literal["auto", "1", "4"] | None, Query(description="how the photo may be turned")
        ] = None,
        id: Annotated[
            str | None, Query(description="look for this photo of the index; send none then")
        ] = None,
    ) -> Response:
        """Find the photos of the same thing.

        Send the photo as the field `image` of a form, with the other values as fields too, or
        as the whole body, with the values in the address. The answer is what
        `delg query --json` prints.
        """
        upload = await service.receiver.receive(request)
        names = ("k", "rerank", "box", "orientations", "id")
        asked = Asked.read({n: upload.fields[n] for n in names if n in upload.fields})

        def work() -> dict[str, Any]:
            result = service.search(upload, asked)
            return result.as_json(asked.id or upload.name or UNNAMED, str(service.shared.path))

        return JSONResponse(await service.workers.run(work, functools.partial(gone, request)))

    @router.get("/api/stats", responses=_says())
    def stats() -> dict[str, Any]:
        """What the index holds, and how busy the server is."""
        return service.stats()

    @router.get("/health", response_model=HealthJson)
    async def health() -> dict[str, str]:
        """Whether the server answers; its model is loaded before it does."""
        return {"status": "ok"}

    def picture_route(ending: str, side: int, summary: str) -> None:
        @router.get(
            f"/api/images/{{image_id:path}}/{ending}",
            response_class=Response,
            responses={**_says(404), 200: _JPEG, 304: {"description": "not changed"}},
            summary=summary,
            name=ending,
        )
        def picture(
            image_id: str, if_none_match: Annotated[str | None, Header()] = None
        ) -> Response:
            known = (if_none_match or "").removeprefix("W/").strip('"')
            found = service.picture(unquote(image_id), side, known)
            # Asked for again each time, sent again only if it has changed.
            headers = {"cache-control": "private, no-cache", "etag": f'"{found.tag}"'}
            if not found.data:
                return Response(status_code=304, headers=headers)
            return Response(found.data, media_type="image/jpeg", headers=headers)

    picture_route("thumb", THUMBNAIL_SIDE, f"A JPEG of at most {THUMBNAIL_SIDE} pixels a side.")
    picture_route("photo", PHOTO_SIDE, f"A JPEG of at most {PHOTO_SIDE} pixels a side.")

    @router.get("/api/images/{image_id:path}", response_model=ImageJson, responses=_says(404))
    def image(image_id: str) -> JSONResponse:
        """What the index knows of an image. Percent-encode its id, slashes too."""
        return JSONResponse(image_json(service.image(unquote(image_id))))

    if service.settings.writable:
        _add_writing(router, service)
    return router


# A change is made even if whoever asked for it hangs up.
def _add_writing(router: APIRouter, service: Service) -> None:
    @router.post(
        "/api/images",
        status_code=201,
        response_model=ImageJson,
        responses=_says(409, 413, 415, 422),
        openapi_extra=_ADD_BODY,
    )
    async def add(
        request: Request,
        id: Annotated[str | None, Query(description="of the new image")] = None,
        label: Annotated[str | None, Query()] = None,
        metadata: Annotated[str | None, Query(description="a JSON object of texts")] = None,
    ) -> Response:
        """Add a photo. Its file is kept inside the index's folder."""
        upload = await service.receiver.receive(request)

        def work() -> dict[str, Any]:
            return image_json(service.add(upload))

        return JSONResponse(await service.workers.run(work, never), 201)

    @router.delete("/api/images/{image_id:path}", response_model=RemovedJson, responses=_says(404))
    async def remove(image_id: str) -> Response:
        """Take an image out of the index; a photo that was not added over HTTP stays on disk."""
        wanted = unquote(image_id)

        def work() -> dict[str, Any]:
            service.remove(wanted)
            return {"removed": wanted}

        return JSONResponse(await service.workers.run(work, never))
