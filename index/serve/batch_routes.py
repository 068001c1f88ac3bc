"""Routes of batches: many photos, each a query of its own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from index.serve.batches import MAX_BATCH_HITS
from index.serve.descriptions import CSV, PHOTO, described_errors, form_body
from index.serve.downloads import csv_file
from index.serve.service import Service
from index.serve.uploads import BadRequestError, SearchParams


class BatchJson(BaseModel):
    """A batch of queries, and what has been answered of it. A result is that of `POST /api/query`,
    or has the key `error` where a photo cannot be used."""

    id: str
    status: Literal["working", "done", "cancelled"]
    total: int
    done: int
    failed: int
    results: list[dict[str, Any]]


_BODY = form_body(
    {
        "image": {"type": "array", "items": PHOTO},
        "k": {"type": "integer", "minimum": 1, "maximum": MAX_BATCH_HITS},
        "where": {"type": "array", "items": {"type": "string"}},
    },
    required=["image"],
)


def add_batch_routes(router: APIRouter, service: Service) -> None:
    """Add them."""

    @router.post(
        "/api/queries",
        status_code=202,
        response_model=BatchJson,
        responses=described_errors(413, 415, 422),
        openapi_extra=_BODY,
    )
    async def start(
        request: Request,
        k: Annotated[int, Query(ge=1, le=MAX_BATCH_HITS, description="hits of each")] = 3,
    ) -> Response:
        """Answer many photos, one after the other, in the background. Send them as repeated fields
        `image`; filters and `rerank`, as of `POST /api/query`, hold for all of them."""
        upload = await service.batch_receiver.receive(request, service.settings.batch_photos)
        params = SearchParams.read({"k": str(k), **upload.fields})
        if params.id is not None or params.plus or params.minus or params.box or upload.against:
            raise BadRequestError("id, plus, minus, box: not for a batch")
        if params.k > MAX_BATCH_HITS:
            raise BadRequestError(f"k: at most {MAX_BATCH_HITS} in a batch")
        photos = [(upload.name, upload.source), *upload.more]
        named = [(name or f"image {number}", data) for number, (name, data) in enumerate(photos, 1)]
        batch = service.batches.start(named, params)
        prefix = request.scope.get("delg.prefix", "")
        return JSONResponse(batch.as_json(), 202, {"location": f"{prefix}/api/queries/{batch.id}"})

    @router.get(
        "/api/queries/{batch_id}.csv",
        response_class=Response,
        responses={**described_errors(404), **CSV},
    )
    async def table(batch_id: str) -> Response:
        """What has been answered, as a CSV file with one row per photo."""
        return csv_file(service.batches.get(batch_id).as_csv(), "answers")

    @router.get(
        "/api/queries/{batch_id}", response_model=BatchJson, responses=described_errors(404)
    )
    async def status(batch_id: str) -> JSONResponse:
        """How far a batch is, and what has been answered of it; kept for an hour."""
        return JSONResponse(service.batches.get(batch_id).as_json())

    @router.delete(
        "/api/queries/{batch_id}", response_model=BatchJson, responses=described_errors(404)
    )
    async def cancel(batch_id: str) -> JSONResponse:
        """Stop a batch and forget it."""
        return JSONResponse(service.batches.cancel(batch_id).as_json())
