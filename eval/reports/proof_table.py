"""Proof in words: the cells of tables on pages and in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.benchmark import ALL_QUERIES
from eval.proof import FIRST_HITS, Proof
from eval.reports.run_metadata import ABSENT
from eval.run import Run

COLUMNS = (
    "verified hits that are right",
    "queries with a right verified hit",
    "relevant hits that are verified",
    "queries without an answer, with a verified hit",
    "calibration error",
)
NOTE = (
    f"Of the first {FIRST_HITS} hits of each query. Calibration error: the mean distance between "
    "the stated probability and the share that is right, over all hits with evidence."
)


@dataclass(frozen=True)
class ProofTable:
    """For each part a row of cells per run."""

    columns: tuple[str, ...]
    note: str
    parts: list[tuple[str, list[tuple[str, ...]]]]


def proof_table(runs: Sequence[Run]) -> ProofTable | None:
    """The proof of all runs; None where none has any."""
    parts = [
        (part, [proof_cells(run.scores.proof.get(part)) for run in runs])
        for part in proof_parts(runs)
    ]
    return ProofTable(COLUMNS, NOTE, parts) if parts else None


def proof_parts(runs: Sequence[Run]) -> list[str]:
    """All parts in which any run has proof."""
    return list(dict.fromkeys(part for run in runs for part in run.scores.proof))


def proof_cells(proof: Proof | None) -> tuple[str, ...]:
    """One cell per column."""
    if proof is None:
        return (ABSENT,) * len(COLUMNS)
    calibration = proof.calibration
    error = (
        ABSENT
        if calibration is None
        else f"{calibration.expected_calibration_error:.3f} ({calibration.pairs:,} hits)"
    )
    return (
        _share(proof.right, proof.hits),
        _share(proof.proven, proof.queries),
        _share(proof.right, proof.relevant_hits),
        _share(proof.refuted, proof.unanswerable),
        error,
    )


def _share(part: int, total: int) -> str:
    return f"{part / total:.1%} ({part:,} of {total:,})" if total else ABSENT


def proof_summary(run: Run) -> str | None:
    """The proof of a run in one line: of all its queries, or of its hardest part; None without."""
    parts = proof_parts([run])
    if not parts:
        return None
    part = ALL_QUERIES if ALL_QUERIES in parts else parts[-1]
    cells = zip(COLUMNS, proof_cells(run.scores.proof[part]), strict=True)
    words = "; ".join(f"{name} {cell}" for name, cell in cells if cell != ABSENT)
    of_part = "" if part == ALL_QUERIES else f", {part}"
    return f"{run.title}{of_part}, first {FIRST_HITS} hits: {words or 'none is verified'}"
