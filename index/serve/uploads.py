"""What a request brings along: a photo and how to look for it, within limits, in memory only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, ValidationError, field_validator
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from delg.errors import DelgError
from delg.images.decode import Source
from delg.settings import Settings
from delg.types import Box
from index.serve.job_queue import TooBusyError
from index.serve.settings import MIB, ServeSettings

MOST_HITS, MOST_RERANKED = 1000, 1000
LONGEST_ID = 1024
# Bytes of the fields and headers around a photo in a form.
_AROUND = 64 * 1024
_FIELDS = 12


class BadRequestError(DelgError):
    """A request that makes no sense; the message says what to change."""


class TooLargeError(DelgError):
    """An upload of more bytes than are taken."""


class WrongKindError(DelgError):
    """A body of a kind that is not understood."""


class NotFoundError(DelgError):
    """There is no such image."""


class Asked(Settings):
    """How to look for a photo; fields of a form or parts of the address."""

    k: int = Field(10, ge=1, le=MOST_HITS)
    rerank: int | None = Field(None, ge=0, le=MOST_RERANKED)
    box: Box | None = None
    orientations: Literal["auto", "1", "4"] = "auto"
    # A photo of the index to look for, in place of an upload.
    id: str | None = Field(None, max_length=LONGEST_ID)

    @field_validator("box", mode="before")
    @classmethod
    def _read_box(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            x, y, width, height = (float(part) for part in value.split(","))
        except ValueError:
            raise ValueError(f"{value!r} is not X,Y,WIDTH,HEIGHT in pixels") from None
        if not (abs(x) < 1e9 and abs(y) < 1e9 and 0 < width < 1e9 and 0 < height < 1e9):
            raise ValueError("needs four finite numbers, and a positive width and height")
        return x, y, width, height

    @classmethod
    def read(cls, values: Mapping[str, str]) -> Asked:
        """From texts; empty ones count as not given.

        Raises:
            BadRequestError: one does not fit; the message names it.
        """
        given = {key: value for key, value in values.items() if value != ""}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            said = first["msg"].removeprefix("Value error, ")
            raise BadRequestError(f"{name}: {said}") from None


@dataclass(frozen=True)
class Upload:
    """What came.

    Attributes:
        data: bytes of the photo; empty if none came.
        name: of the photo's file, if it has one.
        fields: the texts that came with it.
    """

    data: bytes
    name: str
    fields: dict[str, str]

    @property
    def source(self) -> Source:
        """The photo.

        Raises:
            BadRequestError: none came.
        """
        if not self.data:
            raise BadRequestError(
                "no photo came: send it as the form's field 'image', or as the whole body"
            )
        return self.data


class Receiver:
    """Receives uploads: a few at once, none of too many bytes, none that trickles for ever."""

    def __init__(self, settings: ServeSettings) -> None:
        self._most = settings.max_upload_mib * MIB
        self._room = settings.uploads
        self._seconds, self._pace = settings.upload_seconds, settings.upload_pace_kib * 1024
        self._inside = 0

    async def receive(self, request: Request) -> Upload:
        """Read the body of a request, a form or a photo as it is.

        Raises:
            TooLargeError: it has too many bytes.
            WrongKindError: it is neither a form nor a photo.
            BadRequestError: the form is damaged.
            TooBusyError: too many uploads at once, or this one is too slow.
        """
        if self._inside >= self._room:
            raise TooBusyError("too many uploads at once; try again in a moment")
        self._inside += 1
        try:
            return await self._read(request)
        finally:
            self._inside -= 1

    async def _read(self, request: Request) -> Upload:
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._most + _AROUND:
            raise self._too_large()
        given = dict(request.query_params)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            data, name, fields = await self._read_form(request)
            return Upload(data, name, {**given, **fields})
        if kind and kind != "application/octet-stream" and not kind.startswith("image/"):
            raise WrongKindError(
                f"a body of type {kind} is not understood: send multipart/form-data with the field "
                "'image', or the bytes of the photo as image/* or application/octet-stream"
            )
        body = bytearray()
        async for chunk in self._chunks(request, self._most):
            body += chunk
        return Upload(bytes(body), "", given)

    async def _read_form(self, request: Request) -> tuple[bytes, str, dict[str, str]]:
        parser = MultiPartParser(
            request.headers,
            self._chunks(request, self._most + _AROUND),
            max_files=1,
            max_fields=_FIELDS,
            max_part_size=_AROUND,
        )
        # What is larger would go to the disk; nothing larger gets so far.
        parser.spool_max_size = self._most + 2 * _AROUND
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise BadRequestError(f"the form is damaged: {error.message}") from None
        data, name, fields = b"", "", {}
        for key, value in form.multi_items():
            if not isinstance(value, UploadFile):
                fields[key] = value
            elif key != "image":
                raise BadRequestError(f"the photo's field is called 'image', not {key!r}")
            else:
                data, name = await value.read(), value.filename or ""
                await value.close()
        if len(data) > self._most:
            raise self._too_large()
        return data, name, fields

    async def _chunks(self, request: Request, most: int) -> AsyncGenerator[bytes, None]:
        """The body, as long as it keeps its pace and has no more than ``most`` bytes."""
        began, total, stream = time.monotonic(), 0, request.stream()
        while True:
            left = began + self._seconds + total / self._pace - time.monotonic()
            try:
                chunk = await asyncio.wait_for(anext(stream), left)
            except StopAsyncIteration:
                return
            except asyncio.TimeoutError:
                raise TooBusyError(
                    f"the upload is too slow: {total // 1024} KiB in "
                    f"{time.monotonic() - began:.3g} s; try a smaller photo"
                ) from None
            total += len(chunk)
            if total > most:
                raise self._too_large()
            yield chunk

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"the upload has more than {self._most // MIB} MiB")


async def gone(request: Request) -> None:
    """Return when whoever sent the request, which has been read, has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
