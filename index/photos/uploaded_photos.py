"""Photos that are added over HTTP: their files lie inside the index.

The file comes first and the catalog last, so that the catalog never names a file that is not there.
A kill between the two leaves a file that no image refers to: an orphan.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from delg.errors import DelgError
from delg.extraction.extractor import Extractor
from delg.files import write_bytes
from delg.images.decode import ImageError
from delg.images.scan import Photo
from delg.paths import normal_form
from index.labels import GivenLabels, Label
from index.photos.ingest import add
from index.storage.catalog_tables import ImageRow
from index.storage.store import Store

log = logging.getLogger(__name__)
_FOLDER = "photos"
# A photo's name, the SHA-256 of its id, and that of one that was being written.
_NAME = re.compile(r"[0-9a-f]{64}|\..*\.tmp")


class ConflictError(DelgError):
    """Another image has the id."""


def upload_path(store: Store, image_id: str) -> Path:
    """Where the file of an uploaded photo lies."""
    name = hashlib.sha256(image_id.encode()).hexdigest()
    return (store.folder / _FOLDER / name).absolute()


def add_upload(
    store: Store,
    extractor: Callable[[], Extractor],
    image_id: str,
    data: bytes,
    label: Label,
    by: str = "",
) -> ImageRow:
    """Store the file of a photo and add it to the index; under the store's lock.

    Raises:
        ImageError: the photo is unusable; nothing is stored.
        ConflictError: another image has the id.
        DelgError: it cannot be stored; nothing is.
    """
    image_id = normal_form(image_id)
    if _is_in(store, image_id):
        raise ConflictError(f"image {image_id!r} is already in the index; delete it first")
    path = upload_path(store, image_id)
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise DelgError(f"{path.parent}: cannot be made: {error.strerror}") from None
    write_bytes(path, data)
    try:
        report = add(store, extractor, [Photo(image_id, path)], GivenLabels({image_id: label}))
        if report.failed:
            raise ImageError(report.failed[0].reason)
    except BaseException as error:
        # The catalog decides: what it holds is added, though the shortlist could not be saved.
        if not _is_in(store, image_id):
            path.unlink(missing_ok=True)
            raise
        if not isinstance(error, DelgError):
            raise
        log.warning("%s is added, but: %s", image_id, error)
    [row] = store.catalog.by_ids([image_id])
    store.log_added(row, by)
    return row


def remove_images(store: Store, ids: Sequence[str], by: str = "") -> None:
    """Move images to the trash; under the store's lock. The files of those that were uploaded stay
    until a compaction.

    Raises:
        UsageError: an id is not in the index; nothing is removed.
    """
    ids = [row.id for row in store.catalog.by_ids(ids)]
    try:
        store.remove(ids, by)
    except DelgError as error:
        if any(store.catalog.by_id(image_id) is not None for image_id in ids):
            raise
        log.warning("the images are removed, but: %s", error)


def empty_trash(store: Store) -> None:
    """Remove for good what is in the trash, with the files of uploads; under the store's lock."""
    images = [image for image, _ in store.catalog.trash()]
    store.empty_trash()
    # The catalog first: a kill leaves files that no image refers to, which are found again.
    for image in images:
        if store.catalog.by_id(image.id) is None:
            with contextlib.suppress(OSError):
                upload_path(store, image.id).unlink(missing_ok=True)


def _is_in(store: Store, image_id: str) -> bool:
    row = store.catalog.by_id(image_id)
    return row is not None and row.state == "ok"


def orphaned_uploads(store: Store) -> list[Path]:
    """Files of uploads that were cut short, or whose image was removed."""
    folder = store.folder / _FOLDER
    try:
        files = {path for path in folder.iterdir() if _NAME.fullmatch(path.name)}
    except OSError:
        return []
    # By the id and not by the path, as the index may have been moved.
    images = [*store.catalog.images(), *(image for image, _ in store.catalog.trash())]
    known = {upload_path(store, row.id).name for row in images} if files else set()
    return sorted(path for path in files if path.name not in known)


def repair(store: Store) -> list[Path]:
    """Remove what killed writers left behind, and save a shortlist that is behind.

    Returns:
        The files that are removed.

    Raises:
        BusyError: another process writes, or uploads.
    """
    leftovers = store.orphans()
    with store.lock():
        orphans = orphaned_uploads(store)
        for path in orphans:
            path.unlink(missing_ok=True)
        if not store.ann_index_current:
            store.save_ann_index()
    return leftovers + orphans
