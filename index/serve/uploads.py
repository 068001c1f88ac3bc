"""Requests' bodies: a photo and search parameters, within limits and in memory only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from typing_extensions import Self

from delg.errors import DelgError, UsageError
from delg.images.geometry import parse_box
from delg.settings import Settings
from delg.types import Box
from index.selection import parse_condition
from index.serve.places import Places, TooBusyError, client_of
from index.serve.settings import MIB, ServeSettings

MAX_HITS, MAX_RERANKED = 1000, 1000
MAX_ID_LENGTH = 1024
# Name of a query that came without a file name.
UNNAMED = "image"
# Bytes of the fields and headers around a photo in a form.
_FORM_OVERHEAD = 64 * 1024
_MAX_FIELDS = 40
# Conditions of a search, and the fields that may be sent more than once.
_MAX_CONDITIONS = 20
_REPEATED = ("where", "plus", "minus", "ids")
NO_PHOTO = "no photo: send it as the form field 'image', or as the request's body"
# Photos that one query may be made of.
MAX_PHOTOS = 8
# Bytes of the form of the login page.
MAX_LOGIN_BYTES = 16 * 1024
# Bytes and fields of a form with the ids of many images.
MAX_FORM_BYTES, MAX_FORM_FIELDS = 256 * 1024, 1000


class BadRequestError(DelgError):
    """A request with unusable values; the message says what to change."""


class TooLargeError(DelgError):
    """An upload with more bytes than are accepted."""


class UnsupportedTypeError(DelgError):
    """A body whose media type is not accepted."""


class NotFoundError(DelgError):
    """There is no such image."""


class FormParams(Settings):
    """Fields of a form, or of the address."""

    @classmethod
    def given(cls, values: Mapping[str, str]) -> dict[str, str]:
        """The parameters among the fields of a request, as they were sent."""
        return {key: values[key] for key in cls.model_fields if values.get(key, "") != ""}

    @classmethod
    def read(cls, values: Mapping[str, str]) -> Self:
        """Parse them from all fields of a request; others and empty ones are ignored.

        Raises:
            BadRequestError: a value is not valid; the message names its key.
        """
        given = cls.given(values)
        if not all(map(is_text, given.values())):
            raise BadRequestError("not text in UTF-8")
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            raise BadRequestError(f"{name}: {message}") from None


class SearchParams(FormParams):
    """Parameters of a search: fields of a form, or of the address."""

    k: int = Field(10, ge=1, le=MAX_HITS)
    rerank: int | None = Field(None, ge=0, le=MAX_RERANKED)
    box: Box | None = None
    orientations: Literal["auto", "1", "4"] = "auto"
    # An indexed photo to search with, instead of an upload.
    id: str | None = Field(None, max_length=MAX_ID_LENGTH)
    # Conditions on the hits, KEY=VALUE, one per line.
    where: tuple[str, ...] = Field((), max_length=_MAX_CONDITIONS)
    # Hits below it are left out.
    min_probability: float = Field(0.0, ge=0, le=1)
    # Leave out hits that are not verified.
    verified_only: bool = False
    # Further indexed photos of the thing, and indexed photos of what it is not, one per line.
    plus: tuple[str, ...] = Field((), max_length=MAX_PHOTOS)
    minus: tuple[str, ...] = Field((), max_length=MAX_PHOTOS)

    @field_validator("box", mode="before")
    @classmethod
    def _read_box(cls, value: object) -> object:
        return parse_box(value) if isinstance(value, str) else value

    @field_validator("where", "plus", "minus", mode="before")
    @classmethod
    def _read_lines(cls, value: object) -> object:
        return tuple(filter(None, value.splitlines())) if isinstance(value, str) else value

    @field_validator("where")
    @classmethod
    def _check_where(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                parse_condition(text)
            except UsageError as error:
                raise ValueError(str(error)) from None
        return value


class MarkParams(FormParams):
    """What somebody says of a query and a photo of the index."""

    # The key of the query, as its result names it.
    query: str = Field(pattern="^[0-9a-f]{64}$")
    image: str = Field(max_length=MAX_ID_LENGTH)
    # "none" takes back what was said before.
    verdict: Literal["same", "different", "none"]
    # Of the query, for people.
    name: str = Field("", max_length=MAX_ID_LENGTH)


@dataclass(frozen=True)
class Upload:
    """The body of a request.

    Attributes:
        data: bytes of the photo; empty if there is none.
        name: the photo's file name; empty if there is none.
        fields: text fields of the form and of the address; those that may be repeated have a
            line for each time.
        more: name and bytes of the photos after the first.
        against: name and bytes of the photos in the field ``minus``.
    """

    data: bytes
    name: str
    fields: dict[str, str]
    more: tuple[tuple[str, bytes], ...] = ()
    against: tuple[tuple[str, bytes], ...] = ()

    @property
    def photos(self) -> tuple[tuple[str, bytes], ...]:
        """Name and bytes of all photos of the thing."""
        return (*(((self.name, self.data),) if self.data else ()), *self.more)

    @property
    def ids(self) -> list[str]:
        """The images that were named by fields ``ids``, each once."""
        return list(dict.fromkeys(filter(None, self.fields.get("ids", "").splitlines())))

    @property
    def source(self) -> bytes:
        """The bytes of the photo.

        Raises:
            BadRequestError: there is none.
        """
        if not self.data:
            raise BadRequestError(NO_PHOTO)
        return self.data


class Receiver:
    """Receives uploads: a limited number at once, and each with a limit of size and time.

    Args:
        settings: of the server.
        max_bytes: of an upload.
        max_fields: of a form.
    """

    def __init__(
        self, settings: ServeSettings, max_bytes: int, max_fields: int = _MAX_FIELDS
    ) -> None:
        self._max_bytes, self._max_fields = max_bytes, max_fields
        self._places = Places(settings.uploads, "too many uploads at once; try again in a moment")
        self._seconds, self._rate = settings.upload_seconds, settings.upload_pace_kib * 1024

    @property
    def active(self) -> int:
        """Uploads that are being received."""
        return self._places.taken

    async def receive(self, request: Request, max_photos: int = 1) -> Upload:
        """Read the body of a request: a form, or the bytes of a photo.

        Args:
            max_photos: in a form; the limit of bytes is for all together.

        Raises:
            TooLargeError: it has too many bytes.
            UnsupportedTypeError: it is neither a form nor a photo.
            BadRequestError: the form is malformed.
            TooBusyError: too many uploads at once, or this one is too slow.
        """
        with self._places.place(client_of(request.scope)):
            return await self._read(request, max_photos)

    async def _read(self, request: Request, max_photos: int) -> Upload:
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_bytes + _FORM_OVERHEAD:
            raise self._too_large()
        parameters = _join_repeated(request.query_params.multi_items())
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type == "multipart/form-data":
            upload = await self._read_form(request, max_photos)
            return replace(upload, fields={**parameters, **upload.fields})
        is_photo = media_type in ("", "application/octet-stream") or media_type.startswith("image/")
        if not is_photo:
            raise UnsupportedTypeError(
                f"a body of type {media_type} is not accepted: send multipart/form-data with the "
                "field 'image', or the bytes of the photo as image/* or application/octet-stream"
            )
        body = bytearray()
        async for chunk in self._chunks(request, self._max_bytes):
            body += chunk
        return Upload(bytes(body), "", parameters)

    async def _read_form(self, request: Request, max_photos: int) -> Upload:
        parser = MultiPartParser(
            request.headers,
            self._chunks(request, self._max_bytes + _FORM_OVERHEAD),
            max_files=max_photos,
            max_fields=self._max_fields,
            max_part_size=_FORM_OVERHEAD,
        )
        # Parts beyond this size would be written to disk; none can be so large.
        parser.spool_max_size = self._max_bytes + 2 * _FORM_OVERHEAD
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise BadRequestError(f"the form is malformed: {error.message}") from None
        photos, against, texts = [], [], []
        for key, value in form.multi_items():
            if not isinstance(value, UploadFile):
                texts.append((key, value))
            elif not value.filename and not value.size:
                continue  # A form's file that nobody chose.
            elif key == "image":
                photos.append((value.filename or "", await value.read()))
            elif key == "minus" and max_photos > 1:
                against.append((value.filename or "", await value.read()))
            else:
                raise BadRequestError(f"the photo's field must be 'image', not {key!r}")
        if sum(len(data) for _, data in (*photos, *against)) > self._max_bytes:
            raise self._too_large()
        (name, data), *more = photos or [("", b"")]
        return Upload(data, name, _join_repeated(texts), tuple(more), tuple(against))

    async def _chunks(self, request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
        """The body, as long as it arrives in time and has no more than ``max_bytes`` bytes."""
        started, total, stream = time.monotonic(), 0, request.stream()
        while True:
            left = started + self._seconds + total / self._rate - time.monotonic()
            try:
                chunk = await asyncio.wait_for(anext(stream), left)
            except StopAsyncIteration:
                return
            except asyncio.TimeoutError:
                raise TooBusyError(
                    f"the upload is too slow: {total // 1024} KiB in "
                    f"{time.monotonic() - started:.3g} s; try a smaller photo"
                ) from None
            total += len(chunk)
            if total > max_bytes:
                raise self._too_large()
            yield chunk

    def _too_large(self) -> TooLargeError:
        limit = f"{self._max_bytes // MIB} MiB" if self._max_bytes >= MIB else "a form may have"
        return TooLargeError(f"the upload has more than {limit}")


def _join_repeated(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Fields by name; the last one counts, except of those that may be repeated."""
    fields: dict[str, str] = {}
    for key, value in items:
        fields[key] = f"{fields[key]}\n{value}" if key in fields and key in _REPEATED else value
    return fields


def is_text(text: str) -> bool:
    """Whether SQLite takes it: lone surrogates are no text."""
    return text.isascii() or text.encode("utf-8", "replace").decode() == text


async def disconnected(request: Request) -> None:
    """Wait until the client of a request, whose body has been read, disconnects."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
