"""Tiny benchmarks of photos of dots (see ``dots.py``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from dots import Dots, dots

from delg.images.scan import Photo
from eval.benchmark import (
    Benchmark,
    QueryPhoto,
    RecognitionTruth,
    RetrievalTruth,
    RevisitedTruth,
)

SIZE = (200, 160)
# The photos of a thing are its dots, moved.
MOVES = {
    "a": np.eye(3),
    "b": np.array([[0.9, -0.2, 30], [0.2, 0.9, 10], [0, 0, 1]]),
    "c": np.array([[1, 0.1, 20], [-0.1, 1, 25], [0, 0, 1]]),
}


def photo(folder: Path, name: str, content: Dots) -> Photo:
    """Write a photo; its id is its name."""
    return Photo(name, content.save(folder / name))


def thing(number: int, move: str = "a", keep: int = 40) -> Dots:
    """A thing as one of its photos shows it, perhaps only a part."""
    source = dots(number)
    return Dots(source.points[:keep], source.colours[:keep]).moved(MOVES[move], SIZE)


def gallery(folder: Path, things: int = 3) -> tuple[Photo, ...]:
    """Three photos of each thing: ``0/a.png`` … ``2/c.png``."""
    return tuple(
        photo(folder, f"{number}/{move}.png", thing(number, move))
        for number in range(things)
        for move in MOVES
    )


def folders(folder: Path, things: int = 3) -> Benchmark:
    """Each photo a query against the others."""
    photos = gallery(folder, things)
    labels = {image.id: image.id[0] for image in photos}
    return Benchmark(
        name="things",
        protocol="retrieval",
        gallery=photos,
        queries=tuple(QueryPhoto(image.id, image.path, gallery_id=image.id) for image in photos),
        truth={
            image.id: RetrievalTruth(
                frozenset(x for x in labels if labels[x] == labels[image.id] and x != image.id)
            )
            for image in photos
        },
        labels=labels,
    )


def recognition(folder: Path) -> Benchmark:
    """Three known things, each asked for once, and a query that shows another."""
    photos = gallery(folder / "gallery")
    query_photos = [
        photo(folder / "queries", f"q{number}.png", thing(number, "c")) for number in range(3)
    ]
    query_photos.append(photo(folder / "queries", "other.png", thing(77)))
    return Benchmark(
        name="names",
        protocol="recognition",
        gallery=photos,
        queries=tuple(QueryPhoto(image.id, image.path) for image in query_photos),
        truth={
            **{f"q{number}.png": RecognitionTruth(frozenset(str(number))) for number in range(3)},
            "other.png": RecognitionTruth(frozenset()),
        },
        labels={image.id: image.id[0] for image in photos},
    )


def revisited(folder: Path) -> Benchmark:
    """One query, "q": a copy is junk, most of it is easy, part of it hard, two others distract."""
    shown = {
        "junk.png": thing(0),
        "easy.png": thing(0, "a", 34),
        "hard.png": thing(0, "a", 26),
        "x.png": thing(1),
        "y.png": thing(2),
    }
    photos = tuple(photo(folder / "gallery", name, content) for name, content in shown.items())
    query_photos = photo(folder / "queries", "q.png", thing(0))
    return Benchmark(
        name="revisited things",
        protocol="revisited",
        gallery=photos,
        queries=(QueryPhoto("q", query_photos.path),),
        truth={
            "q": RevisitedTruth(
                frozenset({"easy.png"}), frozenset({"hard.png"}), frozenset({"junk.png"})
            )
        },
        depth=None,
    )
