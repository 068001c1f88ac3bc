"""Learn the calibration of a model from photos: composites that are made, and labelled photos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np

from delg.errors import UsageError
from delg.extraction.extractor import Extractor
from delg.images.scan import Photo
from delg.types import Failure, Progress
from index.calibrate.composite_files import save_composite
from index.calibrate.composites import make_composites
from index.calibrate.fit import (
    LabelledPairs,
    fit_calibration,
    fit_second_look,
    measure_reliability,
)
from index.calibrate.second_looks import ComparedQuery, compare, look_again
from index.calibrate.surroundings import Pixels
from index.image_index import ImageIndex
from index.learn.training_photos import (
    ProgressFactory,
    decode_readable,
    evenly_spaced,
    labelled_photos,
    spread_photos,
)
from index.storage.store import Store
from index.verification.calibration import DEFAULT_CALIBRATION, Calibration
from index.verification.matching import one_blas_thread

# Sets of equal surroundings, of each kind.
_SETS = 6
# Photos of each source that become pictures, textures and backgrounds.
_PICTURES = 150
# Labelled photos in the gallery, and of those the ones that are queries as well.
_LABELLED = 800
_LABELLED_QUERIES = 120
# Labels are often wrong, and their pairs many: they teach likeness alone, and a composite's pair
# counts as much as twenty.
_LABELLED_WEIGHT = 0.05
# Every third group of queries is held out, to measure on.
_HELD_OUT = 3


def learn_calibration(
    extractor: Extractor,
    model: str,
    photos: Sequence[str | Path],
    instances: Sequence[str | Path],
    progress: ProgressFactory,
) -> Calibration:
    """Fit what evidence is worth with a model's features; the same photos give the same.

    Args:
        extractor: the model.
        model: its name or folder.
        photos: of all kinds of things, or folders of them; composites are made of them.
        instances: folders with a folder per label; photos of a label show one and the same thing.
        progress: makes a progress display for each step.

    Returns:
        With its reliability, measured on a third of the queries, which it was not fitted on.

    Raises:
        UsageError: a source does not exist, or the photos are too few.
    """
    pictures = list(decode_readable(spread_photos(photos, _PICTURES), extractor.images))
    labelled = _labelled_photos(instances)
    labels = {photo.id: label for photo, label in labelled}
    labelled_photos = [photo for photo, _ in labelled]
    asked = [labelled_photos[n] for n in evenly_spaced(len(labelled), _LABELLED_QUERIES)]
    collected: list[ComparedQuery] = []
    with TemporaryDirectory() as temporary, one_blas_thread():
        folder = Path(temporary)
        gallery, queries, shows = _write_composites(pictures, folder)
        # Composites and labelled photos may show the same photo, so they are not compared.
        for name, stored, queried, truth, weight in (
            ("composites", gallery, queries, shows, 1.0),
            ("labelled photos", labelled_photos, asked, labels, _LABELLED_WEIGHT),
        ):
            if stored:
                with ImageIndex.create(folder / name, model) as images, progress(name) as report:
                    images.use(extractor)
                    images.add(stored, progress=report)
                with closing(Store(folder / name)) as store, progress(f"{name}: queries") as report:
                    collected += _compare_all(extractor, queried, store, truth, weight, report)
        calibration = _fit([(query.shows, _sure(query.pairs)) for query in collected])
        with closing(Store(folder / "composites")) as store, progress("second looks") as report:
            fitted_on, _ = _split(collected, [query.shows for query in collected])
            composites = [query for query in fitted_on if query.photo.id in shows]
            looks = look_again(extractor, composites, calibration, store, report)
    return calibration.model_copy(update={"second_look": fit_second_look(*looks)})


def _compare_all(
    extractor: Extractor,
    photos: Sequence[Photo],
    store: Store,
    shows: Mapping[str, str],
    weight: float,
    progress: Progress,
) -> Iterator[ComparedQuery]:
    """The queries that can be extracted, compared with the gallery."""
    results = extractor.extract_many(photo.path for photo in photos)
    failed = 0
    for done, (photo, result) in enumerate(zip(photos, results, strict=True), 1):
        if isinstance(result, Failure):
            failed += 1
        else:
            yield compare(result, photo, store, shows, weight)
        progress(done, len(photos), failed)


def _sure(pairs: LabelledPairs) -> LabelledPairs:
    """Without the evidence of labelled photos: labels are often wrong, and two views of one
    building may share nothing."""
    return pairs.where((pairs.weights == 1) | np.isnan(pairs.evidence[:, 0]))


_Item = TypeVar("_Item")


def _split(items: Sequence[_Item], shows: Sequence[str]) -> tuple[list[_Item], list[_Item]]:
    """Queries to fit to, and those that are held out, by what they show."""
    held_out = set(sorted(set(shows))[::_HELD_OUT])
    parts: tuple[list[_Item], list[_Item]] = ([], [])
    for item, shown in zip(items, shows, strict=True):
        parts[shown in held_out].append(item)
    return parts


def _fit(collected: Sequence[tuple[str, LabelledPairs]]) -> Calibration:
    parts = _split([pairs for _, pairs in collected], [shows for shows, _ in collected])
    if not all(any(len(pairs) for pairs in part) for part in parts):
        raise UsageError("these photos are too few for a calibration: name more")
    fitted_on, measured_on = map(LabelledPairs.concatenate, parts)
    has_evidence = ~np.isnan(fitted_on.evidence[:, 0])
    known = fitted_on.same[has_evidence]
    if known.all() or not known.any() or has_evidence.all():
        raise UsageError("these photos give no calibration: too few of them match, or do not")
    calibration = fit_calibration(fitted_on, DEFAULT_CALIBRATION.min_inliers)
    # Labelled pairs are left out of what is measured: their labels are often wrong.
    reliable = measured_on.where(measured_on.weights == 1)
    return calibration.model_copy(
        update={"reliability": measure_reliability(calibration, reliable)}
    )


def _labelled_photos(instances: Sequence[str | Path]) -> list[tuple[Photo, str]]:
    """Photos with labels, the folders' names; spread evenly over all labels."""
    labelled = [
        (Photo(f"labelled/{label}/{Path(photo.id).name}", photo.path), label)
        for photo, label in labelled_photos(instances, _LABELLED)
    ]
    return [labelled[number] for number in evenly_spaced(len(labelled), _LABELLED)]


def _write_composites(
    pictures: Sequence[Pixels], folder: Path
) -> tuple[list[Photo], list[Photo], dict[str, str]]:
    """Composites as files: those of the gallery, the queries, and what each shows by id."""
    gallery: list[Photo] = []
    queries: list[Photo] = []
    shows: dict[str, str] = {}
    for number, composite in enumerate(make_composites(pictures, _SETS)):
        path = folder / f"{number}.jpg"
        photo = Photo(f"composites/{number}.jpg", path)
        save_composite(composite, path)
        (gallery if composite.in_gallery else queries).append(photo)
        shows[photo.id] = f"picture {composite.picture}"
    return gallery, queries, shows
