"""A run on disk: what was asked, what was answered, how good it was, under which conditions.

    DIR/metrics.json      every number, settings, fingerprint, versions, machine, seconds
    DIR/predictions.npz   the answers, see :mod:`eval.predictions`
    DIR/benchmark.json    queries, truth, and where the photos of queries and first hits lie
    DIR/report.html       see :mod:`eval.reports.report`
    DIR/baselines/NAME/   further runs on the same benchmark, but for reports

The metrics can be computed again from the other two files, without model and photos.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from delg.errors import DelgError, UsageError
from delg.files import write_text
from eval.benchmark import (
    Question,
    RecognitionTruth,
    RetrievalTruth,
    RevisitedTruth,
)
from eval.predictions import FILE as PREDICTIONS_FILE
from eval.predictions import Predictions, load_predictions, save_predictions
from eval.scoring import Scores, score

METRICS_FILE, BENCHMARK_FILE, REPORT_FILE = "metrics.json", "benchmark.json", "report.html"
BASELINES_FOLDER = "baselines"
FORMAT = 1
_TRUTHS: dict[str, TypeAdapter[Any]] = {
    "revisited": TypeAdapter(dict[str, RevisitedTruth]),
    "retrieval": TypeAdapter(dict[str, RetrievalTruth]),
    "recognition": TypeAdapter(dict[str, RecognitionTruth]),
}
_PACKAGES = ("delg-retrieval", "tensorflow", "faiss-cpu", "numpy", "opencv-python-headless")


@dataclass(frozen=True)
class Run:
    """One evaluation.

    Attributes:
        title: of the system that was measured, e.g. "delg-lite, re-ranked 100".
        question, predictions, scores: what was asked, answered, and how good it was.
        paths: gallery id -> path, of the photos that a report may show.
        facts: everything else that ``metrics.json`` records (engine, settings, versions, …).
    """

    title: str
    question: Question
    predictions: Predictions
    scores: Scores
    paths: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What ``metrics.json`` holds."""
        return {
            "format": FORMAT,
            "title": self.title,
            "benchmark": self.question.name,
            "protocol": self.question.protocol,
            "metrics": self.scores.metrics,
            "intervals": self.scores.intervals,
            **self.facts,
            "per_query": self.scores.queries,
        }


def save_run(folder: Path, run: Run) -> None:
    """Write a run's files but for its report.

    Raises:
        DelgError: they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DelgError(f"{folder}: cannot be made: {error.strerror}") from None
    save_predictions(folder, run.predictions)
    _write_json(folder / BENCHMARK_FILE, _benchmark_json(run))
    _write_json(folder / METRICS_FILE, run.as_json())


def load_run(folder: Path) -> Run:
    """Read a run as it was written.

    Raises:
        UsageError: the folder holds no run, or a damaged one.
    """
    numbers = _read_json(folder / METRICS_FILE)
    asked = _read_json(folder / BENCHMARK_FILE)
    known = {"format", "title", "benchmark", "protocol", "metrics", "intervals", "per_query"}
    try:
        if numbers["format"] != FORMAT:
            raise UsageError(
                f"{folder}: a run of format {numbers['format']}; this version reads {FORMAT}"
            )
        return Run(
            title=_checked(str, numbers["title"]),
            question=_question(asked),
            predictions=load_predictions(folder),
            scores=_checked(
                Scores,
                {
                    "metrics": numbers["metrics"],
                    "intervals": numbers["intervals"],
                    "queries": numbers["per_query"],
                },
            ),
            paths=_checked(dict[str, str], asked["paths"]),
            facts={key: value for key, value in numbers.items() if key not in known},
        )
    except ValidationError as error:
        first = error.errors()[0]
        said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UsageError(f"{folder}: not a run, or a damaged one ({said})") from None
    except (LookupError, TypeError) as error:
        raise UsageError(f"{folder}: not a run, or a damaged one ({error!r})") from None


def is_run(folder: Path) -> bool:
    """Whether a run lies there."""
    return all((folder / name).is_file() for name in (METRICS_FILE, PREDICTIONS_FILE))


def rescore(run: Run) -> Run:
    """The same run with its metrics computed anew from predictions and truth.

    Raises:
        UsageError: they do not belong together.
    """
    try:
        return replace(run, scores=score(run.question, run.predictions))
    except ValueError as error:
        raise UsageError(
            f"{run.title}: its answers do not fit benchmark {run.question.name}: {error}"
        ) from None


def baselines(folder: Path) -> list[Path]:
    """Folders of the baselines that were measured along with a run."""
    return sorted(place for place in (folder / BASELINES_FOLDER).glob("*") if is_run(place))


def circumstances() -> dict[str, Any]:
    """Under which conditions a run was made: versions, machine, code, command, time."""
    return {
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(["delg", *sys.argv[1:]]),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "git": git_state(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "?"
    return found


def git_state() -> dict[str, Any] | None:
    """Commit of the code in use and whether it was changed since; None where there is no git."""
    home = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(home), *words], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        # A package installed inside some other project's checkout is not that project's code.
        if not git("ls-files", Path(__file__).name):
            return None
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _benchmark_json(run: Run) -> dict[str, Any]:
    question = run.question
    return {
        "name": question.name,
        "protocol": question.protocol,
        "depth": question.depth,
        "recalls": question.recalls,
        "queries": [{**asdict(query), "path": str(query.path)} for query in question.queries],
        "truth": {query: _plain(asdict(truth)) for query, truth in question.truth.items()},
        "paths": dict(run.paths),
    }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {k: sorted(v) if isinstance(v, frozenset) else v for k, v in values.items()}


def _question(asked: dict[str, Any]) -> Question:
    # The kind of truth is known by the protocol, and not to be guessed.
    truth = _TRUTHS[asked["protocol"]].validate_python(asked["truth"])
    plain = {key: asked[key] for key in ("name", "protocol", "depth", "recalls", "queries")}
    question: Question = _checked(Question, {**plain, "truth": {}})
    return replace(question, truth=truth)


def _checked(kind: Any, values: Any) -> Any:
    """Plain values as that kind.

    Raises:
        ValidationError: they do not fit.
    """
    return TypeAdapter(kind).validate_python(values)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path}: must hold an object")
    return values
