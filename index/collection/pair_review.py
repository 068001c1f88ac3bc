"""Pairs of photos under review, as a table that people edit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from delg.errors import UsageError
from index.answers.answer_table import Row, as_csv, escape, read_table
from index.collection.decisions import PAIR_VERDICTS, PairVerdict
from index.collection.pairs import PhotoPair
from index.storage.catalog_tables import ImageRow

COLUMNS = (
    "a", "b", "decision", "similarity", "probability", "inliers", "same_file", "a_label", "b_label",
    "a_path", "b_path",
)  # fmt: skip
Images = Mapping[str, ImageRow]


def pairs_csv(pairs: Iterable[PhotoPair], first: Images, second: Images) -> str:
    """A row per pair.

    Args:
        first, second: by id, the photos of both collections that are in pairs.
    """
    return as_csv(COLUMNS, _rows(pairs, first, second))


def _rows(pairs: Iterable[PhotoPair], first: Images, second: Images) -> Iterator[Row]:
    for pair in pairs:
        a, b = first[pair.a], second[pair.b]
        yield {
            "a": escape(pair.a),
            "b": escape(pair.b),
            "decision": pair.decision or "",
            "similarity": f"{pair.similarity:.6f}",
            "probability": f"{pair.probability:.6f}",
            "inliers": str(pair.inliers),
            "same_file": "yes" if pair.same_file else "no",
            "a_label": escape(a.label or ""),
            "b_label": escape(b.label or ""),
            "a_path": escape(a.path),
            "b_path": escape(b.path),
        }


def read_pair_decisions(path: Path) -> Iterator[tuple[str, str, PairVerdict | None]]:
    """Ids of each pair of a table of :func:`pairs_csv`, and what was decided on it.

    Raises:
        UsageError: it cannot be read, or has an unknown decision.
    """
    verdicts = {str(verdict): verdict for verdict in PAIR_VERDICTS}
    for line, row in read_table(path, ("a", "b", "decision")):
        decision = row["decision"].strip().lower()
        if decision and decision not in verdicts:
            raise UsageError(f"{path}, line {line}: {decision!r} is not accepted or rejected")
        yield row["a"], row["b"], verdicts.get(decision)
