"""A warm query and its steps: on packaged photos, with the default model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from delg.errors import DelgError
from delg.images.decode import decode
from eval.speed.build import write_photos
from eval.speed.harness import Bench, Result, stage
from index.demo.photos import make_gallery
from index.image_index import ImageIndex
from index.storage.catalog_tables import ImageRow, insert_segment, put_images
from index.storage.store import Store

# Different photos, copies of all but one in the large index, and the position of that one, which no
# other photo resembles.
_PHOTOS, _COPIES, _QUICK_COPIES, _ONCE = 20, 527, 20, 10
_AT_ONCE = 12


@contextmanager
def demo_index() -> Iterator[tuple[ImageIndex, Path]]:
    """An index of the packaged photos, and one of their queries."""
    with TemporaryDirectory() as folder:
        queries = make_gallery(folder)
        query = next((query for query in queries if query.expected), None)
        if query is None:
            raise DelgError("scikit-image's photos are missing; reinstall scikit-image")
        with ImageIndex.create(Path(folder) / "index") as images:
            images.add(Path(folder) / "gallery")
            yield images, query.path


def many_photos(folder: Path, quick: bool) -> tuple[Path, int]:
    """An index of thousands of real photos in ``folder / "index"``: a few are extracted, and their
    features are stored many times under other ids.

    Returns:
        A photo that is in the index once, and the number of images.
    """
    copies = _QUICK_COPIES if quick else _COPIES
    write_photos(folder / "photos", _PHOTOS)
    with ImageIndex.create(folder / "index") as images:
        images.add(folder / "photos")
        store = images._store
        rows = list(store.catalog.images("ok"))
        others = [row for row in rows if row is not rows[_ONCE]]
        with store.lock():
            for start in range(1, copies, _AT_ONCE):
                numbers = range(start, min(start + _AT_ONCE, copies))
                _copy(store, [replace(row, id=f"{n}/{row.id}") for n in numbers for row in others])
            store.refresh()
            store.save_ann_index()
        return folder / "photos" / rows[_ONCE].id, len(images)


def _copy(store: Store, images: list[ImageRow]) -> None:
    """Store images under other ids, with the features that their rows name."""
    segment = store.rewrite_segment(store.catalog.next_segment(), images, store.codebook)
    placed = [
        replace(image, segment=segment.number, position=position)
        for position, image in enumerate(images)
    ]
    with store.catalog.write() as db:
        insert_segment(db, segment)
        put_images(db, placed)


@stage("decode", "extract", "query")
def query(bench: Bench) -> Iterator[Result]:
    """A warm query, and its first steps by themselves."""
    with demo_index() as (images, photo):
        pixels = decode(photo)
        yield bench.time("decode", lambda: decode(photo))
        yield bench.time("extract", lambda: images.extractor.extract(pixels))
        yield bench.time(
            "query", lambda: images.query(photo, orientations="1"), note="warm, 17 photos"
        )
