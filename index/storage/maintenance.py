"""Maintenance: is everything there and whole, and can the disk be tidied?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from delg.files import file_sha256
from index.storage.catalog import ImageRow, insert_segment
from index.storage.segments import Segment, SegmentError, segment_path
from index.storage.store import HOW_TO_REPAIR, Store

# How far a stored global descriptor's length may be from 1.
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Attributes:
        problems: what is damaged; empty for a sound index.
        notes: what is merely untidy and mends itself, and what a new index would do better.
    """

    problems: list[str]
    notes: list[str]


def check(store: Store) -> CheckReport:
    """Read everything and compare it with the catalog: checksums, ids, shapes, descriptors."""
    problems: list[str] = []
    verdict = store.catalog.integrity()
    if verdict != "ok":
        problems.append(f"{store.catalog.path}: {verdict}")
    segments: dict[int, Segment] = {}
    for row in store.catalog.segments():
        path = segment_path(store.folder, row.number)
        try:
            if file_sha256(path) != row.sha256:
                problems.append(f"{path}: its bytes are not those that were written")
            segments[row.number] = Segment(path)
            if len(segments[row.number]) != row.images:
                problems.append(f"{path}: holds {len(segments[row.number])} of {row.images} photos")
        except FileNotFoundError:
            problems.append(f"{path}: the segment is missing; {HOW_TO_REPAIR}")
        except (OSError, SegmentError) as error:
            problems.append(f"{error}; {HOW_TO_REPAIR}")
    for image in store.catalog.images("ok"):
        problem = _check_image(image, segments)
        if problem:
            problems.append(problem)
    wanted = store.searchable()
    if not np.array_equal(np.sort(store.ann_index.rows()), wanted):
        problems.append("the shortlist does not hold the catalog's images; run compact")
    notes = [f"{path}: left behind by a killed writer" for path in store.orphans()]
    if not store.ann_index_current:
        notes.append("the stored shortlist is behind; the next add or compact writes it anew")
    if store.settings.verification.scales == "auto":
        notes.append(
            "made before the scales of features counted in verification, which goes on without "
            "them; build the index anew for fewer false matches"
        )
    return CheckReport(problems, notes)


def _check_image(image: ImageRow, segments: dict[int, Segment]) -> str:
    """What is wrong with one image; empty if nothing."""
    if image.segment not in segments or image.position is None:
        return f"{image.id}: its segment {image.segment} is missing or damaged"
    segment = segments[image.segment]
    if image.position >= len(segment):
        return f"{image.id}: its place is outside {segment.path}"
    if segment.ids[image.position] != image.id:
        return f"{image.id}: its place in {segment.path} holds {segment.ids[image.position]}"
    length = float(np.linalg.norm(segment.globals([image.position])))
    if not abs(length - 1) < _UNIT_TOLERANCE:
        return f"{image.id}: its global descriptor has length {length:.3g}, not 1"
    return ""


def compact(store: Store) -> int:
    """Rewrite the segments with only the images that are left, in full batches; under the lock.

    Row numbers stay, so the shortlist does too. Readers elsewhere keep what they have mapped.

    Returns:
        Bytes freed.

    Raises:
        SegmentError: a segment cannot be read.
    """
    for problem in store.unreadable.values():
        raise SegmentError(f"{problem}; {HOW_TO_REPAIR}")
    before = sum(segment.bytes for segment in store.catalog.segments())
    old = store.catalog.segments()
    table = store.catalog.searchable()
    size = store.settings.store.segment_images
    full = all(segment.images == size for segment in old[:-1])
    if full and store.is_uniform and sum(segment.images for segment in old) == len(table):
        return _finish(store, before)
    # All new segments are on disk before one transaction moves every image over to them.
    moves, written = [], []
    number = store.catalog.next_segment()
    for start in range(0, len(table), size):
        rows = table[start : start + size]
        images = [store.catalog.by_row(int(row)) for row in rows[:, 0]]
        written.append(store.rewrite(images, number))
        moves += [(number, place, image.row) for place, image in enumerate(images)]
        number += 1
    with store.catalog.write() as db:
        for segment in written:
            insert_segment(db, segment)
        db.executemany("UPDATE images SET segment = ?, position = ? WHERE row = ?", moves)
        db.executemany("DELETE FROM segments WHERE number = ?", [(s.number,) for s in old])
    for segment in old:
        segment_path(store.folder, segment.number).unlink(missing_ok=True)
    store.refresh()
    return _finish(store, before)


def _finish(store: Store, before: int) -> int:
    store.rebuild_ann_index()
    store.save_ann_index()
    return before - sum(segment.bytes for segment in store.catalog.segments())
