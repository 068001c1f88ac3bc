"""Errors as answers: a status and a reason, for programs as JSON and for people as a page."""

from __future__ import annotations

from delg.errors import DelgError, ModelError, UsageError
from delg.images.decode import ImageError, OversizedError
from index.serve.job_queue import TooBusyError
from index.serve.service import ConflictError
from index.serve.uploads import BadRequestError, NotFoundError, TooLargeError, WrongKindError
from index.storage.store import BusyError

# Seconds after which another try makes sense.
_LATER = "2"
# The first kind that fits counts.
_STATUS: tuple[tuple[type[DelgError], int], ...] = (
    (TooBusyError, 503),
    (BusyError, 503),
    (TooLargeError, 413),
    (OversizedError, 413),
    (WrongKindError, 415),
    (ImageError, 422),
    (BadRequestError, 422),
    (NotFoundError, 404),
    (ConflictError, 409),
    (ModelError, 409),
    (UsageError, 422),
)


def answer_to(error: DelgError) -> tuple[int, str, dict[str, str]]:
    """Status, reason and headers."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    return status, str(error), {"retry-after": _LATER} if status == 503 else {}
