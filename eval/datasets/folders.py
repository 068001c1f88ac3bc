"""Any folder of photos as a benchmark: photos in folders of the same name show the same instance.

The layout is one folder per instance, anywhere below the root; photos at the top have no label and
are distractors. Every photo is a query against all others (leave-one-out); relevant are the other
photos of its label. The only photo of a label is no query.
"""

from __future__ import annotations

import random
from collections import defaultdict

from delg.errors import UsageError
from delg.remote_path import Location, as_location
from eval.benchmark import Benchmark, QueryPhoto, RetrievalTruth
from eval.datasets.photos import list_photos
from index.labels import FolderLabels

# Each query has its own set of relevant photos; more than this would fill the memory.
_MAX_RELEVANT = 50_000_000


def read_folders(root: str | Location, sample: int | None = None, seed: int = 0) -> Benchmark:
    """Read a folder of labelled folders. Ids are paths relative to it.

    Args:
        root: the folder, or its URL; hidden files and folders in it are skipped.
        sample: number of queries in a random sample; None takes all.
        seed: of the sample.

    Raises:
        UsageError: no photos, no two of the same label, or sample < 1.
    """
    root = as_location(root)
    if sample is not None and sample < 1:
        raise UsageError(f"a sample of {sample} queries; it must be at least 1")
    photos = list_photos(root)
    if not photos:
        raise UsageError(f"{root}: holds no photos")
    folder_labels = FolderLabels()
    labels: dict[str, str] = {}
    same: dict[str, set[str]] = defaultdict(set)
    for photo in photos:
        row = folder_labels.get(photo.id)
        if row is not None and row.label is not None:
            labels[photo.id] = row.label
            same[row.label].add(photo.id)
    queries = [photo for photo in photos if len(same.get(labels.get(photo.id, ""), ())) > 1]
    if not queries:
        raise UsageError(
            f"{root}: no two photos lie in folders of the same name; there is nothing to retrieve"
        )
    if sample is not None and sample < len(queries):
        positions = random.Random(seed).sample(range(len(queries)), sample)
        queries = [queries[position] for position in sorted(positions)]
    if sum(len(same[labels[photo.id]]) for photo in queries) > _MAX_RELEVANT:
        raise UsageError(
            f"{root}: {len(queries):,} queries have too many relevant photos; use --sample"
        )
    return Benchmark(
        name=root.resolve().name,
        protocol="retrieval",
        gallery=tuple(photos),
        queries=tuple(QueryPhoto(photo.id, photo.path, gallery_id=photo.id) for photo in queries),
        truth={
            photo.id: RetrievalTruth(frozenset(same[labels[photo.id]] - {photo.id}))
            for photo in queries
        },
        labels=labels,
    )
