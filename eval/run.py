"""A run on disk: benchmark, predictions, scores, and the conditions under which it was made.

    DIR/metrics.json      every number, settings, fingerprint, versions, machine, seconds
    DIR/predictions.npz   rankings and labels, see :mod:`eval.predictions`
    DIR/benchmark.json    queries, truth, and the paths of queries and first hits
    DIR/report.html       see :mod:`eval.reports.report`
    DIR/baselines/NAME/   further runs on the same benchmark, without reports

The metrics can be recomputed from the other two files, without model and photos.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from delg.clock import utc_now
from delg.errors import DelgError, UsageError
from delg.files import make_folder, write_text
from delg.paths import is_file
from delg.plain_values import MAX_DATA_BYTES, parse_json, read_text
from eval.benchmark import (
    BenchmarkSpec,
    RecognitionTruth,
    RetrievalTruth,
    RevisitedTruth,
)
from eval.predictions import FILE as PREDICTIONS_FILE
from eval.predictions import Predictions, load_predictions, save_predictions
from eval.proof import proof_as_json
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
        title: names the system under evaluation, e.g. "delg-lite, 100 re-ranked".
        benchmark, predictions, scores: the queries with their truth, what was predicted, how well.
        paths: gallery id -> path, of the photos that a report may show.
        metadata: everything else in ``metrics.json`` (engine, settings, versions, …).
    """

    title: str
    benchmark: BenchmarkSpec
    predictions: Predictions
    scores: Scores
    paths: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What ``metrics.json`` holds."""
        return {
            "format": FORMAT,
            "title": self.title,
            "benchmark": self.benchmark.name,
            "protocol": self.benchmark.protocol,
            "metrics": self.scores.metrics,
            "intervals": self.scores.intervals,
            "proof": {p: proof_as_json(proof) for p, proof in self.scores.proof.items()},
            **self.metadata,
            "per_query": self.scores.queries,
        }


def save_run(folder: Path, run: Run) -> None:
    """Write a run's files, without its report.

    Raises:
        DelgError: they cannot be written.
    """
    make_folder(folder)
    save_predictions(folder, run.predictions)
    _write_json(folder / BENCHMARK_FILE, _benchmark_json(run))
    _write_json(folder / METRICS_FILE, run.as_json())


def load_run(folder: Path) -> Run:
    """Read what :func:`save_run` wrote.

    Raises:
        UsageError: the folder holds no run, or a damaged one.
    """
    metrics = _read_json(folder / METRICS_FILE)
    benchmark = _read_json(folder / BENCHMARK_FILE)
    own_keys = {"format", "title", "benchmark", "protocol"}
    own_keys |= {"metrics", "intervals", "proof", "per_query"}
    try:
        if metrics["format"] != FORMAT:
            raise UsageError(
                f"{folder}: a run of format {metrics['format']}; this version reads {FORMAT}"
            )
        return Run(
            title=_checked(str, metrics["title"]),
            benchmark=_spec(benchmark),
            predictions=load_predictions(folder),
            scores=_checked(
                Scores,
                {
                    "metrics": metrics["metrics"],
                    "intervals": metrics["intervals"],
                    "queries": metrics["per_query"],
                    "proof": metrics.get("proof", {}),
                },
            ),
            paths=_checked(dict[str, str], benchmark["paths"]),
            metadata={key: value for key, value in metrics.items() if key not in own_keys},
        )
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UsageError(f"{folder}: not a run, or a damaged one ({reason})") from None
    except (LookupError, TypeError) as error:
        raise UsageError(f"{folder}: not a run, or a damaged one ({error!r})") from None


def check_output(folder: Path | None, overwrite: bool) -> None:
    """Refuse a folder that holds a complete run; with ``overwrite``, remove the run.

    Args:
        folder: for a new run; None is no folder.

    Raises:
        UsageError: it holds a run, which is not to be overwritten.
        DelgError: the run cannot be removed.
    """
    if folder is None or not is_run(folder):
        return
    if not overwrite:
        raise UsageError(
            f"--out {folder}: holds a complete run; choose another folder, or give --overwrite"
        )
    try:
        for path in (folder, *baselines(folder)):
            for name in (METRICS_FILE, PREDICTIONS_FILE, BENCHMARK_FILE, REPORT_FILE):
                (path / name).unlink(missing_ok=True)
    except OSError as error:
        raise DelgError(f"{folder}: cannot be overwritten: {error.strerror}") from None


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run."""
    return all(is_file(folder / name) for name in (METRICS_FILE, PREDICTIONS_FILE))


def rescore(run: Run) -> Run:
    """The same run with its metrics recomputed from predictions and truth.

    Raises:
        UsageError: the predictions are not for the run's benchmark.
    """
    try:
        return replace(run, scores=score(run.benchmark, run.predictions))
    except ValueError as error:
        raise UsageError(
            f"{run.title}: its predictions do not fit benchmark {run.benchmark.name}: {error}"
        ) from None


def baselines(folder: Path) -> list[Path]:
    """Folders of the baselines that were evaluated along with a run."""
    return sorted(path for path in (folder / BASELINES_FOLDER).glob("*") if is_run(path))


def environment_info() -> dict[str, Any]:
    """The conditions of a run: time, command, versions, machine, state of the code."""
    return {
        "finished": utc_now(),
        "command": " ".join(["delg", *sys.argv[1:]]),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "git": git_state(),
    }


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "?"
    return versions


def git_state() -> dict[str, Any] | None:
    """Commit of the running code and whether it was changed since; None without git."""
    folder = str(Path(__file__).parent)

    def git(*arguments: str) -> str:
        command = ["git", "-C", folder, *arguments]
        process = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return process.stdout.strip()

    try:
        # A package installed inside some other project's checkout is not that project's code.
        if not git("ls-files", Path(__file__).name):
            return None
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _benchmark_json(run: Run) -> dict[str, Any]:
    benchmark = run.benchmark
    return {
        "name": benchmark.name,
        "protocol": benchmark.protocol,
        "depth": benchmark.depth,
        "recalls": benchmark.recalls,
        "queries": [{**asdict(query), "path": str(query.path)} for query in benchmark.queries],
        "truth": {query: _plain(asdict(truth)) for query, truth in benchmark.truth.items()},
        "paths": dict(run.paths),
    }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {k: sorted(v) if isinstance(v, frozenset) else v for k, v in values.items()}


def _spec(values: dict[str, Any]) -> BenchmarkSpec:
    # The protocol decides the type of the truth; it is not guessed.
    truth = _TRUTHS[values["protocol"]].validate_python(values["truth"])
    plain = {key: values[key] for key in ("name", "protocol", "depth", "recalls", "queries")}
    spec: BenchmarkSpec = _checked(BenchmarkSpec, {**plain, "truth": {}})
    return replace(spec, truth=truth)


def _checked(type_: Any, values: Any) -> Any:
    """Plain values as that type.

    Raises:
        ValidationError: they do not fit.
    """
    return TypeAdapter(type_).validate_python(values)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = parse_json(read_text(path, MAX_DATA_BYTES))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path}: must hold an object")
    return values
