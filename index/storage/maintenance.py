"""Maintenance: is everything there and undamaged, and can space be freed?"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from delg.files import file_sha256
from delg.remote_path import as_location
from delg.types import Failure
from index.storage.catalog_tables import ImageRow, delete_segments, insert_segment, move_images
from index.storage.codebook_fit import (
    Extract,
    Fit,
    is_unchanged,
    measure_fits,
    rows_encoded_by,
)
from index.storage.opened_store import CODEBOOK, HOW_TO_REPAIR
from index.storage.product_quantizer import ProductQuantizer
from index.storage.searchable_store import NOT_AS_WRITTEN
from index.storage.segments import Segment, SegmentError, segment_path
from index.storage.store import Store

logger = logging.getLogger(__name__)

# Largest deviation of a stored global descriptor's length from 1.
_LENGTH_TOLERANCE = 1e-3
# Traits of segments: without codes, and with scales upside down.
_UNCODED, _INVERSE, _WITHOUT_WORDS = "uncoded", "inverse scales", "without words"


@dataclass(frozen=True)
class CheckReport:
    """The result of a check.

    Attributes:
        problems: what is damaged; empty for an undamaged index.
        notes: what is merely untidy and repairs itself, and what a new index would do better.
    """

    problems: list[str]
    notes: list[str]


def check(
    store: Store,
    extract: Extract | None = None,
    model_codebook: ProductQuantizer | None = None,
) -> CheckReport:
    """Read everything and compare it with the catalog: checksums, ids, shapes, descriptors.

    Args:
        extract: the index's model, to measure how well the codes of local descriptors fit; without
            it, or where no photo is left, they are not measured.
        model_codebook: that comes with the model, to compare them with.
    """
    problems: list[str] = []
    verdict = store.catalog.integrity()
    if verdict != "ok":
        problems.append(f"{store.catalog.path}: {verdict}")
    traits: set[str] = set()
    written_ids = store.catalog.written_ids()
    for number, rows in _rows_by_segment(store).items():
        segment = _read_segment(store, number, problems)
        images = map(store.catalog.by_row, rows)
        problems += _image_problems(number, images, written_ids, segment)
        if segment is not None:
            traits |= _traits(store, segment)
    if not np.array_equal(np.sort(store.ann_index.rows()), store.searchable()):
        problems.append("the shortlist does not hold the catalog's images; run compact")
    if not problems:
        fits = measure_fits(store, extract, model_codebook)
        problems += [_spoilt_codes(store, fit) for fit in fits if fit.is_spoilt]
    has_codebook = (model_codebook or store.codebook) is not None
    return CheckReport(problems, _notes(store, traits, has_codebook))


def _spoilt_codes(store: Store, fit: Fit) -> str:
    count = len(rows_encoded_by(store, fit.codebook))
    usual, remedy = "", "run compact, which extracts them again"
    if fit.model_cosine is not None:
        usual = f", {fit.model_cosine:.2f} by the model's codebook"
    else:
        remedy = f"learn a codebook for the model (delg model codebook), then {remedy}"
    return (
        f"the codes of local features are spoilt in {count:,} photos (mean cosine "
        f"{fit.cosine:.2f}{usual}), so that fewer are verified: they were learnt from the index's "
        f"first photos, which were unlike these; {remedy}"
    )


def _rows_by_segment(store: Store) -> dict[int, list[int]]:
    """Number of each segment, oldest first -> row numbers of the images in it."""
    table = store.catalog.searchable()
    rows: dict[int, list[int]] = {segment.number: [] for segment in store.catalog.segments()}
    for row, number, _ in table.tolist():
        rows.setdefault(number, []).append(row)
    return rows


def _read_segment(store: Store, number: int, problems: list[str]) -> Segment | None:
    """The segment, or None if it cannot be read; what is wrong is added to the problems."""
    path = segment_path(store.folder, number)
    record = store.catalog.segment(number)
    try:
        if record is not None and file_sha256(path) != record.sha256:
            problems.append(f"{path}: {NOT_AS_WRITTEN}; {HOW_TO_REPAIR}")
        segment = Segment(path, has_inverse_scales=lambda: store.has_inverse_scales)
    except FileNotFoundError:
        problems.append(f"{path}: the segment is missing; {HOW_TO_REPAIR}")
        return None
    except (OSError, SegmentError) as error:
        problems.append(f"{error}; {HOW_TO_REPAIR}")
        return None
    if record is not None and len(segment) != record.images:
        problems.append(f"{path}: holds {len(segment)} of {record.images} photos")
    return segment


def _image_problems(
    number: int, images: Iterable[ImageRow], written_ids: dict[int, str], segment: Segment | None
) -> Iterator[str]:
    """What is wrong with the images in a segment."""
    for image in images:
        if segment is None:
            yield f"{image.id}: its segment {number} is missing or damaged"
        elif problem := _image_problem(image, written_ids.get(image.row, image.id), segment):
            yield problem


def _image_problem(image: ImageRow, written_id: str, segment: Segment) -> str:
    """What is wrong with an image, which its segment knows by ``written_id``; empty if nothing."""
    assert image.position is not None
    if image.position >= len(segment):
        return f"{image.id}: its place is outside {segment.path}"
    if segment.ids[image.position] != written_id:
        return f"{image.id}: its place in {segment.path} holds {segment.ids[image.position]}"
    positions = [image.position, *segment.regions(image.position)]
    for length in np.linalg.norm(segment.global_descriptors(positions), axis=1).tolist():
        # Written so that NaN is a problem too.
        if not abs(length - 1) < _LENGTH_TOLERANCE:
            return f"{image.id}: its global descriptor has length {length:.3g}, not 1"
    return ""


def _traits(store: Store, segment: Segment) -> set[str]:
    """What notes are about."""
    traits = set()
    if segment.quantizer is None:
        traits.add(_UNCODED)
    if segment.inverse_scales:
        traits.add(_INVERSE)
    if not _has_words(store, segment):
        traits.add(_WITHOUT_WORDS)
    return traits


def _notes(store: Store, traits: set[str], has_codebook: bool) -> list[str]:
    notes = [f"{path}: left behind by a killed writer" for path in store.orphans()]
    if not store.ann_index_current:
        notes.append("the stored shortlist is behind; the next add or compact writes it anew")
    if store.settings.verification.scales == "auto":
        notes.append(
            "made before the scales of features counted in verification, which goes on without "
            "them; build the index anew for fewer false matches"
        )
    if has_codebook and _UNCODED in traits:
        notes.append("some photos are not encoded by the codebook yet; compact encodes them")
    if _WITHOUT_WORDS in traits:
        notes.append(
            "the shortlist by local features does not know some photos yet; compact adds them"
        )
    if _INVERSE in traits:
        notes.append(
            "made before the scales of published models were stored the right way up; they are "
            "read so, and compact rewrites them, but features were chosen by them: build the index "
            "anew to keep better ones"
        )
    return notes


def compact(store: Store, extract: Extract | None = None) -> int:
    """Rewrite the segments with only the images that are left, in full batches; under the lock.

    Row numbers stay, and so does the content of the ANN index. Readers elsewhere keep what they
    have mapped. Local descriptors without codes are encoded by the codebook of the index, if it has
    one. Where codes are spoilt, photos that are still there are extracted again; the others keep
    their codes, whatever these were learnt from.

    Args:
        extract: the index's model; without it nothing is extracted again.

    Returns:
        Bytes freed.

    Raises:
        SegmentError: a segment cannot be read.
    """
    # Damaged bytes must not be copied under a new checksum.
    store.verify_segments()
    for problem in store.unreadable.values():
        raise SegmentError(f"{problem}; {HOW_TO_REPAIR}")
    bytes_before = sum(segment.bytes for segment in store.catalog.segments())
    if extract is not None and store.catalog.meta(CODEBOOK):
        for fit in measure_fits(store, extract, store.codebook):
            if fit.is_spoilt:
                _extract_again(store, fit.codebook, extract)
    old = store.catalog.segments()
    if not _is_compact(store):
        _rewrite_segments(store)
        for segment in old:
            segment_path(store.folder, segment.number).unlink(missing_ok=True)
        store.refresh()
    store.rebuild_ann_index()
    store.save_ann_index()
    return bytes_before - sum(segment.bytes for segment in store.catalog.segments())


def _extract_again(store: Store, spoilt: ProductQuantizer, extract: Extract) -> None:
    """Commit the photos that a spoilt codebook encoded as new ones."""
    rows, batch, done = rows_encoded_by(store, spoilt), store.settings.store.segment_images, 0
    for start in range(0, len(rows), batch):
        images = map(store.catalog.by_row, rows[start : start + batch].tolist())
        present = [image for image in images if is_unchanged(image)]
        results = list(extract(as_location(image.path) for image in present))
        pairs = [
            (image, result)
            for image, result in zip(present, results, strict=True)
            if not isinstance(result, Failure)
        ]
        store.commit([image for image, _ in pairs], [features for _, features in pairs])
        done += len(pairs)
    logger.info("note: %d of %d photos with spoilt codes were extracted again", done, len(rows))


def _has_words(store: Store, segment: Segment) -> bool:
    """Whether a segment has the words that the index keeps, if it keeps any."""
    if store.vocabulary is None or not store.settings.store.max_words:
        return True
    return segment.postings is not None and segment.postings.are_of(store.vocabulary)


def _is_compact(store: Store) -> bool:
    """Whether all segments are full but the last of each codebook, none holds removed images or
    scales upside down, and all that can be is encoded."""
    rows = store.catalog.segments()
    counts: dict[ProductQuantizer | None, list[int]] = {}
    has_inverse_scales, has_all_words = False, True
    for row in rows:
        segment = store.segments[row.number]
        has_all_words &= _has_words(store, segment)
        counts.setdefault(segment.quantizer, []).append(row.images)
        has_inverse_scales |= segment.inverse_scales
    batch = store.settings.store.segment_images
    return (
        sum(row.images for row in rows) == store.catalog.count("ok")
        and not has_inverse_scales
        and (None not in counts or store.codebook is None)
        and has_all_words
        and all(count == batch for group in counts.values() for count in group[:-1])
    )


def _rewrite_segments(store: Store) -> None:
    """All new segments are on disk before one transaction moves every image to them."""
    old, codebook = store.catalog.segments(), store.codebook
    batches = list(_batches(store, codebook))
    moves, written = [], []
    for number, (quantizer, rows) in enumerate(batches, store.catalog.next_segment()):
        images = [store.catalog.by_row(row) for row in rows]
        written.append(store.rewrite_segment(number, images, quantizer))
        moves += [(number, position, image.row) for position, image in enumerate(images)]
    with store.catalog.write() as db:
        for segment in written:
            insert_segment(db, segment)
        move_images(db, moves)
        delete_segments(db, [segment.number for segment in old])


def _batches(
    store: Store, codebook: ProductQuantizer | None
) -> Iterator[tuple[ProductQuantizer | None, list[int]]]:
    """The row numbers of each new segment, and what it is encoded by: images that have codes keep
    them, the others get the index's."""
    own = [quantizer for quantizer in store.segments.quantizers if quantizer is not codebook]
    uncoded = rows_encoded_by(store, None)
    main = uncoded
    if codebook is not None:
        main = np.union1d(uncoded, rows_encoded_by(store, codebook))
    batch = store.settings.store.segment_images
    groups = [(quantizer, rows_encoded_by(store, quantizer)) for quantizer in own]
    for quantizer, rows in [*groups, (codebook, main)]:
        for start in range(0, len(rows), batch):
            yield quantizer, rows[start : start + batch].tolist()
