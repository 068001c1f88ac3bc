"""The HTTP API, with the same JSON as the command line prints."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import BaseModel

from index.serve.batch_routes import add_batch_routes
from index.serve.descriptions import PHOTO, described_errors, form_body
from index.serve.duplicate_routes import add_duplicate_routes
from index.serve.edit_routes import add_edit_routes
from index.serve.group_routes import add_group_routes
from index.serve.image_json import IiifJson, ImageJson, image_json
from index.serve.job_queue import never
from index.serve.mark_routes import add_mark_routes
from index.serve.metrics import MEDIA_TYPE
from index.serve.pair_routes import add_pair_routes
from index.serve.places import client_of
from index.serve.saved_routes import add_saved_routes
from index.serve.service import Service
from index.serve.thumbnails import PHOTO_SIDE, THUMBNAIL_SIDE
from index.serve.trash_routes import add_trash_routes
from index.serve.uploads import (
    MAX_HITS,
    MAX_PHOTOS,
    MAX_RERANKED,
    UNNAMED,
    NotFoundError,
    SearchParams,
    disconnected,
)


class GroupJson(BaseModel):
    """The hits of one label, or a hit without a label."""

    label: str | None
    id: str
    score: float
    probability: float
    verified: bool
    metadata: dict[str, str]
    ranks: list[int]


class AnswerJson(BaseModel):
    """What the query shows: `label`, or the photo `id` where it has none; neither for `none`."""

    verdict: Literal["sure", "probably", "none"]
    text: str
    label: str | None
    id: str | None
    probability: float
    metadata: dict[str, str]
    groups: list[GroupJson]


class FacetsJson(BaseModel):
    """Values to filter by, the most frequent first, with the number of images that have each."""

    images: int
    facets: dict[str, list[list[str | int]]]


class HitJson(BaseModel):
    """A photo of the index that a query found."""

    rank: int
    id: str
    path: str
    label: str | None
    score: float
    similarity: float
    inliers: int
    probability: float
    verified: bool
    transform: list[list[float]] | None
    mark: Literal["same", "different"] | None
    region: list[float] | None
    # The page about the photo; and where it comes from, if that is a IIIF manifest.
    source_url: str | None
    iiif: IiifJson | None


class RegionJson(BaseModel):
    """A part of the query, (x, y, width, height) in its upright pixels, and the ranks of the hits
    verified for it; without hits it stands out, but nothing was verified for it."""

    box: list[float]
    hits: list[int]


class MissingShardJson(BaseModel):
    """A part of a sharded index that was not searched."""

    shard: str
    reason: str


class QueryJson(BaseModel):
    """The hits of a query, best first."""

    query: str
    key: str
    index: str
    model: str
    orientation: int
    timing_ms: dict[str, float]
    features: int
    notes: list[str]
    answer: AnswerJson
    hits: list[HitJson]
    regions: list[RegionJson]
    # Only where shards of the index were not searched; the header X-Delg-Partial names them too.
    partial: list[MissingShardJson] | None = None


class RemovedJson(BaseModel):
    """The id of the image that was removed."""

    removed: str


class IndexesJson(BaseModel):
    """The indexes of the server."""

    indexes: list[str]


class HealthJson(BaseModel):
    """The server is ready."""

    status: Literal["ok"]


_WHERE = (
    "only images with `label=VALUE`, or `KEY=VALUE` of their metadata; repeatable: values of one "
    "key are alternatives, and all keys must fit"
)
_ORIENTATIONS = {"type": "string", "enum": ["auto", "1", "4"]}
_BOX = {"type": "string", "description": "X,Y,WIDTH,HEIGHT in pixels of the upright photo"}
_QUERY_BODY = form_body(
    {
        "image": {"type": "array", "items": PHOTO, "maxItems": MAX_PHOTOS},
        "k": {"type": "integer", "minimum": 1, "maximum": MAX_HITS},
        "rerank": {"type": "integer", "minimum": 0, "maximum": MAX_RERANKED},
        "box": _BOX,
        "orientations": _ORIENTATIONS,
        "id": {"type": "string"},
        "plus": {"type": "array", "items": {"type": "string"}},
        "minus": {"type": "array", "items": {"type": "string"}},
        "where": {"type": "array", "items": {"type": "string"}},
        "min_probability": {"type": "number", "minimum": 0, "maximum": 1},
        "verified_only": {"type": "boolean"},
    },
    or_photo=True,
)
_ADD_BODY = form_body(
    {
        "image": PHOTO,
        "id": {"type": "string", "description": "default: the file name"},
        "label": {"type": "string"},
        "metadata": {"type": "string", "description": "a JSON object of strings"},
    },
    required=["image"],
    or_photo=True,
)
_JPEG = {"content": {"image/jpeg": {"schema": PHOTO}}, "description": "JPEG"}


def make_router(service: Service) -> APIRouter:
    """All routes; those that change the index only if the server is writable."""
    router = APIRouter(tags=["api"])

    @router.post(
        "/api/query",
        response_model=QueryJson,
        responses=described_errors(404, 409, 413, 415, 422),
        openapi_extra=_QUERY_BODY,
    )
    async def query(
        request: Request,
        k: Annotated[int | None, Query(ge=1, le=MAX_HITS, description="number of results")] = None,
        rerank: Annotated[
            int | None,
            Query(
                ge=0,
                le=MAX_RERANKED,
                description="candidates to verify; 0: rank by similarity alone",
            ),
        ] = None,
        box: Annotated[
            str | None, Query(description="search with this part of the photo: X,Y,WIDTH,HEIGHT")
        ] = None,
        orientations: Annotated[
            Literal["auto", "1", "4"] | None,
            Query(description="1: upright; 4: all quarter turns; auto: on demand"),
        ] = None,
        id: Annotated[
            str | None,
            Query(description="search with this indexed photo; uploads are further ones"),
        ] = None,
        plus: Annotated[
            list[str] | None, Query(description="ids of further indexed photos of the thing")
        ] = None,
        minus: Annotated[
            list[str] | None, Query(description="ids of indexed photos of what it is not")
        ] = None,
        where: Annotated[list[str] | None, Query(description=_WHERE)] = None,
        min_probability: Annotated[
            float | None, Query(ge=0, le=1, description="leave out hits below it")
        ] = None,
        verified_only: Annotated[
            bool | None, Query(description="leave out hits that are not verified")
        ] = None,
    ) -> Response:
        """Find the photos that show the same thing.

        Send the photo as the form field `image`, with the parameters as form fields, or as the body
        of the request, with the parameters in the query string. The response is what `delg query
        --json` prints. Several photos, as repeated fields `image` or as ids in `plus`, are one
        query; photos of what it is not go into `minus`.
        """
        upload = await service.receiver.receive(request, MAX_PHOTOS)
        params = SearchParams.read(upload.fields)

        def search() -> dict[str, Any]:
            result = service.search(upload, params)
            return result.as_json(params.id or upload.name or UNNAMED, str(service.shared.path))

        has_gone = functools.partial(disconnected, request)
        values = await service.jobs.run(search, has_gone, client_of(request.scope))
        return JSONResponse(values, headers=_partial_header(values))

    @router.get("/api/facets", response_model=FacetsJson, responses=described_errors(422))
    def facets(
        request: Request,
        where: Annotated[list[str] | None, Query(description=_WHERE)] = None,
        limit: Annotated[int, Query(ge=1, le=1000, description="values of each key")] = 50,
    ) -> JSONResponse:
        """What to filter by: labels and metadata, with the number of images. The counts of a key
        are of the images that fulfil the conditions of all other keys."""
        params = SearchParams.read({"where": "\n".join(where or ())})
        return JSONResponse(service.facets(params.where, limit))

    @router.get("/api/stats", responses=described_errors())
    def stats() -> dict[str, Any]:
        """Size, model and settings of the index, and the load of the server."""
        return service.stats()

    @router.get("/health", response_model=HealthJson)
    async def health() -> dict[str, str]:
        """Whether the server is ready; it answers once its model is loaded."""
        return {"status": "ok"}

    @router.get("/api/indexes", response_model=IndexesJson, responses=described_errors())
    def indexes() -> dict[str, list[str]]:
        """Names of the server's indexes; the API of each is below `/indexes/NAME`, as in
        `/indexes/NAME/api/query`. Without that, it is the first one's."""
        return {"indexes": list(service.indexes)}

    @router.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        text = service.metrics.text()
        if text is None:
            raise NotFoundError("needs prometheus_client: pip install 'delg-retrieval[metrics]'")
        return Response(text, media_type=MEDIA_TYPE)

    @router.get("/docs", include_in_schema=False)
    def docs() -> Response:
        return RedirectResponse(f"{service.root}/api")

    def add_jpeg_route(name: str, side: int) -> None:
        @router.get(
            f"/api/images/{{image_id:path}}/{name}",
            response_class=Response,
            responses={**described_errors(404), 200: _JPEG, 304: {"description": "not modified"}},
            summary=f"The photo as a JPEG of at most {side} pixels a side",
            name=name,
        )
        async def photo(
            request: Request,
            image_id: str,
            if_none_match: Annotated[str | None, Header()] = None,
            trash: Annotated[bool, Query(description="of an image that was removed")] = False,
        ) -> Response:
            known_tag = (if_none_match or "").removeprefix("W/").strip('"')
            jpeg = await service.thumbnail_jobs.run(
                lambda: service.photo(unquote(image_id), side, known_tag, trash),
                functools.partial(disconnected, request),
                client_of(request.scope),
            )
            # Browsers ask each time, and it is sent again only if it has changed.
            headers = {"cache-control": "private, no-cache", "etag": f'"{jpeg.tag}"'}
            if not jpeg.data:
                return Response(status_code=304, headers=headers)
            return Response(jpeg.data, media_type="image/jpeg", headers=headers)

    add_jpeg_route("thumb", THUMBNAIL_SIDE)
    add_jpeg_route("photo", PHOTO_SIDE)

    @router.get(
        "/api/images/{image_id:path}", response_model=ImageJson, responses=described_errors(404)
    )
    def image(image_id: str) -> JSONResponse:
        """Id, label, metadata and file of an image. Percent-encode its id, including slashes."""
        row = service.image(unquote(image_id))
        return JSONResponse(image_json(row, service.remembered.plain().get(row.row)))

    add_batch_routes(router, service)
    add_mark_routes(router, service)
    add_saved_routes(router, service)
    add_trash_routes(router, service)
    add_duplicate_routes(router, service)
    add_group_routes(router, service)
    add_pair_routes(router, service)
    if service.settings.writable:
        add_edit_routes(router, service)
        _add_write_routes(router, service)
    return router


