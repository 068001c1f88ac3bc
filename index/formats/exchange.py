"""Features in and out of an index, in this engine's own format and those of other tools."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from delg.errors import DelgError
from delg.extraction.match_kernel import aggregate, aggregated_dim
from delg.images.decode import ImageError, decode_bytes, read_bytes
from delg.images.scan import scan
from delg.remote_path import Location
from delg.types import (
    Failure,
    FloatArray,
    ImageFeatures,
    LocalFeatures,
    Progress,
    RegionFeatures,
)
from index.feature_spec import FeatureSpec
from index.formats import read, writer
from index.formats.delg import without_suffix
from index.formats.parsed import BadFeaturesError, FeatureSource, ParsedFeatures
from index.formats.pyramid_scales import with_pyramid_scales
from index.photos.file_state import FileState
from index.storage.catalog_tables import ImageRow
from index.storage.merge import merge_small_segments
from index.storage.segments import SegmentError
from index.storage.store import Store

# Largest side of a photo whose size is taken from its keypoints, pixels.
_MAX_SIDE = 1 << 20


@dataclass(frozen=True)
class ImportReport:
    """The result of an import.

    Attributes:
        added: photos whose features are now in the index.
        with_photo: of them, those whose photo is known.
        guessed: of them, those whose size is taken from the outermost keypoints, as neither the
            features nor a photo give it.
        failed: photos whose features cannot be used, with the reason.
    """

    added: int
    with_photo: int
    guessed: int
    failed: list[Failure]


def export_features(
    store: Store,
    out: Path,
    format_name: str,
    progress: Progress | None = None,
    failed: list[Failure] | None = None,
) -> int:
    """Write the features of every photo that can be found, as they are stored.

    Args:
        out: a folder for "delg" and "colmap", a file for the others.
        format_name: of :data:`index.formats.FORMATS`.
        progress: called as ``progress(done, total, failed)`` after every photo.
        failed: takes photos that cannot be read, or whose id the format cannot hold, with the
            reason; None ends with the first.

    Returns:
        Number of photos written.

    Raises:
        UsageError: there is no such format, or a photo cannot be written.
        DelgError: it cannot be written, or a photo's features cannot be read.
    """
    write = writer(format_name)
    meta = store.catalog.meta
    total = store.catalog.count("ok")

    def features() -> Iterator[tuple[str, ImageFeatures]]:
        for number, image in enumerate(store.catalog.images("ok"), 1):
            try:
                yield image.id, store.features(image)
            except SegmentError as error:
                if failed is None:
                    raise
                failed.append(Failure(image.id, str(error)))
            if progress:
                progress(number, total, len(failed or ()))

    return write(out, features(), FeatureSource(meta("model_name"), meta("fingerprint")), failed)


def read_spec(sources: Sequence[Path], format_name: str | None, model: str) -> FeatureSpec:
    """What the features in files have in common, by the first photo that has all kinds of them.

    Args:
        sources, format_name: see :func:`index.formats.read`.
        model: name of the model that made them.

    Raises:
        DelgError: no photo's features can be used; the message has the first reason.
    """
    _, photos = read(sources, format_name)
    spec, reason = None, "they hold no photo"
    for parsed in photos:
        if isinstance(parsed, Failure):
            reason = f"{parsed.path}: {parsed.reason}" if spec is None else reason
            continue
        spec = _spec_of(parsed, model)
        # A photo without features does not say how wide descriptors are.
        if parsed.local is None or len(parsed.local):
            return spec
    if spec is None or not spec.global_dim:
        raise DelgError(f"{sources[0]}: no features can be used: {reason}")
    return spec


def _spec_of(parsed: ParsedFeatures, model: str) -> FeatureSpec:
    local_dim = 0 if parsed.local is None else parsed.local.descriptors.shape[1]
    if parsed.global_descriptor is None:
        return FeatureSpec(model, aggregated_dim(local_dim), local_dim, aggregated=True)
    return FeatureSpec(model, len(parsed.global_descriptor), local_dim, aggregated=False)


def as_image_features(
    parsed: ParsedFeatures, spec: FeatureSpec, size: tuple[int, int] | None = None
) -> ImageFeatures:
    """Features of one photo as an index holds them.

    Args:
        spec: of the index.
        size: width and height of the photo, pixels, where the file does not give them; without
            either, the outermost keypoints stand for them.

    Raises:
        BadFeaturesError: they are not as the spec says.
    """
    local = parsed.local
    if local is None or not len(local):
        local = LocalFeatures.empty(spec.local_dim)
    elif local.descriptors.shape[1] != spec.local_dim:
        raise BadFeaturesError(
            f"local descriptors of width {local.descriptors.shape[1]}, not {spec.local_dim}"
        )
    descriptor = aggregate(local.descriptors) if spec.aggregated else parsed.global_descriptor
    if descriptor is None:
        missing = "no local features" if spec.aggregated else "no global descriptor"
        raise BadFeaturesError(f"{missing}, so it could never be found")
    if len(descriptor) != spec.global_dim:
        raise BadFeaturesError(
            f"a global descriptor of width {len(descriptor)}, not {spec.global_dim}"
        )
    width, height = parsed.size or size or _smallest_size(local.keypoints)
    regions = tuple(
        RegionFeatures(x, y, as_image_features(part, spec)) for x, y, part in parsed.regions
    )
    return ImageFeatures(descriptor, local, width, height, regions)


def _smallest_size(keypoints: FloatArray) -> tuple[int, int]:
    """Width and height of the smallest photo that contains these keypoints (N, 2)."""
    if not len(keypoints):
        return 1, 1
    width, height = np.ceil(keypoints.max(axis=0) + 1).clip(1, _MAX_SIDE)
    return int(width), int(height)


def import_features(
    store: Store,
    spec: FeatureSpec,
    sources: Sequence[Path],
    format_name: str | None = None,
    photos: Iterable[Location] = (),
    progress: Progress | None = None,
    pyramid: Sequence[float] = (),
) -> ImportReport:
    """Add features made elsewhere to an index; under the store's lock.

    A photo already in the index is replaced. Work is committed in batches.

    Args:
        spec: of the index.
        sources, format_name: see :func:`index.formats.read`.
        photos: folders of the photos, which give their sizes and can then be drawn; a photo's id
            may have a suffix that the name of its features lacks.
        progress: called as ``progress(done, total, failed)`` after every photo.
        pyramid: see :func:`index.formats.pyramid_scales.with_pyramid_scales`.

    Raises:
        UsageError: a folder or file does not exist.
        DelgError: a file as a whole cannot be read.
    """
    folders = _PhotoFolders(photos)
    total = 0

    def count(photos: int) -> None:
        nonlocal total
        total = photos

    parsed_photos = read(sources, format_name, count)[1]
    entries = with_pyramid_scales(parsed_photos, pyramid, str(sources[0]))
    failed: list[Failure] = []
    images: list[ImageRow] = []
    batch: list[ImageFeatures] = []
    added = with_photo = guessed = 0
    for number, parsed in enumerate(entries, 1):
        name = parsed.path if isinstance(parsed, Failure) else parsed.id
        try:
            if isinstance(parsed, Failure):
                raise BadFeaturesError(parsed.reason)
            row, size = folders.row(parsed.id)
            features = as_image_features(parsed, spec, size)
        except (BadFeaturesError, ImageError) as error:
            failed.append(Failure(name, str(error)))
            continue
        finally:
            if progress:
                progress(number, total, len(failed))
        images.append(replace(row, width=features.width, height=features.height))
        batch.append(features)
        added, with_photo = added + 1, with_photo + bool(row.path)
        guessed += parsed.size is None and size is None
        if len(images) >= store.settings.store.segment_images:
            store.commit(images, batch)
            images, batch = [], []
    if images:
        store.commit(images, batch)
        merge_small_segments(store)
    if not store.ann_index_current:
        store.save_ann_index()
    return ImportReport(added, with_photo, guessed, failed)


class _PhotoFolders:
    """The photos in folders, by the names of their features."""

    def __init__(self, folders: Iterable[Location]) -> None:
        photos = scan(folders).photos
        self._photos = {photo.id: photo for photo in photos}
        self._ids: dict[str, list[str]] = {}
        for photo in photos:
            self._ids.setdefault(without_suffix(photo.id), []).append(photo.id)

    def row(self, name: str) -> tuple[ImageRow, tuple[int, int] | None]:
        """The photo's row for the catalog, and its size; without a photo, an empty path and None.

        Raises:
            ImageError: there is a photo, and it cannot be read.
            BadFeaturesError: it could be one of several photos.
        """
        ids = [name] if name in self._photos else self._ids.get(name, [])
        if not ids:
            return ImageRow(name, "", 0, 0, ""), None
        if len(ids) > 1:
            raise BadFeaturesError(f"it may be of {ids[0]} or of {ids[1]}")
        photo = self._photos[ids[0]]
        data = read_bytes(photo.path, photo.stat)
        try:
            state = FileState.of(photo).of_size(len(data))
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror}") from None
        height, width = decode_bytes(data).shape[:2]
        digest = hashlib.sha256(data).hexdigest()
        place = str(photo.path)
        row = ImageRow(photo.id, place, state.size, state.mtime_ns, digest, etag=state.etag)
        return row, (width, height)
