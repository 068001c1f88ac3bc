"""Routes of near-duplicates; those that decide, of a writable server alone."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from index.serve.descriptions import CSV, IDS_BODY, described_errors
from index.serve.downloads import csv_file
from index.serve.job_queue import never
from index.serve.places import client_of
from index.serve.service import Service


class DuplicateGroupJson(BaseModel):
    """Photos that are the same picture: which to keep, and which may go."""

    kind: Literal["same file", "near"]
    keep: list[str]
    remove: list[str]


class DuplicatesJson(BaseModel):
    """Near-duplicates. `status` says whether photos are still being compared, `progress` how much
    of that is done; `complete`, whether all photos were compared."""

    status: Literal["working", "done", "failed"]
    progress: float
    error: str
    photos: int
    compared: int
    complete: bool
    total: int
    ignored: int
    groups: list[DuplicateGroupJson]


class DecidedJson(BaseModel):
    """Ids of the images that were decided on."""

    ids: list[str]


_LIMIT = Query(ge=1, le=10_000, description="groups at most")
_OFFSET = Query(ge=0, le=10_000_000, description="groups to leave out, the largest first")
_Ids = Annotated[list[str] | None, Query(description="of images; repeatable")]


def add_duplicate_routes(router: APIRouter, service: Service) -> None:
    """Add them."""
    finder = service.duplicates

    @router.get("/api/duplicates", response_model=DuplicatesJson, responses=described_errors(422))
    def duplicates(
        limit: Annotated[int, _LIMIT] = 100,
        offset: Annotated[int, _OFFSET] = 0,
        ignored: Annotated[bool, Query(description="list the ignored groups instead")] = False,
    ) -> JSONResponse:
        """Photos that are in the index more than once. The first request starts the search."""
        listing = finder.listing(limit, offset, ignored)
        state, value = listing.state, listing.state.value
        groups = [
            {
                "kind": group.kind,
                "keep": [each for each in group.ids if each not in listing.remove],
                "remove": [each for each in group.ids if each in listing.remove],
            }
            for group in listing.groups
        ]
        return JSONResponse(
            {
                "status": state.status,
                "progress": state.progress if value is None or state.running else 1.0,
                "error": state.error,
                "photos": value.photos if value else 0,
                "compared": value.compared if value else 0,
                "complete": value.complete if value else False,
                "total": listing.total,
                "ignored": listing.ignored,
                "groups": groups,
            }
        )

    @router.get(
        "/api/duplicates.csv",
        response_class=Response,
        responses={**described_errors(409), **CSV},
    )
    def table() -> Response:
        """The groups as `delg index duplicates --csv` writes them: edited, that command does what
        the column `decision` says."""
        return csv_file(finder.csv(), "duplicates")

    if not service.settings.writable:
        return

    def add_decision(name: str, summary: str) -> None:
        @router.post(
            f"/api/duplicates/{name}",
            response_model=DecidedJson,
            responses=described_errors(404, 413, 415, 422),
            openapi_extra=IDS_BODY,
            summary=summary,
            name=f"{name}_duplicates",
        )
        async def decide(request: Request, ids: _Ids = None) -> Response:
            upload, client = await service.form_receiver.receive(request), client_of(request.scope)

            def work() -> list[str]:
                if name == "remove":
                    return finder.remove(upload.ids, client)
                if name == "ignore":
                    return [each for id in upload.ids for each in finder.ignore(id).ids]
                return [id for id in upload.ids if finder.heed_again(id)]

            return JSONResponse({"ids": await service.jobs.run(work, never, client)})

    add_decision("remove", "Remove photos that have duplicates; of each group one must stay")
    add_decision("ignore", "No longer list the groups of these photos")
    add_decision("heed", "List the ignored groups of these photos again")
