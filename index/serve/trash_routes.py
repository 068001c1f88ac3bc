"""Routes of the trash and of the log of changes; those that change something, of a writable server
alone."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import unquote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from index.serve.curation import LoggedChange
from index.serve.descriptions import IDS_BODY, described_errors
from index.serve.job_queue import never
from index.serve.places import client_of
from index.serve.service import Service


class RemovedImageJson(BaseModel):
    """An image in the trash."""

    id: str
    label: str | None
    metadata: dict[str, str]
    removed: str


class TrashJson(BaseModel):
    """What can be restored, the last removed first. `emptying` says whether the trash is being
    emptied now, and `error` why that failed."""

    images: list[RemovedImageJson]
    total: int
    emptying: bool
    error: str


class RestoredJson(BaseModel):
    """Ids of the images that were restored."""

    restored: list[str]


class EmptyingJson(BaseModel):
    """The trash is being emptied in the background; `GET /api/trash` says how it stands."""

    emptying: bool


class ChangeJson(BaseModel):
    """A change, with label and metadata before and after; empty where the image was not there.
    `by` is a user of the server's machine, or the address of a client."""

    at: str
    by: str
    action: Literal["add", "edit", "remove", "restore"]
    id: str
    before: dict[str, Any]
    after: dict[str, Any]
    number: int
    can_undo: bool


class ChangesJson(BaseModel):
    """What was changed, the last change first."""

    changes: list[ChangeJson]


_LIMIT = Query(ge=1, le=10_000, description="entries at most")
_OFFSET = Query(ge=0, le=10_000_000, description="entries to leave out, the newest first")


def add_trash_routes(router: APIRouter, service: Service) -> None:
    """Add them."""
    curation = service.curation

    @router.get("/api/trash", response_model=TrashJson, responses=described_errors(422))
    def trash(
        limit: Annotated[int, _LIMIT] = 100, offset: Annotated[int, _OFFSET] = 0
    ) -> JSONResponse:
        """Images that were removed and can be restored, until the index is compacted."""
        removed, total = curation.trash(limit, offset)
        images = [
            {"id": row.id, "label": row.label, "metadata": row.metadata, "removed": at}
            for row, at in removed
        ]
        task = curation.emptying.state
        return JSONResponse(
            {"images": images, "total": total, "emptying": task.running, "error": task.error}
        )

    @router.get("/api/changes", response_model=ChangesJson, responses=described_errors(422))
    def changes(
        limit: Annotated[int, _LIMIT] = 100, offset: Annotated[int, _OFFSET] = 0
    ) -> JSONResponse:
        """What people added, edited, removed and restored, and who did."""
        logged, _ = curation.changes(limit, offset)
        return JSONResponse({"changes": [_change_json(entry) for entry in logged]})

    if not service.settings.writable:
        return

    @router.post(
        "/api/trash/restore",
        response_model=RestoredJson,
        responses=described_errors(404, 409, 413, 415, 422),
        openapi_extra=IDS_BODY,
    )
    async def restore(
        request: Request,
        ids: Annotated[list[str] | None, Query(description="of the images; repeatable")] = None,
    ) -> Response:
        """Bring removed images back, all of them or none, by form fields or in the address."""
        upload, client = await service.form_receiver.receive(request), client_of(request.scope)
        restored = await service.jobs.run(
            lambda: curation.restore(upload.ids, client), never, client
        )
        return JSONResponse({"restored": restored})

    @router.post(
        "/api/trash/empty",
        status_code=202,
        response_model=EmptyingJson,
        responses=described_errors(),
    )
    async def empty() -> Response:
        """Remove for good what is in the trash and free its space, in the background."""
        curation.empty_trash()
        return JSONResponse({"emptying": True}, 202)

    @router.post(
        "/api/images/{image_id:path}/undo",
        response_model=ChangeJson,
        responses=described_errors(404),
    )
    async def undo(request: Request, image_id: str) -> Response:
        """Take back the last change of an image: what was added or restored is removed, what was
        removed is restored, what was edited becomes as it was. Answers that change."""
        client = client_of(request.scope)
        change = await service.jobs.run(
            lambda: curation.undo(unquote(image_id), client), never, client
        )
        return JSONResponse(_change_json(LoggedChange(change, False, False)))


def _change_json(entry: LoggedChange) -> dict[str, Any]:
    return {**vars(entry.change), "can_undo": entry.can_undo}
