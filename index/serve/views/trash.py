"""The trash, and the log of changes."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from index.serve.job_queue import never
from index.serve.pagination import PageNumber, Pagination
from index.serve.places import client_of
from index.serve.views.search import is_fragment
from index.storage.trash import Change

if TYPE_CHECKING:
    from index.serve.pages import Pages

PHOTOS_PER_PAGE, CHANGES_PER_PAGE = 60, 100
_WORDS = {"add": "added", "edit": "edited", "remove": "removed", "restore": "restored"}


def make_router(pages: Pages) -> APIRouter:
    """``/trash`` and ``/changes``; what changes something, of a writable server alone."""
    router = APIRouter()
    service, curation = pages.service, pages.service.curation

    @router.get("/trash")
    def trash(request: Request, page: PageNumber = 1, restored: int = 0) -> Response:
        removed, total = curation.trash(PHOTOS_PER_PAGE, (page - 1) * PHOTOS_PER_PAGE)
        return pages.render(
            request, "trash_fragment.html" if is_fragment(request) else "trash.html",
            removed=removed, total=total, restored=restored, task=curation.emptying.state,
            pagination=Pagination("/trash", {}, page, total, PHOTOS_PER_PAGE),
        )  # fmt: skip

    @router.get("/changes")
    def changes(request: Request, page: PageNumber = 1, undone: str = "") -> Response:
        logged, has_more = curation.changes(CHANGES_PER_PAGE, (page - 1) * CHANGES_PER_PAGE)
        entries = [
            (each, _WORDS.get(each.change.action, each.change.action), _differences(each.change))
            for each in logged
        ]  # fmt: skip
        return pages.render(
            request, "changes.html", entries=entries, page=page, has_more=has_more, undone=undone
        )

    if not service.settings.writable:
        return router

    @router.post("/trash/restore")
    async def restore(request: Request) -> Response:
        upload, client = await service.form_receiver.receive(request), client_of(request.scope)
        restored = await service.jobs.run(
            lambda: curation.restore(upload.ids, client), never, client
        )
        if is_fragment(request):
            return pages.render(request, "restored_fragment.html", restored=restored)
        return RedirectResponse(f"{service.root}/trash?restored={len(restored)}", 303)

    @router.post("/trash/empty")
    async def empty() -> Response:
        curation.empty_trash()
        return RedirectResponse(f"{service.root}/trash", 303)

    @router.post("/changes/undo")
    async def undo(request: Request) -> Response:
        upload, client = await service.form_receiver.receive(request), client_of(request.scope)
        image_id = upload.fields.get("id", "")
        await service.jobs.run(lambda: curation.undo(image_id, client), never, client)
        return RedirectResponse(f"{service.root}/changes?{urlencode({'undone': image_id})}", 303)

    return router


def _differences(change: Change) -> list[tuple[str, str, str]]:
    """Name of each value that a change set, the value before and after."""
    before, after = _values(change.before), _values(change.after)
    keys = dict.fromkeys([*before, *after])
    return [
        (key, before.get(key, ""), after.get(key, ""))
        for key in keys
        if change.action == "edit" and before.get(key, "") != after.get(key, "")
    ]


def _values(known: dict[str, object]) -> dict[str, str]:
    metadata = known.get("metadata")
    values = metadata if isinstance(metadata, dict) else {}
    label = {"label": str(known["label"])} if known.get("label") else {}
    return {**label, **{str(key): str(value) for key, value in values.items()}}
