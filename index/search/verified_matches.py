"""The photos of an index that are verified to match stored features, within a shortlist of fixed
length: what comparing whole collections takes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from delg.types import ImageFeatures
from index.results import Verification
from index.search.local_shortlist import Shortlist, quantize_query
from index.search.rerank import Reranker
from index.search.scatter import Scatter
from index.search.shard import LocalShard
from index.selection import Selection
from index.storage.store import Store
from index.verification.calibration import Calibration

# Called with the row number and the similarity of a candidate.
IsWanted = Callable[[int, float], bool]


@dataclass(frozen=True, eq=False)
class VerifiedMatch:
    """A photo that is verified to show the same thing.

    Attributes:
        row: its row number.
        similarity: inner product of the global descriptors, as the index compares them.
        verification: of both photos.
    """

    row: int
    similarity: float
    verification: Verification


def find_verified_matches(
    store: Store,
    calibration: Calibration,
    features: ImageFeatures,
    depth: int,
    without: Collection[str] = (),
    is_wanted: IsWanted = lambda row, similarity: True,
) -> list[VerifiedMatch]:
    """Match and verify photos of an index, the most similar first.

    Args:
        calibration: of the model that made the index.
        features: of that model, as extracted; they are not rotated.
        depth: photos of the shortlist that are compared.
        without: ids of photos to leave out.
        is_wanted: which photos of the shortlist to compare.
    """
    shards = Scatter([LocalShard(store)])
    [descriptor] = shards.context.adapt(features.global_descriptor[None])
    features = replace(features, global_descriptor=descriptor)
    words = quantize_query(shards.context, features.local.descriptors)
    selection = Selection.of((), without)
    shortlist = Shortlist(shards, descriptor, words, selection).candidates(depth, depth)
    wanted = {image: value for image, value in shortlist.items() if is_wanted(image.row, value)}
    matches = Reranker(shards, None, calibration).verify(features, 0, wanted) if wanted else {}
    return [
        VerifiedMatch(image.row, float(wanted[image]), match.verification)
        for image, match in matches.items()
        if match.verification.verified
    ]
