"""Framed pictures: what ``verified`` is worth where pictures differ and their surroundings do not.

Each set of five pictures hangs in equal frames, mounts, screens, pages or shelves. Four are in the
gallery; three of these and the fifth, for which nothing is right, are photographed as by hand, and
one of the four in other surroundings. What is left over is in the gallery, and photographed, as it
is. The models' calibrations are learnt from composites of the same kinds of surroundings
(:mod:`index.calibrate.composites`), drawn otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from delg.errors import DelgError, UsageError
from delg.files import make_folder, write_text
from delg.settings import ImageSettings
from eval.benchmark import Benchmark
from eval.datasets.queries import read_queries
from index.answers.marks import truth_csv
from index.calibrate.composite_files import save_composite
from index.calibrate.composites import SET, TEXTURES, make_composites
from index.calibrate.surroundings import KINDS
from index.learn.training_photos import decode_readable, spread_photos

GALLERY, QUERIES, TRUTH = "gallery", "queries", "truth.csv"
# Photos of each source beyond those that the sets take, at most: they get no surroundings.
_BARE = 30


def make_framed(
    pictures: Sequence[Path], textures: Path, folder: Path, sets: int, seed: int
) -> Benchmark:
    """Make the photos and their truth, and read them as :func:`read_queries` does.

    Args:
        pictures: folders of photos of different things.
        textures: a folder of other photos, which lend textures and backgrounds.
        folder: to make, with ``gallery/``, ``queries/`` and ``truth.csv``.
        sets: of five pictures, for each kind of surroundings.
        seed: of all that is drawn by chance; the same gives the same.

    Raises:
        UsageError: the folder holds something, a source does not exist, or photos are too few.
        DelgError: the folder cannot be written.
    """
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder}: is not empty; name another folder")
    except OSError as error:
        raise DelgError(f"{folder}: cannot be read: {error.strerror or error}") from None
    limits, needed = ImageSettings(), SET * sets * len(KINDS)
    photos = list(decode_readable(spread_photos(pictures, needed + _BARE), limits))
    others = list(decode_readable(spread_photos([textures], TEXTURES), limits))
    if len(photos) < needed or not others:
        raise UsageError(
            f"there are {len(photos)} pictures and {len(others)} photos for textures that can be "
            f"read; --sets {sets} takes {needed} pictures, and textures at least one photo"
        )
    for name in (GALLERY, QUERIES):
        make_folder(folder / name)
    relevant: dict[int, str] = {}
    queries: dict[str, int] = {}
    for number, composite in enumerate(make_composites(photos, sets, seed, others)):
        name = f"{number:04d}.jpg"
        if composite.in_gallery:
            relevant[composite.picture] = name
        else:
            queries[name] = composite.picture
        save_composite(composite, folder / (GALLERY if composite.in_gallery else QUERIES) / name)
    pairs = ((name, relevant.get(picture, "")) for name, picture in queries.items())
    write_text(folder / TRUTH, truth_csv(pairs))
    return read_queries(folder / GALLERY, folder / QUERIES, folder / TRUTH)
