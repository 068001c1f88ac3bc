"""Queries over HTTP: what is searched with, and how its parts become one result."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from delg.images.decode import ImageError, read_bytes
from delg.images.decode_process import DecodePool
from delg.types import ImageFeatures
from index.answers.marks import apply_marks, query_key
from index.image_index import ImageIndex
from index.results import QueryResult
from index.search.search import QueryOptions
from index.serve.uploads import (
    NO_PHOTO,
    BadRequestError,
    NotFoundError,
    SearchParams,
    Upload,
    is_text,
)
from index.storage.catalog_tables import ImageRow

QuerySource = NDArray[np.uint8] | ImageFeatures


def run_query(
    images: ImageIndex, decoder: DecodePool, upload: Upload, params: SearchParams
) -> QueryResult:
    """The hits of uploads or indexed photos, which are then left out of the hits.

    Several photos, by upload or by id, are one query; the one of ``params.id`` is the first.

    Raises:
        ImageError: a photo or the box is unusable.
        NotFoundError: no image has that id.
        BadRequestError: there is no photo, or a box for several.
        ModelError: the index holds imported features, and cannot be searched with photos.
    """
    ids = [params.id, *params.plus] if params.id is not None else params.plus
    indexed = [find_row(images, image_id) for image_id in ids]
    against = [find_row(images, image_id) for image_id in params.minus]
    options: QueryOptions = {
        "k": params.k,
        "rerank": params.rerank,
        "where": params.where,
        "min_probability": params.min_probability,
        "verified_only": params.verified_only,
        "orientations": params.orientations,
        "without": {row.id for row in [*indexed, *against]},
    }
    if not indexed and not upload.data:
        raise BadRequestError(NO_PHOTO)
    uploads = [data for _, data in upload.photos]
    if len(uploads) + len(indexed) == 1 and not against and not upload.against:
        return _run_single(images, decoder, uploads, indexed, params, options)
    if params.box is not None:
        raise BadRequestError("box: for a query of one photo; leave out the others")
    # The photo that was searched with comes first: results have its size.
    first, others = (indexed[:1], indexed[1:]) if params.id is not None else ([], indexed)
    return images.query_together(
        [
            *_sources(images, decoder, (), first),
            *_sources(images, decoder, uploads, others),
        ],
        _sources(images, decoder, [data for _, data in upload.against], against),
        **options,
    )


def _run_single(
    images: ImageIndex,
    decoder: DecodePool,
    uploads: Sequence[bytes],
    indexed: Sequence[ImageRow],
    params: SearchParams,
    options: QueryOptions,
) -> QueryResult:
    [source] = _sources(images, decoder, uploads, indexed)
    if isinstance(source, ImageFeatures):
        # They are neither cut nor rotated.
        result = images.search(source).hits(**options)
    else:
        result = images.search(source, params.box).hits(**options)
    key = query_key(uploads[0]) if uploads else indexed[0].sha256
    return apply_marks(result, key, images.marks.of(key))


def _sources(
    images: ImageIndex, decoder: DecodePool, uploads: Sequence[bytes], rows: Sequence[ImageRow]
) -> list[QuerySource]:
    limits = images.settings.images
    photos: list[QuerySource] = [decoder.decode(data, limits) for data in uploads]
    return photos + [indexed_source(images, decoder, row) for row in rows]


def indexed_source(images: ImageIndex, decoder: DecodePool, row: ImageRow) -> QuerySource:
    """The photo of an image as a query, or its stored features if the photo is missing."""
    if images.accepts_images:
        try:
            return decoder.decode(read_bytes(row.path), images.settings.images)
        except ImageError:
            if row.state != "ok":
                raise
    return images.features(row.id)


def find_removed(images: ImageIndex, image_id: str) -> ImageRow:
    """The image of that id that was removed last.

    Raises:
        NotFoundError: none is in the trash.
    """
    row = images.trashed(image_id) if is_text(image_id) else None
    if row is None:
        raise NotFoundError(f"no image {image_id!r} in the trash")
    return row


def find_row(images: ImageIndex, image_id: str) -> ImageRow:
    """The catalog's row of an image.

    Raises:
        NotFoundError: no image has that id.
    """
    if is_text(image_id):
        row = images.image(image_id)
        if row is not None:
            return row
    raise NotFoundError(f"no image {image_id!r} in the index")