def _partial_header(values: dict[str, Any]) -> dict[str, str]:
    """What says that shards were not searched; nothing, if all were."""
    names = ", ".join(quote(missing["shard"]) for missing in values.get("partial", ()))
    return {"X-Delg-Partial": names} if names else {}


def _add_write_routes(router: APIRouter, service: Service) -> None:
    # A change is made even if the client disconnects.
    @router.post(
        "/api/images",
        status_code=201,
        response_model=ImageJson,
        responses=described_errors(409, 413, 415, 422),
        openapi_extra=_ADD_BODY,
    )
    async def add(
        request: Request,
        id: Annotated[str | None, Query(description="id of the new image")] = None,
        label: Annotated[str | None, Query()] = None,
        metadata: Annotated[str | None, Query(description="a JSON object of strings")] = None,
    ) -> Response:
        """Add a photo. Its file is stored inside the index's folder."""
        upload = await service.receiver.receive(request)

        client = client_of(request.scope)

        def add_photo() -> dict[str, Any]:
            return image_json(service.add(upload, client))

        return JSONResponse(await service.jobs.run(add_photo, never, client), 201)

    @router.delete(
        "/api/images/{image_id:path}", response_model=RemovedJson, responses=described_errors(404)
    )
    async def remove(request: Request, image_id: str) -> Response:
        """Remove an image from the index; it can be restored until the index is compacted. A photo
        that was not added over HTTP stays on disk in any case."""
        decoded_id, client = unquote(image_id), client_of(request.scope)

        def remove_image() -> dict[str, Any]:
            service.remove(decoded_id, client)
            return {"removed": decoded_id}

        return JSONResponse(await service.jobs.run(remove_image, never, client))
