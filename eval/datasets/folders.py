"""Any folder of photos as a benchmark: photos in folders of the same name show the same thing.

The layout is one folder a thing, anywhere below the root; photos at the top have no label and only
distract. Every photo is a query against all others (leave-one-out); right are the other photos of
its label. A photo that is alone with its label is no query.
"""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

from delg.errors import UsageError
from eval.benchmark import Benchmark, QueryPhoto, RetrievalTruth
from eval.datasets.photos import list_photos
from index.labels import FolderLabels

# Each query has its own set of right answers; more than this would fill the memory.
_MAX_ANSWERS = 50_000_000


def read_folders(root: Path, sample: int | None = None, seed: int = 0) -> Benchmark:
    """Read a folder of labelled folders. Ids are paths relative to it.

    Args:
        root: hidden files and folders in it are passed over.
        sample: so many queries, drawn by ``seed``, in place of all.
        seed: the same seed draws the same queries.

    Raises:
        UsageError: no photos, no two of the same label, or sample < 1.
    """
    root = Path(root)
    if sample is not None and sample < 1:
        raise UsageError(f"a sample of {sample} queries; it must be at least 1")
    photos = list_photos(root)
    if not photos:
        raise UsageError(f"{root}: holds no photos")
    known = FolderLabels()
    labels: dict[str, str] = {}
    same: dict[str, set[str]] = defaultdict(set)
    for photo in photos:
        found = known.get(photo.id)
        if found is not None and found.label is not None:
            labels[photo.id] = found.label
            same[found.label].add(photo.id)
    asked = [photo for photo in photos if len(same.get(labels.get(photo.id, ""), ())) > 1]
    if not asked:
        raise UsageError(f"{root}: no two photos lie in folders of the same name; nothing to find")
    if sample is not None and sample < len(asked):
        drawn = random.Random(seed).sample(range(len(asked)), sample)
        asked = [asked[place] for place in sorted(drawn)]
    if sum(len(same[labels[photo.id]]) for photo in asked) > _MAX_ANSWERS:
        raise UsageError(
            f"{root}: {len(asked):,} queries have too many right answers; use a sample"
        )
    return Benchmark(
        name=root.resolve().name,
        protocol="retrieval",
        gallery=tuple(photos),
        queries=tuple(QueryPhoto(photo.id, photo.path, gallery_id=photo.id) for photo in asked),
        truth={
            photo.id: RetrievalTruth(frozenset(same[labels[photo.id]] - {photo.id}))
            for photo in asked
        },
        labels=labels,
    )
