"""Photos that something is learnt from: chosen evenly, decoded, and grouped by label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from delg.images.decode import ImageError, decode
from delg.images.scan import Photo, scan
from delg.settings import ImageSettings
from delg.types import Progress

# Makes a progress display of that title.
ProgressFactory = Callable[[str], AbstractContextManager[Progress]]


def spread_photos(sources: Sequence[str | Path], per_source: int) -> list[Photo]:
    """At most ``per_source`` photos of each source, spread evenly over it.

    Raises:
        UsageError: a source does not exist.
    """
    by_source = [scan([source])[0] for source in sources]
    return [
        photos[number] for photos in by_source for number in evenly_spaced(len(photos), per_source)
    ]


def label_of(photo: Photo) -> str | None:
    """The folder that a photo of a source lies in; None: in the source itself."""
    label = str(Path(photo.id).parent)
    return None if label == "." else label


def labelled_photos(sources: Sequence[str | Path], per_source: int) -> list[tuple[Photo, str]]:
    """At most ``per_source`` photos of each source, spread evenly, that lie in a folder of it; each
    with its label, the number of the source and the folder.

    Raises:
        UsageError: a source does not exist.
    """
    return [
        (photo, f"{number}/{label}")
        for number, source in enumerate(sources)
        for photo in spread_photos([source], per_source)
        if (label := label_of(photo)) is not None
    ]


def decode_readable(photos: Iterable[Photo], limits: ImageSettings) -> Iterator[NDArray[np.uint8]]:
    """The pixels uint8 (H, W, 3), RGB, of those photos that can be decoded."""
    for photo in photos:
        with suppress(ImageError):
            yield decode(photo.path, limits)


def evenly_spaced(total: int, count: int) -> list[int]:
    """``count`` numbers spread evenly over ``range(total)``, all of them if there are fewer."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(int)).tolist()
