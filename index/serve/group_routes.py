"""Routes of groups of the same instance; those that change something, of a writable server
alone."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from index.serve.descriptions import CSV, IDS_BODY, described_errors
from index.serve.downloads import csv_file
from index.serve.group_finder import GroupFinder, GroupOrder
from index.serve.job_queue import never
from index.serve.places import client_of
from index.serve.service import Service


class MemberJson(BaseModel):
    """A photo of a group, and the probability of its best pair within it."""

    id: str
    strength: float


class InstanceGroupJson(BaseModel):
    """Photos of one thing; `strength` is the probability of the weakest pair that holds them
    together."""

    representative: str
    strength: float
    members: list[MemberJson]


class GroupsJson(BaseModel):
    """Groups of the same instance. `status` says whether photos are being compared or grouped now;
    `pending` how many were not compared yet."""

    status: Literal["working", "done", "failed"]
    progress: float
    error: str
    photos: int
    pending: int
    total: int
    groups: list[InstanceGroupJson]


class ComparingJson(BaseModel):
    """Photos are compared in the background; `GET` says how far."""

    status: Literal["working", "done", "failed"]


class RegroupedJson(BaseModel):
    """The photos that were marked as one thing, or those that were marked as something else."""

    ids: list[str]


_LIMIT = Query(ge=1, le=10_000, description="groups at most")
_OFFSET = Query(ge=0, le=10_000_000, description="groups to leave out")
_Ids = Annotated[list[str] | None, Query(description="of images; repeatable")]


def add_group_routes(router: APIRouter, service: Service) -> None:
    """Add them."""
    finder = service.groups

    @router.get("/api/groups", response_model=GroupsJson, responses=described_errors(422))
    def groups(
        limit: Annotated[int, _LIMIT] = 100,
        offset: Annotated[int, _OFFSET] = 0,
        order: Annotated[GroupOrder, Query()] = "largest",
    ) -> JSONResponse:
        """Photos that show the same thing, by what was compared so far and by marks."""
        listing = finder.listing(limit, offset, order)
        state, value = listing.state, listing.state.value
        return JSONResponse(
            {
                "status": state.status,
                "progress": state.progress if state.running else 1.0,
                "error": state.error,
                "photos": value.photos if value else 0,
                "pending": value.pending if value else 0,
                "total": listing.total,
                "groups": [group.as_json() for group in listing.groups],
            }
        )

    def add_table(path: str, summary: str, name: str) -> None:
        @router.get(
            path,
            response_class=Response,
            responses={**described_errors(409), **CSV},
            summary=summary,
            name=name,
        )
        def table() -> Response:
            return csv_file(finder.csv() if name == "groups" else finder.label_file(), name)

    add_table("/api/groups.csv", "The groups as a table, one row per photo", "groups")
    add_table(
        "/api/groups/labels.csv", "The groups as a label file, as `--labels` takes it", "labels"
    )
    if service.settings.writable:
        _add_write_routes(router, service, finder)


def _add_write_routes(router: APIRouter, service: Service, finder: GroupFinder) -> None:
    @router.post(
        "/api/groups", status_code=202, response_model=ComparingJson, responses=described_errors()
    )
    async def compare() -> Response:
        """Compare the photos that were not compared yet, in the background."""
        return JSONResponse({"status": finder.compare().status}, 202)

    def add_decision(name: Literal["merge", "split"], summary: str) -> None:
        @router.post(
            f"/api/groups/{name}",
            response_model=RegroupedJson,
            responses=described_errors(404, 409, 413, 415, 422),
            openapi_extra=IDS_BODY,
            summary=summary,
            name=f"{name}_groups",
        )
        async def decide(request: Request, ids: _Ids = None) -> Response:
            upload, client = await service.form_receiver.receive(request), client_of(request.scope)

            def work() -> list[str]:
                if name == "merge":
                    return finder.merge(upload.ids)
                return finder.split(upload.ids)[0]

            return JSONResponse({"ids": await service.jobs.run(work, never, client)})

    add_decision("merge", "Mark the groups of these photos as one thing")
    add_decision("split", "Mark these photos as something else than the rest of their group")
