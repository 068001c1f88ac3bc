"""Notes: why a query finds less than one would expect, in words."""

from __future__ import annotations

from collections.abc import Sequence

from index.search.candidates import Candidate, any_verified
from index.selection import Selection

# Local features below which a photo is hardly ever verified.
FEW_FEATURES = 30


def few_features(features: int) -> str:
    """That a photo is too plain to be verified, in words."""
    return f"few features: {features}; found by its overall look only"


def explain(
    features: int, candidates: Sequence[Candidate], rerank: int, selection: Selection
) -> tuple[str, ...]:
    """What kept a query from finding more; nothing, where something is verified.

    Args:
        features: number of the query's local features that are not on plain surfaces.
        candidates: what was found, before any is left out by its probability.
        rerank: candidates that were to be verified.
        selection: of the images.
    """
    if not candidates:
        conditions = ", ".join(f"{key}={value}" for key, value in selection.where)
        return (f"no photo fulfils {conditions}",) if conditions else ("no photo to search among",)
    if rerank and features < FEW_FEATURES and not any_verified(candidates):
        return (few_features(features),)
    return ()
