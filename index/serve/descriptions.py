"""What the OpenAPI schema says of requests and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel


class ErrorJson(BaseModel):
    """What went wrong, and what to do about it."""

    error: str


PHOTO = {"type": "string", "format": "binary"}
CSV: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "CSV"}
}


def form_body(
    properties: Mapping[str, Any], required: Sequence[str] = (), or_photo: bool = False
) -> dict[str, Any]:
    """The body of a request that is a form, for the OpenAPI schema.

    Args:
        properties: schema of each field.
        required: fields without which there is no request; where there are none, it may have no
            body.
        or_photo: the body may be the bytes of a photo as well.
    """
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(required)
    content: dict[str, Any] = {"multipart/form-data": {"schema": schema}}
    if or_photo:
        content |= {"application/octet-stream": {"schema": PHOTO}, "image/*": {"schema": PHOTO}}
    return {"requestBody": {"required": bool(required), "content": content}}


IDS_BODY = form_body({"ids": {"type": "array", "items": {"type": "string"}}})


def described_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Descriptions of error statuses, for the OpenAPI schema."""
    reasons = {
        401: "a token is required",
        403: "host or origin not allowed",
        404: "no such image",
        409: "in conflict with the contents of the index",
        413: "too many bytes or pixels",
        415: "the body is neither a form nor a photo",
        422: "an unusable photo or value",
        503: "too busy; try again after `Retry-After` seconds",
    }
    return {
        status: {"description": reasons[status], "model": ErrorJson}
        for status in (401, 403, *statuses, 503)
    }
