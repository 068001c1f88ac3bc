"""The operations of the server, without HTTP: search, show, add, remove, count."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delg.errors import DelgError
from delg.images.decode import ImageError, read_bytes
from delg.images.decode_process import DecodePool
from delg.types import FloatArray, ImageFeatures
from index.answers.marks import Mark, truth_csv
from index.labels import Label
from index.results import QueryResult
from index.search.orientation import quarter_rotations
from index.selection import Selection
from index.serve.batches import Batches
from index.serve.curation import Curation
from index.serve.duplicate_finder import DuplicateFinder
from index.serve.group_finder import GroupFinder
from index.serve.job_queue import JobQueue
from index.serve.metrics import Metrics
from index.serve.outliers import find_outliers
from index.serve.pair_finder import PairFinder
from index.serve.queries import find_removed, find_row, indexed_source, run_query
from index.serve.remembered import Remembered
from index.serve.saved_export import export_csv, export_html, export_zip
from index.serve.saved_search import FurtherPhoto, SavedSearch, Sign
from index.serve.saved_searches import FILE as SAVED_FILE
from index.serve.saved_searches import Limits, SavedSearches
from index.serve.settings import MIB, ServeSettings
from index.serve.several import index_root
from index.serve.shared_index import SharedIndex
from index.serve.thumbnails import PHOTO_SIDE, Jpeg, Pixels, ThumbnailCache, encode_within
from index.serve.uploads import (
    MAX_FORM_BYTES,
    MAX_FORM_FIELDS,
    MAX_ID_LENGTH,
    MAX_LOGIN_BYTES,
    UNNAMED,
    BadRequestError,
    MarkParams,
    NotFoundError,
    Receiver,
    SearchParams,
    Upload,
)
from index.storage.catalog_tables import ImageRow

log = logging.getLogger(__name__)


class Service:
    """What all requests share. The methods block, and are called in threads.

    Attributes:
        shared: the index.
        name: of the index.
        indexes: all indexes of the server by name, see :mod:`index.serve.several`.
        root: path that the addresses of its pages and its API begin with.
        settings: of the server.
        jobs: runs queries and changes.
        thumbnail_jobs: makes thumbnails, so that many large photos keep nothing else waiting.
        receiver: reads uploads; ``form_receiver`` reads forms without a photo.
        batches: many queries at once, which ``batch_receiver`` reads.
        login_receiver: reads the login form; who has no token takes no place of those who have.
        decoder: decodes photos that are searched with or added.
        thumbnails: encodes photos for browsers.
        saved: searches that were saved.
        remembered: values that take long to compute.
        curation: trash and log.
        duplicates: near-duplicates.
        groups: of the same instance.
        pairs: of photos of this index and of another.
    """

    def __init__(
        self,
        shared: SharedIndex,
        settings: ServeSettings,
        indexes: Mapping[str, SharedIndex] | None = None,
    ) -> None:
        self.name = shared.path.resolve().name
        self.indexes = dict(indexes or {self.name: shared})
        self.root = index_root(self.indexes, self.name)
        self.shared, self.settings = shared, settings
        self.jobs = JobQueue(settings.workers, settings.queue, settings.seconds)
        self.thumbnail_jobs = JobQueue(settings.workers, settings.thumbnail_queue, settings.seconds)
        self.receiver = Receiver(settings, settings.max_upload_mib * MIB)
        self.login_receiver = Receiver(settings, MAX_LOGIN_BYTES)
        self.decoder = DecodePool(settings.decode_seconds, settings.workers)
        self._thumbnail_decoder = DecodePool(settings.decode_seconds, settings.workers)
        self.thumbnails = ThumbnailCache(settings.thumbnail_mib * MIB, self._thumbnail_decoder)
        self.form_receiver = Receiver(settings, MAX_FORM_BYTES, MAX_FORM_FIELDS)
        self.batches = Batches(self.search, str(shared.path), settings.batches, settings.seconds)
        self.batch_receiver = Receiver(settings, settings.batch_mib * MIB)
        self.saved = SavedSearches(
            settings.saved or shared.path / SAVED_FILE,
            Limits(settings.saved_searches, settings.saved_mib * MIB, settings.saved_days or None),
        )
        self.saved.delete_expired()
        self.remembered = Remembered(shared)
        self.curation = Curation(shared)
        self.duplicates = DuplicateFinder(shared)
        self.groups = GroupFinder(shared)
        self.pairs = PairFinder(shared, self.indexes)
        self._started = time.monotonic()
        self.metrics = Metrics(
            {
                "delg_jobs": ("Queries running and waiting.", lambda: self.jobs.active),
                "delg_uploads": ("Uploads being received.", lambda: self.receiver.active),
                "delg_images": ("Photos that can be found.", self._count_images),
            }
        )
        if settings.writable:
            self._repair()

    def _count_images(self) -> int:
        with self.shared.reading() as images:
            return len(images)

    def _repair(self) -> None:
        """Remove what an earlier server that was killed left behind."""
        try:
            with self.shared.writing() as images:
                for path in images.repair():
                    log.info("%s: left behind by a killed writer; removed", path)
        except DelgError as error:
            log.warning("what killed writers left behind is kept: %s", error)

    def search(self, upload: Upload, params: SearchParams) -> QueryResult:
        """The hits of a query, see :func:`index.serve.queries.run_query`.

        Raises:
            ImageError: the photo or the box is unusable.
            NotFoundError: no image has that id.
            ModelError: the index holds imported features, and cannot be searched with photos.
        """
        with self.shared.reading() as images:
            result = run_query(images, self.decoder, upload, params)
        self.metrics.observe_query(result)
        return result

    def outliers(
        self,
        upload: Upload,
        params: SearchParams,
        hit_id: str,
        transform: NDArray[np.float64] | None,
    ) -> tuple[FloatArray, FloatArray]:
        """Matches of a query and a hit that do not fit the transform; see :func:`find_outliers`."""
        with self.shared.reading() as images:
            find_row(images, hit_id)
            hit = images.features(hit_id)
            if params.id is None:
                source: Any = self.decoder.decode(upload.source, images.settings.images)
            else:
                source = indexed_source(images, self.decoder, find_row(images, params.id))
            if not isinstance(source, ImageFeatures):
                rotations = 0 if transform is None else quarter_rotations(transform)
                source = images.extractor.extract(source, params.box, rotations)
            return find_outliers(source, hit, transform, images.settings)

    def save_search(self, upload: Upload, params: SearchParams) -> SavedSearch:
        """Search, and save the search with its photo under the upload's field ``title``.

        Raises:
            FullError: there is no room.
            DelgError: see :meth:`search`.
        """
        result, given = self.search(upload, params), params.given(upload.fields)
        if params.id is None and not upload.data:
            # Indexed images alone: the first of them is what was searched with.
            first, *rest = params.plus
            given |= {"id": first, "plus": "\n".join(rest)}
        photo, plus = (b"", upload.photos) if "id" in given else (upload.data, upload.more)
        others: list[tuple[Sign, str, bytes]] = [("plus", *each) for each in plus]
        others += [("minus", *each) for each in upload.against]
        further = [(self._further(sign, name, data), data) for sign, name, data in others]
        query = given.get("id") or upload.name or UNNAMED
        return self.saved.save(upload.fields.get("title", ""), query, given, photo, result, further)

    def _further(self, sign: Sign, name: str, data: bytes) -> FurtherPhoto:
        with self.shared.reading() as images:
            limits = images.settings.images
        height, width = self.decoder.decode(data, limits).shape[:2]
        return FurtherPhoto(sign, name or UNNAMED, width, height)

    def saved_photo(self, search_id: str, number: int = 0) -> bytes:
        """An upload of a saved search as a JPEG.

        Args:
            number: see :meth:`SavedSearches.photo`.

        Raises:
            NotFoundError: there is no such search, or it was made with an indexed image.
        """
        data = self.saved.photo(search_id, number)
        if not data:
            raise NotFoundError("this search was made with an indexed image")
        with self.shared.reading() as images:
            limits = images.settings.images
        pixels = self.decoder.decode(data, limits, at_least=PHOTO_SIDE)
        return encode_within(pixels, PHOTO_SIDE)

    def saved_csv(self, search_id: str) -> bytes:
        """The hits of a saved search as a table.

        Raises:
            NotFoundError: there is no such search.
        """
        return export_csv(self.saved.get(search_id), self.saved.result(search_id))

    def saved_html(self, search_id: str) -> str:
        """A saved search as one page with everything in it.

        Raises:
            NotFoundError: there is no such search, or its photo is gone.
        """
        search, result = self.saved.get(search_id), self.saved.result(search_id)
        with self.shared.reading() as images:
            limits = images.settings.images

        def decode(photo: int | str) -> Pixels:
            if isinstance(photo, int):
                return self.decoder.decode(self.saved.photo(search_id, photo), limits)
            try:
                return self.decoder.decode(read_bytes(self.image(photo).path), limits)
            except ImageError as error:
                raise NotFoundError(f"the photo {photo!r} cannot be shown: {error}") from None

        return export_html(search, result, map(decode, search.photos))

    def saved_zip(self, search_id: str) -> Iterator[bytes]:
        """The hits of a saved search as an archive.

        Raises:
            NotFoundError: there is no such search.
        """
        search, result = self.saved.get(search_id), self.saved.result(search_id)
        return export_zip(search, result, lambda id: self.photo(id, PHOTO_SIDE).data)

    def mark(self, params: MarkParams) -> dict[str, Any]:
        """Record or forget what somebody says of a query and a photo of the index.

        Raises:
            NotFoundError: there is no such image.
            DelgError: it cannot be written.
        """
        with self.shared.reading() as images:
            row, marks = find_row(images, params.image), images.marks
        if params.verdict == "none":
            marks.delete(params.query, row.id)
        else:
            marks.put(params.query, row.id, params.verdict, params.name)
        return {**params.model_dump(), "image": row.id}

    def marks(self, query: str) -> list[Mark]:
        """What was said of a query, or of all of them where it is empty."""
        with self.shared.reading() as images:
            return [mark for mark in images.marks if query in ("", mark.query)]

    def truth(self) -> str:
        """The marks as a CSV file for ``delg eval queries``."""
        with self.shared.reading() as images:
            return truth_csv(images.marks.truth())

    def image(self, image_id: str) -> ImageRow:
        """The catalog's row of an image.

        Raises:
            NotFoundError: no image has that id.
        """
        with self.shared.reading() as images:
            return find_row(images, image_id)

    def photo(self, image_id: str, side: int, known_tag: str = "", in_trash: bool = False) -> Jpeg:
        """The photo of an image as a JPEG of at most ``side`` pixels a side.

        The data are empty if ``known_tag`` is the photo's present tag.

        Args:
            in_trash: the image was removed.

        Raises:
            NotFoundError: there is no such image, or its photo cannot be shown.
        """
        with self.shared.reading() as images:
            row = find_removed(images, image_id) if in_trash else find_row(images, image_id)
            limits = images.settings.images
        tag = self.thumbnails.tag(row, side)
        if tag and tag == known_tag:
            return Jpeg(b"", tag)
        try:
            return self.thumbnails.get(row, side, limits)
        except ImageError as error:
            raise NotFoundError(f"the photo cannot be shown: {error}") from None

    def add(self, upload: Upload, by: str = "") -> ImageRow:
        """Add an uploaded photo to the index, and store its file there.

        Raises:
            BadRequestError: id or metadata are unusable.
            ImageError: the photo is unusable; nothing is stored.
            ConflictError: another image has the id.
            BusyError: another request or process is writing.
        """
        image_id = _new_id(upload)
        label = Label(upload.fields.get("label") or None, _metadata(upload.fields))
        with self.shared.writing() as images:
            # Refuse an unusable photo before anything is stored.
            self.decoder.decode(upload.source, images.settings.images)
            return images.add_upload(image_id, upload.data, label, by)

    def remove(self, image_id: str, by: str = "") -> None:
        """Move an image to the trash.

        Raises:
            NotFoundError: there is no such image.
            BusyError: another request or process is writing.
        """
        with self.shared.writing() as images:
            images.remove([find_row(images, image_id).id], by)

    def facets(self, where: Sequence[str], limit: int) -> dict[str, Any]:
        """What to filter by, as the API answers it; see :meth:`ImageIndex.facets`."""
        facets = self.remembered.columns().facets(Selection.of(where), limit)
        return {"images": facets.images, "facets": facets.counts}

    def edit(self, image_id: str, upload: Upload, by: str = "") -> ImageRow:
        """Change what is known of an image, by the fields ``label`` and ``metadata``.

        Raises:
            BadRequestError: a value cannot be used.
            NotFoundError: there is no such image.
            BusyError: another request or process is writing.
        """
        label = upload.fields.get("label")
        metadata = _metadata(upload.fields, may_delete=True)
        if label is None and not metadata:
            raise BadRequestError("label or metadata: nothing to change was given")
        with self.shared.writing() as images:
            [row] = images.edit([find_row(images, image_id).id], label, metadata, by)
            return row

    def restore(self, image_id: str, by: str = "") -> ImageRow:
        """Bring an image back from the trash.

        Raises:
            NotFoundError: it is not in the trash.
            ConflictError: another image has its id now.
            BusyError: another request or process is writing.
        """
        self.curation.restore([image_id], by)
        return self.image(image_id)

    def stats(self) -> dict[str, Any]:
        """Size, model and settings of the index, and the load of the server."""
        stats = {**self.remembered.info()}
        stats["labels"] = len(self.remembered.labels())
        with self.shared.reading() as images:
            # Segments may arrive after the catalog.
            stats["unreadable_segments"] = len(images.unreadable_segments())
        stats["server"] = {
            "uptime_seconds": round(time.monotonic() - self._started, 1),
            "working": self.jobs.active,
            "workers": self.settings.workers,
            "queue": self.settings.queue,
            "writable": self.settings.writable,
        }
        return stats

    def stop_jobs(self) -> None:
        """Refuse what waits, and all that comes."""
        self.jobs.close()
        self.thumbnail_jobs.close()
        self.batches.close()
        self.curation.close()
        self.duplicates.stop()
        self.groups.stop()
        self.pairs.stop()

    def close(self) -> None:
        """Stop the threads and close the index."""
        self.stop_jobs()
        self.decoder.close()
        self._thumbnail_decoder.close()
        self.shared.close()


def _new_id(upload: Upload) -> str:
    image_id = upload.fields.get("id") or upload.name
    if not image_id:
        raise BadRequestError("id: required for a new image (the field 'id', or the file name)")
    if len(image_id) > MAX_ID_LENGTH:
        raise BadRequestError(f"id: longer than {MAX_ID_LENGTH} characters")
    if image_id in (".", ".."):
        raise BadRequestError(f"id: {image_id!r} cannot be part of a URL")
    if not image_id.isprintable():
        raise BadRequestError(f"id: {image_id!r} contains unprintable characters")
    return image_id


def _metadata(fields: dict[str, str], may_delete: bool = False) -> dict[str, Any]:
    text = fields.get("metadata") or "{}"
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise BadRequestError("metadata: not JSON") from None
    types = (str, NoneType) if may_delete else str
    if not isinstance(values, dict) or not all(isinstance(v, types) for v in values.values()):
        raise BadRequestError("metadata: must be a JSON object whose values are strings")
    return values
