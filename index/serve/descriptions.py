"""What the OpenAPI schema says of errors."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class ErrorJson(BaseModel):
    """What went wrong, and what to do about it."""

    error: str


PHOTO = {"type": "string", "format": "binary"}
CSV: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "CSV"}
}


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
