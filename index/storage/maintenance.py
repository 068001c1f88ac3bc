"""Maintenance: is everything there and undamaged, and can space be freed?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from delg.files import file_sha256
from index.storage.catalog_tables import ImageRow, delete_segments, insert_segment, move_images
from index.storage.segments import Segment, SegmentError, segment_path
from index.storage.store import HOW_TO_REPAIR, Store

# Largest deviation of a stored global descriptor's length from 1.
_LENGTH_TOLERANCE = 1e-3


@dataclass(frozen=True)
class CheckReport:
    """The result of a check.

    Attributes:
        problems: what is damaged; empty for an undamaged index.
        notes: what is merely untidy and repairs itself, and what a new index would do better.
    """

    problems: list[str]
    notes: list[str]


def check(store: Store) -> CheckReport:
    """Read everything and compare it with the catalog: checksums, ids, shapes, descriptors."""
    problems: list[str] = []
    verdict = store.catalog.integrity()
    if verdict != "ok":
        problems.append(f"{store.catalog.path}: {verdict}")
    segments = _read_segments(store, problems)
    written_ids = store.catalog.written_ids()
    for image in store.catalog.images("ok"):
        problem = _image_problem(image, written_ids.get(image.row, image.id), segments)
        if problem:
            problems.append(problem)
    if not np.array_equal(np.sort(store.ann_index.rows()), store.searchable()):
        problems.append("the shortlist does not hold the catalog's images; run compact")
    return CheckReport(problems, _notes(store, segments.values()))


def _read_segments(store: Store, problems: list[str]) -> dict[int, Segment]:
    """The segments that can be read, by number; what is wrong is added to the problems."""
    segments: dict[int, Segment] = {}
    for row in store.catalog.segments():
        path = segment_path(store.folder, row.number)
        try:
            if file_sha256(path) != row.sha256:
                problems.append(f"{path}: its bytes are not those that were written")
            segment = Segment(path, has_inverse_scales=lambda: store.has_inverse_scales)
            segments[row.number] = segment
            if len(segment) != row.images:
                problems.append(f"{path}: holds {len(segment)} of {row.images} photos")
        except FileNotFoundError:
            problems.append(f"{path}: the segment is missing; {HOW_TO_REPAIR}")
        except (OSError, SegmentError) as error:
            problems.append(f"{error}; {HOW_TO_REPAIR}")
    return segments


def _image_problem(image: ImageRow, written_id: str, segments: dict[int, Segment]) -> str:
    """What is wrong with an image, which its segment knows by ``written_id``; empty if nothing."""
    if image.segment not in segments or image.position is None:
        return f"{image.id}: its segment {image.segment} is missing or damaged"
    segment = segments[image.segment]
    if image.position >= len(segment):
        return f"{image.id}: its place is outside {segment.path}"
    if segment.ids[image.position] != written_id:
        return f"{image.id}: its place in {segment.path} holds {segment.ids[image.position]}"
    length = float(np.linalg.norm(segment.global_descriptors([image.position])))
    # Written so that NaN is a problem too.
    if not abs(length - 1) < _LENGTH_TOLERANCE:
        return f"{image.id}: its global descriptor has length {length:.3g}, not 1"
    return ""


def _notes(store: Store, segments: Iterable[Segment]) -> list[str]:
    notes = [f"{path}: left behind by a killed writer" for path in store.orphans()]
    if not store.ann_index_current:
        notes.append("the stored shortlist is behind; the next add or compact writes it anew")
    if store.settings.verification.scales == "auto":
        notes.append(
            "made before the scales of features counted in verification, which goes on without "
            "them; build the index anew for fewer false matches"
        )
    if any(segment.inverse_scales for segment in segments):
        notes.append(
            "made before the scales of published models were stored the right way up; they are "
            "read so, and compact rewrites them, but features were chosen by them: build the index "
            "anew to keep better ones"
        )
    return notes


def compact(store: Store) -> int:
    """Rewrite the segments with only the images that are left, in full batches; under the lock.

    Row numbers stay, and so does the content of the ANN index. Readers elsewhere keep what they
    have mapped.

    Returns:
        Bytes freed.

    Raises:
        SegmentError: a segment cannot be read.
    """
    for problem in store.unreadable.values():
        raise SegmentError(f"{problem}; {HOW_TO_REPAIR}")
    old = store.catalog.segments()
    if not _is_compact(store):
        _rewrite_segments(store)
        for segment in old:
            segment_path(store.folder, segment.number).unlink(missing_ok=True)
        store.refresh()
    store.rebuild_ann_index()
    store.save_ann_index()
    new = store.catalog.segments()
    return sum(segment.bytes for segment in old) - sum(segment.bytes for segment in new)


def _is_compact(store: Store) -> bool:
    """Whether all segments but the last are full, none holds removed images, and all are coded
    alike."""
    segments = store.catalog.segments()
    full = all(row.images == store.settings.store.segment_images for row in segments[:-1])
    written = sum(row.images for row in segments)
    return full and store.segments.is_uniform and written == store.catalog.count("ok")


def _rewrite_segments(store: Store) -> None:
    """All new segments are on disk before one transaction moves every image to them."""
    old = store.catalog.segments()
    rows = store.catalog.searchable()[:, 0]
    batch = store.settings.store.segment_images
    moves, written = [], []
    for number, start in enumerate(range(0, len(rows), batch), store.catalog.next_segment()):
        images = [store.catalog.by_row(int(row)) for row in rows[start : start + batch]]
        written.append(store.rewrite_segment(number, images))
        moves += [(number, position, image.row) for position, image in enumerate(images)]
    with store.catalog.write() as db:
        for segment in written:
            insert_segment(db, segment)
        move_images(db, moves)
        delete_segments(db, [segment.number for segment in old])
