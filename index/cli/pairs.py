"""``delg index pairs``: two collections against each other."""

from __future__ import annotations

from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from delg.cli.console import plural, print_json, print_result, progress, table
from delg.cli.options import AsJson
from delg.errors import UsageError
from index.cli.options import NamedModel, open_index

if TYPE_CHECKING:
    from index.collection.decisions import PairVerdict
    from index.collection.pairs import PhotoPair
    from index.image_index import ImageIndex

_TwoIds = tuple[str, str] | None


class Shown(str, Enum):
    """Which pairs are listed."""

    undecided = "undecided"
    accepted = "accepted"
    rejected = "rejected"
    all = "all"


def index_pairs(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of an index.")],
    second: Annotated[
        Path | None,
        typer.Argument(metavar="B", help="Folder of another one (default: A with itself)."),
    ] = None,
    min_similarity: Annotated[
        float, typer.Option(min=-1, max=1, help="Least similarity of the global descriptors.")
    ] = -1.0,
    max_similarity: Annotated[
        float, typer.Option(min=-1, max=1, help="Largest similarity of the global descriptors.")
    ] = 1.0,
    depth: Annotated[
        int, typer.Option(min=1, help="Most similar photos that each photo is compared with.")
    ] = 20,
    show: Annotated[
        Shown, typer.Option(help="Which pairs to list, by what was decided on them.")
    ] = Shown.undecided,
    csv: Annotated[
        Path | None, typer.Option(help="CSV file to write, a row per pair, with the decision.")
    ] = None,
    accept: Annotated[
        _TwoIds, typer.Option(metavar="ID ID", help="Accept a pair: ids in A and in B.")
    ] = None,
    reject: Annotated[
        _TwoIds, typer.Option(metavar="ID ID", help="Reject a pair: ids in A and in B.")
    ] = None,
    forget: Annotated[
        _TwoIds, typer.Option(metavar="ID ID", help="Forget what was decided on a pair.")
    ] = None,
    decisions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Remember what the column decision of an edited --csv says: accepted, rejected or "
            "nothing.",
        ),
    ] = None,
    model: NamedModel = None,
    as_json: AsJson = False,
) -> None:
    """List photos of two indexes that show the same thing, to be accepted or rejected."""
    given: dict[PairVerdict | None, _TwoIds] = {
        "accepted": accept, "rejected": reject, None: forget,
    }  # fmt: skip
    decided = [(*pair, verdict) for verdict, pair in given.items() if pair is not None]
    if csv is not None and (decided or decisions is not None):
        raise UsageError("--csv goes without --accept, --reject, --forget and --decisions")
    with ExitStack() as stack:
        images = stack.enter_context(open_index(first, model=model))
        other = images if second is None else stack.enter_context(open_index(second, model=model))
        if decisions is not None:
            from index.collection.pair_review import read_pair_decisions

            decided += read_pair_decisions(decisions)
        if decided or decisions is not None:
            images.decide_pairs(decided, other)
            print_result(f"{plural(len(decided), 'decision')} kept in {images.path}")
            return
        with progress("photos compared") as report:
            listed = images.pairs(other, min_similarity, max_similarity, depth, report)
        pairs = [pair for pair in listed if _is_shown(pair, show)]
        if csv is not None:
            _write(csv, pairs, images, other)
    if as_json:
        for pair in pairs:
            print_json(vars(pair))
        return
    table(
        ["probability", "similarity", "inliers", "decision", "A", "B"],
        [_cells(pair) for pair in pairs],
    )
    print_result(f"{plural(len(pairs), 'pair')} listed, {len(listed) - len(pairs):,} others")


def _is_shown(pair: PhotoPair, show: Shown) -> bool:
    return show is Shown.all or (pair.decision or "undecided") == show.value


def _write(path: Path, pairs: list[PhotoPair], images: ImageIndex, other: ImageIndex) -> None:
    from delg.files import write_text
    from index.collection.pair_review import pairs_csv

    known = images.known(pair.a for pair in pairs), other.known(pair.b for pair in pairs)
    write_text(path, pairs_csv(pairs, *known))


def _cells(pair: PhotoPair) -> list[str]:
    inliers = "same file" if pair.same_file else str(pair.inliers)
    numbers = [f"{pair.probability:.1%}", f"{pair.similarity:.3f}", inliers]
    return [*numbers, pair.decision or "", pair.a, pair.b]
