"""What the server does, apart from HTTP: search, show, add, remove, count."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delg.errors import DelgError
from delg.files import write_bytes
from delg.images.decode import ImageError, decode
from delg.images.scan import Photo
from delg.types import FloatArray, ImageFeatures
from index.image_index import ImageIndex
from index.labels import GivenLabels, Label
from index.results import QueryResult
from index.search.orientation import quarter_rotations
from index.serve.job_queue import Workers
from index.serve.outliers import outliers
from index.serve.settings import MIB, ServeSettings
from index.serve.shared_index import SharedIndex
from index.serve.thumbnails import Jpeg, Pictures
from index.serve.uploads import (
    LONGEST_ID,
    Asked,
    BadRequestError,
    NotFoundError,
    Receiver,
    Upload,
)
from index.storage.catalog import ImageRow

# Where photos that are added over HTTP lie, inside the index.
PHOTOS = "photos"


class ConflictError(DelgError):
    """What is asked does not go with what the index holds."""


class Service:
    """Everything that requests share. Its methods block, and are called in threads.

    Attributes:
        shared: the index; settings; workers: for queries and changes; receiver: of uploads.
    """

    def __init__(self, shared: SharedIndex, settings: ServeSettings) -> None:
        self.shared, self.settings = shared, settings
        self.workers = Workers(settings.workers, settings.queue, settings.seconds)
        self.receiver = Receiver(settings)
        self.pictures = Pictures(settings.thumbnail_mib * MIB, settings.workers)
        self._started = time.monotonic()

    def search(self, upload: Upload, asked: Asked) -> QueryResult:
        """The hits of an upload, or of a photo of the index, which is no hit of itself.

        Raises:
            ImageError: the photo or the box cannot be used.
            NotFoundError: no image has that id.
            ModelError: the index cannot be searched with photos.
        """
        with self.shared.reading() as images:
            if asked.id is None:
                return images.query(
                    upload.source, asked.k, asked.rerank, asked.box, asked.orientations
                )
            source = _source(images, _row(images, asked.id))
            if isinstance(source, ImageFeatures):
                return images.query_features(source, asked.k, asked.rerank, (asked.id,))
            search = images.search(source, asked.box)
            return search.hits(asked.k, asked.rerank, asked.orientations, (asked.id,))

    def outliers(
        self, upload: Upload, asked: Asked, hit: str, transform: NDArray[np.float64] | None
    ) -> tuple[FloatArray, FloatArray]:
        """Matches of a query and a hit that do not fit; see
        :func:`index.serve.outliers.outliers`."""
        with self.shared.reading() as images:
            _row(images, hit)
            other = images.features(hit)
            if asked.id is None:
                source: Any = upload.source
            else:
                source = _source(images, _row(images, asked.id))
            if not isinstance(source, ImageFeatures):
                turns = 0 if transform is None else quarter_rotations(transform)
                source = images.extractor.extract(source, asked.box, turns)
            return outliers(source, other, transform, images.settings)

    def image(self, image_id: str) -> ImageRow:
        """What is known of an image.

        Raises:
            NotFoundError: there is none of that id.
        """
        with self.shared.reading() as images:
            return _row(images, image_id)

    def picture(self, image_id: str, side: int, known: str = "") -> Jpeg:
        """The photo of an image, of at most ``side`` pixels a side; empty if ``known`` is it.

        Raises:
            NotFoundError: there is no such image, or its photo cannot be shown.
        """
        with self.shared.reading() as images:
            row, limits = _row(images, image_id), images.settings.images
        tag = self.pictures.tag(row.path, side)
        if tag and tag == known:
            return Jpeg(b"", tag)
        try:
            return self.pictures.get(row.path, side, limits)
        except ImageError as error:
            raise NotFoundError(f"the photo cannot be shown: {error}") from None

    def add(self, upload: Upload) -> ImageRow:
        """Put an uploaded photo into the index, and keep its file there.

        Raises:
            BadRequestError: id or metadata make no sense.
            ImageError: the photo cannot be used; nothing is kept.
            ConflictError: another image has the id.
            BusyError: someone else is writing.
        """
        image_id = _new_id(upload)
        label = Label(upload.fields.get("label") or None, _metadata(upload.fields))
        with self.shared.writing() as images:
            # Before anything is kept.
            decode(upload.source, images.settings.images)
            known = images.image(image_id)
            if known is not None and known.state == "ok":
                raise ConflictError(f"the index has an image {image_id!r} already; delete it first")
            path = images.path / PHOTOS / hashlib.sha256(image_id.encode()).hexdigest()
            path.parent.mkdir(exist_ok=True)
            write_bytes(path, upload.data)
            try:
                done = images.add([Photo(image_id, path)], GivenLabels({image_id: label}))
                if done.failed:
                    raise ImageError(done.failed[0].reason)
                return _row(images, image_id)
            except BaseException:
                path.unlink(missing_ok=True)
                raise

    def remove(self, image_id: str) -> None:
        """Take an image out, and its file if it was added over HTTP.

        Raises:
            NotFoundError: there is no such image.
            BusyError: someone else is writing.
        """
        with self.shared.writing() as images:
            row = _row(images, image_id)
            images.remove([image_id])
            path = Path(row.path)
            if path.parent == (images.path / PHOTOS).absolute():
                with contextlib.suppress(OSError):
                    path.unlink()

    def stats(self) -> dict[str, Any]:
        """What the index holds and how busy the server is."""
        with self.shared.reading() as images:
            facts = images.info()
            facts["labels"] = len(images.tallies(100_000)["labels"])
        facts["server"] = {
            "uptime_seconds": round(time.monotonic() - self._started, 1),
            "working": self.workers.inside,
            "workers": self.settings.workers,
            "queue": self.settings.queue,
            "writable": self.settings.writable,
        }
        return facts

    def close(self) -> None:
        """Stop the threads and let go of the index."""
        self.workers.close()
        self.shared.close()


def _row(images: ImageIndex, image_id: str) -> ImageRow:
    # SQLite takes no text with lone surrogates.
    if image_id.isascii() or image_id.encode("utf-8", "replace").decode() == image_id:
        row = images.image(image_id)
        if row is not None:
            return row
    raise NotFoundError(f"the index has no image {image_id!r}")


def _source(images: ImageIndex, row: ImageRow) -> NDArray[np.uint8] | ImageFeatures:
    """The photo of an image as a query; its stored features where the photo has gone."""
    if images.takes_photos:
        try:
            return decode(row.path, images.settings.images)
        except ImageError:
            if row.state != "ok":
                raise
    return images.features(row.id)


def _new_id(upload: Upload) -> str:
    image_id = upload.fields.get("id") or upload.name
    if not image_id:
        raise BadRequestError("id: a new image needs one (the field 'id', or the file's name)")
    if len(image_id) > LONGEST_ID:
        raise BadRequestError(f"id: has more than {LONGEST_ID} characters")
    if image_id in (".", ".."):
        raise BadRequestError(f"id: {image_id!r} cannot be part of an address")
    if not image_id.isprintable():
        raise BadRequestError(f"id: {image_id!r} holds characters that cannot be printed")
    return image_id


def _metadata(fields: dict[str, str]) -> dict[str, str]:
    text = fields.get("metadata") or "{}"
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise BadRequestError("metadata: not JSON") from None
    if not isinstance(values, dict) or not all(isinstance(one, str) for one in values.values()):
        raise BadRequestError("metadata: must be a JSON object whose values are texts")
    return values
