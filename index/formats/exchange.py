"""Features in and out of an index, in this engine's and its neighbours' formats."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from delg.errors import DelgError, UsageError
from delg.extraction.aggregation import aggregate, aggregated_dim
from delg.images.decode import ImageError, decode_bytes, read_bytes
from delg.images.scan import scan
from delg.types import Failure, FloatArray, ImageFeatures, LocalFeatures
from index.formats import read, writer
from index.formats.delg import without_suffix
from index.formats.parsed import BadFeaturesError, FeatureSource, ParsedFeatures
from index.ingest import Progress
from index.storage.catalog_tables import ImageRow
from index.storage.store import Store


@dataclass(frozen=True)
class FeatureSpec:
    """What the features of an index made elsewhere have in common.

    Attributes:
        model: name of what made them.
        global_dim, local_dim: widths of the descriptors; 0 local ones where there are none.
        aggregated: there was no global descriptor, so the local ones are aggregated to one.
    """

    model: str
    global_dim: int
    local_dim: int
    aggregated: bool

    @property
    def widths(self) -> tuple[int, int]:
        """Of the global and of the local descriptors."""
        return self.global_dim, self.local_dim

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits; features of another kind do not get into the index."""
        # Indexes on disk carry the hash of exactly this text.
        text = (
            f"Kind(model={self.model!r}, global_dim={self.global_dim}, "
            f"local_dim={self.local_dim}, aggregated={self.aggregated})"
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes:
        added: photos now in the index.
        with_photo: of them, those whose photo was found.
        guessed: of them, those whose size nothing said; the furthest keypoint stands for it.
        failed: photos whose features cannot be used, with the reason.
    """

    added: int
    with_photo: int
    guessed: int
    failed: list[Failure]


def export_features(store: Store, out: Path, kind: str, progress: Progress | None = None) -> int:
    """Write the features of every photo that can be found, as they are stored.

    Args:
        out: a folder for "delg" and "colmap", a file for the others.
        kind: of :data:`index.formats.FORMATS`.

    Returns:
        How many photos.

    Raises:
        UsageError: there is no such format.
        DelgError: it cannot be written, or a segment is lost.
    """
    write = writer(kind)
    meta = store.catalog.meta
    total = store.catalog.count("ok")

    def features() -> Iterator[tuple[str, ImageFeatures]]:
        for number, image in enumerate(store.catalog.images("ok"), 1):
            yield image.id, store.features(image)
            if progress:
                progress(number, total, 0)

    return write(out, features(), FeatureSource(meta("model_name"), meta("fingerprint")))


def spec_of(found: ParsedFeatures, model: str) -> FeatureSpec:
    """The kind of features that one photo's belong to."""
    local_dim = 0 if found.local is None else found.local.descriptors.shape[1]
    whole = found.global_descriptor
    dim = aggregated_dim(local_dim) if whole is None else len(whole)
    return FeatureSpec(model, dim, local_dim, whole is None)


def first_spec(sources: Sequence[Path], format_: str | None, model: str) -> FeatureSpec:
    """The kind of features in files, as the first photo with all it can have shows it.

    Raises:
        DelgError: no photo's features can be used; the message has the first reason.
    """
    _, photos = read(sources, format_)
    kind, reason = None, "they hold no photo"
    for one in photos:
        if isinstance(one, Failure):
            reason = f"{one.path}: {one.reason}" if kind is None else reason
            continue
        kind = spec_of(one, model)
        # A photo in which nothing was found does not say how wide descriptors are.
        if one.local is None or len(one.local):
            return kind
    if kind is None or not kind.global_dim:
        raise DelgError(f"{sources[0]}: no features can be used: {reason}")
    return kind


def as_features(
    found: ParsedFeatures, kind: FeatureSpec, size: tuple[int, int] | None = None
) -> ImageFeatures:
    """Features of one photo as an index holds them.

    Args:
        size: of the photo, where the file does not say.

    Raises:
        BadFeaturesError: they are of another kind.
    """
    local = found.local
    if local is None or not len(local):
        local = LocalFeatures.empty(kind.local_dim)
    elif local.descriptors.shape[1] != kind.local_dim:
        raise BadFeaturesError(
            f"local descriptors of width {local.descriptors.shape[1]}, not {kind.local_dim}"
        )
    whole = aggregate(local.descriptors) if kind.aggregated else found.global_descriptor
    if whole is None:
        nothing = "no local features" if kind.aggregated else "no global descriptor"
        raise BadFeaturesError(f"{nothing}, so it could never be found")
    if len(whole) != kind.global_dim:
        raise BadFeaturesError(f"a global descriptor of width {len(whole)}, not {kind.global_dim}")
    width, height = found.size or size or furthest(local.keypoints)
    return ImageFeatures(whole, local, width, height)


def furthest(keypoints: FloatArray) -> tuple[int, int]:
    """Width and height of the smallest photo that holds these keypoints."""
    if not len(keypoints):
        return 1, 1
    width, height = np.ceil(keypoints.max(axis=0) + 1).clip(1, 1 << 20)
    return int(width), int(height)


def import_features(
    store: Store,
    kind: FeatureSpec,
    sources: Sequence[Path],
    format_: str | None = None,
    photos: Iterable[Path] = (),
    progress: Progress | None = None,
) -> ImportReport:
    """Put features made elsewhere into an index; under the store's lock.

    A photo already in the index is replaced. Work is committed in batches.

    Args:
        kind: of the index.
        photos: folders of the photos, which tell sizes and can then be drawn; a photo's id may
            have a suffix that the name of its features lacks.

    Raises:
        UsageError: a folder or file does not exist.
        DelgError: a file as a whole cannot be read.
    """
    places = _Places(photos)
    _, found = read(sources, format_)
    failed: list[Failure] = []
    images: list[ImageRow] = []
    features: list[ImageFeatures] = []
    added = with_photo = guessed = 0
    for number, one in enumerate(found, 1):
        if isinstance(one, Failure):
            failed.append(one)
            continue
        try:
            row, size = places.row(one.id)
            made = as_features(one, kind, size)
        except (BadFeaturesError, ImageError) as error:
            failed.append(Failure(one.id, str(error)))
            continue
        images.append(replace(row, width=made.width, height=made.height))
        features.append(made)
        added, with_photo = added + 1, with_photo + bool(row.path)
        guessed += one.size is None and size is None
        if progress:
            progress(number, number, len(failed))
        if len(images) >= store.settings.store.segment_images:
            store.commit(images, features)
            images, features = [], []
    if images:
        store.commit(images, features)
    if not store.ann_index_current:
        store.save_ann_index()
    return ImportReport(added, with_photo, guessed, failed)


class _Places:
    """Photos by the name of their features."""

    def __init__(self, folders: Iterable[Path]) -> None:
        found, _ = scan(folders)
        self._photos = {photo.id: photo for photo in found}
        self._ids: dict[str, list[str]] = {}
        for photo in found:
            self._ids.setdefault(without_suffix(photo.id), []).append(photo.id)

    def row(self, name: str) -> tuple[ImageRow, tuple[int, int] | None]:
        """The photo's entry for the catalog, and its size; without a photo an empty path.

        Raises:
            ImageError: there is a photo, and it cannot be read.
            BadFeaturesError: several photos could be meant.
        """
        ids = [name] if name in self._photos else self._ids.get(name, [])
        if not ids:
            return ImageRow(name, "", 0, 0, ""), None
        if len(ids) > 1:
            raise BadFeaturesError(f"it may be of {ids[0]} or of {ids[1]}")
        photo = self._photos[ids[0]]
        stat = photo.path.stat()
        data = read_bytes(photo.path)
        height, width = decode_bytes(data).shape[:2]
        digest = hashlib.sha256(data).hexdigest()
        row = ImageRow(photo.id, str(photo.path), stat.st_size, stat.st_mtime_ns, digest)
        return row, (width, height)


def recorded_spec(store: Store) -> FeatureSpec:
    """The kind of features that an index takes.

    Raises:
        UsageError: it was made by a version that did not record it.
    """
    meta = store.catalog.meta
    try:
        widths = int(meta("global_dim")), int(meta("local_dim"))
    except ValueError:
        raise UsageError(f"{store.folder}: does not say how wide its descriptors are") from None
    return FeatureSpec(meta("model_name"), *widths, bool(meta("aggregated")))
