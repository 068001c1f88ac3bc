"""Routes that change what is known of images and undo removals, of a writable server alone."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from index.serve.descriptions import described_errors, form_body
from index.serve.image_json import ImageJson, image_json
from index.serve.job_queue import never
from index.serve.places import client_of
from index.serve.service import Service

_BODY = form_body({"label": {"type": "string"}, "metadata": {"type": "string"}})


def add_edit_routes(router: APIRouter, service: Service) -> None:
    """Add them."""

    @router.patch(
        "/api/images/{image_id:path}",
        response_model=ImageJson,
        responses=described_errors(404, 413, 415, 422),
        openapi_extra=_BODY,
    )
    async def edit(
        request: Request,
        image_id: str,
        label: Annotated[str | None, Query(description="new label; empty for none")] = None,
        metadata: Annotated[
            str | None,
            Query(description="a JSON object of new values; null deletes a key, others stay"),
        ] = None,
    ) -> Response:
        """Change label and metadata of an image, by form fields or in the address."""
        upload = await service.form_receiver.receive(request)

        client = client_of(request.scope)

        def edit_image() -> dict[str, Any]:
            return image_json(service.edit(unquote(image_id), upload, client))

        return JSONResponse(await service.jobs.run(edit_image, never, client))

    @router.post(
        "/api/images/{image_id:path}/restore",
        response_model=ImageJson,
        responses=described_errors(404, 409),
    )
    async def restore(request: Request, image_id: str) -> Response:
        """Bring a removed image back, as it was."""

        client = client_of(request.scope)

        def restore_image() -> dict[str, Any]:
            return image_json(service.restore(unquote(image_id), client))

        return JSONResponse(await service.jobs.run(restore_image, never, client))
