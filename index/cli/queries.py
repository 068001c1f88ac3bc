"""What ``delg query`` searches with: photos, folders of them, and ids of the index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from delg.paths import is_folder
from delg.remote_path import Location, RemotePath

if TYPE_CHECKING:
    from delg.types import Box, Failure, ImageFeatures
    from index.image_index import ImageIndex
    from index.results import QueryResult
    from index.search.search import QueryOptions


@dataclass(frozen=True)
class Query:
    """A query.

    Attributes:
        name: for people.
        photo: to search with; None: an image of the index.
        id: of that image.
        regions: boxes (x, y, width, height) in the photo to search for besides all of it.
    """

    name: str
    photo: Location | None = None
    id: str | None = None
    regions: Sequence[Box] | None = None

    def source(self, images: ImageIndex) -> Location | ImageFeatures:
        """The photo, or the features of the image."""
        return self.photo if self.photo is not None else images.features(self.id or "")

    def run(self, images: ImageIndex, box: Box | None, options: QueryOptions) -> QueryResult:
        """The results of the query, or of the part of its photo in a box."""
        if self.photo is not None:
            with_regions: QueryOptions = {**options, "regions": self.regions}
            return images.query(self.photo, box=box, **with_regions)
        return images.more_like(self.id or "", **options)


def list_queries(
    photos: Sequence[Location], ids: Sequence[str]
) -> tuple[list[Query], list[Failure]]:
    """What to search with, in the order named; photos in folders by name."""
    from delg.images.scan import scan
    from delg.types import Failure

    queries, failed = [], []
    for photo in photos:
        if not _holds_photos(photo):
            queries.append(Query(str(photo), photo))
            continue
        listing = scan([photo])
        failed += listing.failures
        if not listing.photos and not listing.failures:
            failed.append(Failure(str(photo), "holds no photos"))
        queries += [Query(str(photo / each.id), each.path) for each in listing.photos]
    queries += [Query(image_id, id=image_id) for image_id in ids]
    return queries, failed


def _holds_photos(place: Location) -> bool:
    """Whether it is a folder; URLs that end like those of photos are not looked at."""
    from delg.images.decode import SUFFIXES

    if isinstance(place, RemotePath):
        return not place.name.lower().endswith(SUFFIXES)
    return is_folder(place)


def usable_queries(
    images: ImageIndex, queries: Sequence[Query], failed: list[Failure]
) -> list[Query]:
    """Those whose photos can be decoded; the others are appended to ``failed``."""
    from delg.images.decode import ImageError, decode
    from delg.types import Failure

    usable = []
    for each in queries:
        try:
            if each.photo is not None:
                decode(each.photo, images.settings.images)
            usable.append(each)
        except ImageError as error:
            failed.append(Failure(each.name, str(error)))
    return usable
