"""Errors as HTTP responses: status, reason and headers."""

from __future__ import annotations

from delg.errors import DelgError, ModelError, UsageError
from delg.images.decode import ImageError, OversizedError
from index.photos.uploaded_photos import ConflictError
from index.serve.background import NotReadyError
from index.serve.places import TooBusyError
from index.serve.saved_searches import FullError
from index.serve.uploads import BadRequestError, NotFoundError, TooLargeError, UnsupportedTypeError
from index.storage.lock import BusyError

# Seconds after which a client may try again.
_RETRY_AFTER = "2"
# The first type that fits counts.
_STATUS: tuple[tuple[type[DelgError], int], ...] = (
    (TooBusyError, 503),
    (BusyError, 503),
    (TooLargeError, 413),
    (OversizedError, 413),
    (UnsupportedTypeError, 415),
    (ImageError, 422),
    (BadRequestError, 422),
    (NotFoundError, 404),
    (ConflictError, 409),
    (FullError, 409),
    (NotReadyError, 409),
    (ModelError, 409),
    (UsageError, 422),
)


def error_response(error: DelgError) -> tuple[int, str, dict[str, str]]:
    """Status, reason and headers."""
    status = next((status for type_, status in _STATUS if isinstance(error, type_)), 500)
    return status, str(error), {"retry-after": _RETRY_AFTER} if status == 503 else {}
