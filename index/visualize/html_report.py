"""Query results as one self-contained HTML file: photos, hits and their matches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from delg.files import write_text
from delg.images.decode import ImageError, decode
from index.results import Hit, QueryResult
from index.visualize.draw_matches import (
    Frame,
    Layout,
    Pixels,
    match_colours,
    side_by_side,
)
from index.visualize.html import EmbeddedImage, embed_image, load_template

TITLE = "Search results"
THUMBNAIL_SIDE = 320
PHOTO_SIDE = 640
# Match views per query and lines per view; more are hard to read.
MAX_VIEWS = 4
MAX_LINES = 150


@dataclass
class _Album:
    """The embedded photos of a page. Each file is decoded once; match views share its image."""

    images: list[EmbeddedImage] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)
    _files: dict[str, tuple[EmbeddedImage, EmbeddedImage] | str] = field(default_factory=dict)

    def add(self, photo: EmbeddedImage) -> int:
        """The number by which match views refer to the photo."""
        self.images.append(photo)
        return len(self.images) - 1

    def add_file(self, path: str, photo: EmbeddedImage) -> int:
        """The number of a file's photo; a file is added once."""
        if path not in self._numbers:
            self._numbers[path] = self.add(photo)
        return self._numbers[path]

    def load(self, path: str) -> tuple[EmbeddedImage, EmbeddedImage] | str:
        """Thumbnail and photo of a file, or the reason why it cannot be shown."""
        if path not in self._files:
            try:
                pixels = decode(path)
                self._files[path] = (
                    embed_image(pixels, THUMBNAIL_SIDE),
                    embed_image(pixels, PHOTO_SIDE),
                )
            except ImageError as error:
                self._files[path] = str(error)
        return self._files[path]


@dataclass(frozen=True)
class _Line:
    """One match in a view: its colour, and its ends (x1, y1, x2, y2) in pixels of the view."""

    colour: str
    ends: tuple[float, float, float, float]


@dataclass(frozen=True)
class _View:
    """Query and hit side by side, by their numbers in the album, with the parts that are meant."""

    hit: Hit
    query: int
    photo: int
    layout: Layout
    lines: list[_Line]
    box: tuple[float, float, float, float] | None
    region: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class _Card:
    """A hit with its thumbnail, or the reason why it has none."""

    hit: Hit
    thumbnail: EmbeddedImage | None
    reason: str
    view: _View | None


@dataclass(frozen=True)
class _QueryPhoto:
    """A photo of a query: its number in the album, and its size in pixels of its points."""

    number: int
    picture: EmbeddedImage
    size: tuple[int, int]


@dataclass(frozen=True)
class _Section:
    """One query of the page; its box is in the pixels of the picture of its first photo."""

    name: str
    photos: list[_QueryPhoto]
    box: tuple[float, float, float, float] | None
    result: QueryResult
    timings: list[tuple[str, str]]
    cards: list[_Card]

    @property
    def photo(self) -> int:
        return self.photos[0].number

    @property
    def picture(self) -> EmbeddedImage:
        return self.photos[0].picture

    @property
    def views(self) -> list[_View]:
        return [card.view for card in self.cards if card.view is not None]

    @property
    def verified(self) -> int:
        return sum(card.hit.verified for card in self.cards)


def write_html_report(
    path: str | Path,
    results: Iterable[tuple[str, Pixels | Sequence[Pixels], QueryResult]],
    title: str = TITLE,
) -> None:
    """Write the results of queries as one HTML file that loads nothing else.

    Photos of hits are read from their paths; the reason is shown for one that cannot be read.

    Args:
        path: of the file; an existing one is replaced.
        results: of each query its name, its upright pixels, uint8 (H, W, 3) RGB, and its hits. A
            query of several photos has the pixels of each, in the order of :attr:`Hit.photo`.
        title: heading of the page.

    Raises:
        DelgError: the file cannot be written.
    """
    text = render_html_report(results, title)
    # File names on Linux may contain bytes that are not text.
    write_text(path, text)


def render_html_report(
    results: Iterable[tuple[str, Pixels | Sequence[Pixels], QueryResult]], title: str = TITLE
) -> str:
    """The HTML of :func:`write_html_report`."""
    album = _Album()
    sections = [_section(name, pixels, result, album) for name, pixels, result in results]
    models = sorted({section.result.model for section in sections})
    template = load_template("index.visualize", "results.html")
    return template.render(title=title, sections=sections, models=models, photos=album.images)


def _section(
    name: str, pixels: Pixels | Sequence[Pixels], result: QueryResult, album: _Album
) -> _Section:
    several = [pixels] if isinstance(pixels, np.ndarray) else pixels
    photos = [_query_photo(each, album) for each in several]
    # The first one may come smaller than it was.
    if result.width and result.height:
        photos[0] = replace(photos[0], size=(result.width, result.height))
    cards: list[_Card] = []
    views = 0
    for hit in result:
        card = _card(hit, result, photos[hit.photo], album, with_view=views < MAX_VIEWS)
        views += card.view is not None
        cards.append(card)
    timings = [(step, _duration(ms)) for step, ms in result.timing_ms.items()]
    if len(timings) > 1:
        timings.append(("total", _duration(sum(result.timing_ms.values()))))
    return _Section(name, photos, _box(result, photos[0]), result, timings, cards)


def _query_photo(pixels: Pixels, album: _Album) -> _QueryPhoto:
    picture = embed_image(pixels, PHOTO_SIDE)
    height, width = pixels.shape[:2]
    return _QueryPhoto(album.add(picture), picture, (width, height))


def _card(
    hit: Hit, result: QueryResult, query: _QueryPhoto, album: _Album, with_view: bool
) -> _Card:
    photos = album.load(hit.path)
    if isinstance(photos, str):
        return _Card(hit, None, photos, None)
    thumbnail, photo = photos
    if not (with_view and hit.verified and len(hit.points)):
        return _Card(hit, thumbnail, "", None)
    # Points are in pixels of the photo as it was indexed, whatever its size is now.
    layout = side_by_side(
        query.size,
        (hit.width or photo.width, hit.height or photo.height),
        PHOTO_SIDE,
    )
    box = None if result.box is None else layout.query.box_to_canvas(result.box)
    region = None if hit.region is None else layout.hit.box_to_canvas(hit.region)
    number = album.add_file(hit.path, photo)
    view = _View(hit, query.number, number, layout, _lines(hit, layout), box, region)
    return _Card(hit, thumbnail, "", view)


def _lines(hit: Hit, layout: Layout) -> list[_Line]:
    """At most ``MAX_LINES`` lines, sampled evenly from all matches."""
    total = len(hit.points)
    sample = np.linspace(0, total - 1, min(total, MAX_LINES)).round().astype(int)
    starts = layout.query.to_canvas(hit.query_points[sample])
    ends = layout.hit.to_canvas(hit.points[sample])
    return [
        _Line("#{:02x}{:02x}{:02x}".format(*colour), tuple(round(v, 1) for v in (*start, *end)))
        for colour, start, end in zip(
            match_colours(hit.query_points[sample]).tolist(),
            starts.tolist(),
            ends.tolist(),
            strict=True,
        )
    ]


def _box(result: QueryResult, photo: _QueryPhoto) -> tuple[float, float, float, float] | None:
    if result.box is None:
        return None
    frame = Frame(0, 0, photo.picture.width, photo.picture.height, *photo.size)
    return frame.box_to_canvas(result.box)


def _duration(milliseconds: float) -> str:
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.1f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"
