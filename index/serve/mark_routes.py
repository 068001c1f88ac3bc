"""Routes of marks: "the same thing" and "not the same"."""

from __future__ import annotations

import functools
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from index.serve.descriptions import CSV, described_errors
from index.serve.downloads import csv_file
from index.serve.job_queue import never
from index.serve.places import client_of
from index.serve.service import Service
from index.serve.uploads import MarkParams


class MarkJson(BaseModel):
    """What was said of a query, by its `key`, and an image; `none`: what was said before is
    forgotten."""

    query: str
    image: str
    verdict: Literal["same", "different", "none"]
    name: str


class MarksJson(BaseModel):
    """What was said."""

    marks: list[MarkJson]


_KEY = Query(description="the `key` of a query; all queries without it", max_length=64)


def add_mark_routes(router: APIRouter, service: Service) -> None:
    """Add them; those that write only if the server is writable."""

    @router.get("/api/marks.csv", response_class=Response, responses={**described_errors(), **CSV})
    def truth() -> Response:
        """The marks as ground truth for `delg eval queries`."""
        return csv_file(service.truth(), "truth")

    @router.get("/api/marks", response_model=MarksJson, responses=described_errors(422))
    def marks(query: Annotated[str, _KEY] = "") -> JSONResponse:
        """What was said of a query and its hits."""
        return JSONResponse({"marks": [vars(mark) for mark in service.marks(query)]})

    if not service.settings.writable:
        return

    @router.post(
        "/api/marks", response_model=MarkJson, responses=described_errors(404, 413, 415, 422)
    )
    async def mark(
        request: Request,
        query: Annotated[str | None, Query(description="the `key` of a query")] = None,
        image: Annotated[str | None, Query(description="id of a hit")] = None,
        verdict: Annotated[Literal["same", "different", "none"] | None, Query()] = None,
        name: Annotated[str | None, Query(description="of the query, for people")] = None,
    ) -> Response:
        """Say whether a query and a hit show the same thing, by form fields or in the address.
        Later answers to the same photo respect it."""
        upload = await service.form_receiver.receive(request)
        params = MarkParams.read(upload.fields)
        record = functools.partial(service.mark, params)
        return JSONResponse(await service.jobs.run(record, never, client_of(request.scope)))
