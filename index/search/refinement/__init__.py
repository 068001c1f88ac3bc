"""Refinements of a shortlist by its photos' neighbours, by the name of the setting
``neighbours.method``."""

from __future__ import annotations

from index.search.refinement.augmentation import NeighbourAugmentation
from index.search.refinement.base import Neighbourhood, Refinement
from index.search.refinement.diffusion import Diffusion
from index.search.refinement.expansion import QueryExpansion
from index.search.refinement.k_reciprocal import KReciprocal
from index.search.refinement.superglobal import SuperGlobal
from index.settings import NeighboursSettings

# The nearest of a handful of photos need not be near.
_PHOTOS_PER_NEIGHBOUR = 20
# With the constants of their papers; "augmentation" takes its own from the settings.
PUBLISHED: dict[str, Refinement] = {
    "average-expansion": QueryExpansion(alpha=0),
    "alpha-expansion": QueryExpansion(alpha=3),
    "superglobal": SuperGlobal(),
    "k-reciprocal": KReciprocal(),
    "diffusion": Diffusion(),
}


def get_refinement(settings: NeighboursSettings, photos: int) -> Refinement | None:
    """The method that the settings name; None: there is none.

    Args:
        photos: that it will look at. Where they are few, "augmentation" takes fewer of them for
            neighbours than the settings say.
    """
    if settings.method != "augmentation":
        return PUBLISHED.get(settings.method)
    share = max(1, photos // _PHOTOS_PER_NEIGHBOUR)
    return NeighbourAugmentation(
        augment=min(settings.augment, share),
        expand=min(settings.expand, share) if share > 1 else 0,
        alpha=settings.alpha,
        reciprocal=min(settings.reciprocal, share),
    )


__all__ = ["PUBLISHED", "Neighbourhood", "Refinement", "get_refinement"]
