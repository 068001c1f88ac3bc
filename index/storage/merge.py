"""Small segments become larger ones while photos are added, so that many small additions do not
leave a file each.

A segment is small while it is at most half full. Eight of about the same size are joined, so that
a photo is written again only a few times until its segment is large.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from delg.errors import DelgError
from index.storage.catalog_tables import (
    SegmentRow,
    delete_segments,
    insert_segment,
    move_images,
)
from index.storage.product_quantizer import ProductQuantizer
from index.storage.segments import segment_path
from index.storage.store import Store

logger = logging.getLogger(__name__)

# Segments of one size that are joined.
_FAN_IN = 8


def merge_small_segments(store: Store) -> None:
    """Join small segments if there are enough of one size; under the lock.

    What is joined is on the disk before one transaction moves its images; a kill leaves files that
    the next writer removes. What cannot be joined, as a segment is damaged or the disk is full,
    stays as it is.
    """
    try:
        while group := _next_group(store):
            _merge(store, group)
    except DelgError as error:
        logger.info("note: small segments are not joined: %s", error)


def _next_group(store: Store) -> list[SegmentRow]:
    """Segments to join; empty if there are not enough of one size."""
    capacity = store.settings.store.segment_images
    small = [row for row in store.catalog.segments() if 2 * row.images <= capacity]
    levels: dict[tuple[int, int], list[SegmentRow]] = {}
    # What was removed can come back only as long as its segment stays.
    kept = store.unreadable.keys() | store.catalog.trash_segments()
    for row in small if len(small) >= _FAN_IN else ():
        if row.number in kept:
            continue
        segment = store.segments[row.number]
        if segment.inverse_scales or (segment.quantizer is None and store.codebook is not None):
            continue  # Compaction changes what they hold.
        key = id(segment.quantizer), _level(row.images)
        levels.setdefault(key, []).append(row)
    full = (rows for rows in levels.values() if len(rows) >= _FAN_IN)
    return _that_fit(next(full, []), capacity)


def _level(images: int) -> int:
    """The power of the fan-in that the size reaches."""
    level = 0
    while images >= _FAN_IN ** (level + 1):
        level += 1
    return level


def _that_fit(rows: Sequence[SegmentRow], capacity: int) -> list[SegmentRow]:
    """The first of the segments, as many as one segment may hold together."""
    chosen: list[SegmentRow] = []
    for row in rows:
        if sum(other.images for other in chosen) + row.images > capacity:
            break
        chosen.append(row)
    return chosen


def _merge(store: Store, old: Sequence[SegmentRow]) -> None:
    numbers = [row.number for row in old]
    # Damaged bytes must not be copied under a new checksum.
    store.verify_segments(numbers)
    if store.unreadable.keys() & numbers:
        return
    quantizer: ProductQuantizer | None = store.segments[numbers[0]].quantizer
    images = store.catalog.in_segments(numbers)
    merged = store.catalog.next_segment()
    written = store.rewrite_segment(merged, images, quantizer) if images else None
    with store.catalog.write() as db:
        if written is not None:
            insert_segment(db, written)
        move_images(db, [(merged, place, image.row) for place, image in enumerate(images)])
        delete_segments(db, numbers)
    for number in numbers:
        segment_path(store.folder, number).unlink(missing_ok=True)
    store.reopen_segments()
