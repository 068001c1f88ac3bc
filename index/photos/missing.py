"""Photos whose file is gone, those whose file cannot be looked at, and sources that lost most."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from delg.errors import UsageError
from delg.paths import normal_form, presence
from delg.remote_path import is_url, is_web_url
from index.photos.remote_lookup import FolderLookup
from index.storage.catalog_tables import ImageRow

# A source that lost fewer photos than this lost them one by one, not with its disk.
_FEW = 3


@dataclass(frozen=True)
class SourceLoss:
    """A source that lost most of its photos, as one on a disk that is not mounted does, or a folder
    below it that is empty now.

    Attributes:
        source: the folder.
        gone, photos: how many of how many.
    """

    source: str
    gone: int
    photos: int

    def __str__(self) -> str:
        return f"{self.gone:,} of {self.photos:,} photos of {self.source} are gone"


@dataclass(frozen=True)
class MissingPhotos:
    """The photos of an index that are not where they were.

    Attributes:
        gone: ids of photos whose file is no longer there.
        unreachable: id -> why nobody knows whether its file is there: a closed folder, a dead
            share.
        losses: the sources that lost most of their photos.
    """

    gone: list[str]
    unreachable: dict[str, str]
    losses: list[SourceLoss]

    def check_losses(self) -> None:
        """Make sure that photos may be removed for being gone.

        Raises:
            UsageError: a source lost most of its photos.
        """
        if self.losses:
            raise UsageError(
                f"{'; '.join(map(str, self.losses))}: is a disk not mounted, or a folder "
                "moved (delg index relocate)? Nothing was removed; --dry-run lists them, "
                "--force removes them"
            )


def join_missing(parts: Iterable[MissingPhotos]) -> MissingPhotos:
    """What several shards miss together; a source's photos lie in all of them."""
    gone: list[str] = []
    unreachable: dict[str, str] = {}
    losses: dict[str, SourceLoss] = {}
    for part in parts:
        gone += part.gone
        unreachable |= part.unreachable
        for loss in part.losses:
            known = losses.get(loss.source, SourceLoss(loss.source, 0, 0))
            losses[loss.source] = SourceLoss(
                loss.source, known.gone + loss.gone, known.photos + loss.photos
            )
    return MissingPhotos(sorted(gone), unreachable, list(losses.values()))


def source_of(image: ImageRow) -> str:
    """The folder that a photo was added from: its path without what the id repeats of it."""
    if is_url(image.path):
        return _remote_source(image.path, image.id)
    path, names = Path(image.path), Path(image.id).parts
    parts = list(path.parts)
    for name in reversed(names):
        if len(parts) < 2 or normal_form(parts[-1]) != normal_form(name):
            break
        parts.pop()
    is_named_freely = len(parts) == len(path.parts)
    return str(path.parent if is_named_freely else Path(*parts))


def _remote_source(url: str, image_id: str) -> str:
    place, names = url, PurePosixPath(image_id).parts
    for name in reversed(names):
        head, _, last = place.rpartition("/")
        if head.endswith(("/", ":")) or normal_form(name) not in (last, unquote(last)):
            break
        place = head
    return url.rpartition("/")[0] if place == url else place


def find_missing(images: Iterable[ImageRow], present: Collection[str] = ()) -> MissingPhotos:
    """Look for the files of images; features imported without photos miss none.

    Args:
        images: to look for.
        present: ids of photos that are known to be there.
    """
    gone: list[str] = []
    unreachable: dict[str, str] = {}
    photos: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    emptied, remote = _EmptiedFolders(), FolderLookup()
    for image in images:
        if not image.path:
            continue
        source = source_of(image)
        photos[source] += 1
        if image.id in present:
            continue
        state = remote.presence(image.path) if is_url(image.path) else presence(image.path)
        if state.kind == "absent":
            gone.append(image.id)
            lost[source] += 1
            if not is_url(image.path):
                emptied.count(Path(image.path), source)
        elif state.kind == "unreachable":
            unreachable[image.id] = state.reason
    losses = [
        SourceLoss(source, count, photos[source])
        for source, count in sorted(lost.items())
        if _is_suspicious(source, count, photos[source])
    ]
    known = {loss.source for loss in losses}
    return MissingPhotos(gone, unreachable, losses + emptied.losses(known))


class _EmptiedFolders:
    """Folders below a source that are empty now, as that of a disk that is not mounted is."""

    def __init__(self) -> None:
        self._lost: Counter[str] = Counter()
        self._nearest: dict[Path, Path] = {}

    def count(self, photo: Path, source: str) -> None:
        """Count a photo that is gone."""
        folder = self._nearest_folder(photo.parent)
        if folder.is_relative_to(source) and str(folder) != source:
            self._lost[str(folder)] += 1

    def _nearest_folder(self, folder: Path) -> Path:
        """The folder, or the nearest above it that is still there."""
        if folder not in self._nearest:
            is_there = presence(folder).kind == "folder" or folder == folder.parent
            self._nearest[folder] = folder if is_there else self._nearest_folder(folder.parent)
        return self._nearest[folder]

    def losses(self, known: set[str]) -> list[SourceLoss]:
        """The folders with several photos that are gone and nothing else; without those below
        sources that are ``known`` to have lost most."""
        return [
            SourceLoss(folder, count, count)
            for folder, count in sorted(self._lost.items())
            if count >= _FEW
            and known.isdisjoint(map(str, Path(folder).parents))
            and _is_empty(folder)
        ]


def _is_empty(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _is_suspicious(source: str, gone: int, photos: int) -> bool:
    lost_most = gone >= _FEW and 2 * gone > photos
    return lost_most or not (presence(source).kind == "folder" or is_web_url(source))
