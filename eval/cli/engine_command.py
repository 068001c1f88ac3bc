"""Commands that run the engine on a benchmark: their common options, and what they print."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from delg.cli.console import progress, report_failures
from delg.cli.options import PARTLY, AsJson, Config
from eval.cli.output import print_runs, write_report_of
from index.cli.options import Orientations, read_config

if TYPE_CHECKING:
    from eval.benchmark import Benchmark, BenchmarkSpec
    from eval.predictions import Predictions
    from eval.run import Run

Index = Annotated[
    Path | None, typer.Option("--index", help="Index of the gallery; created if missing.")
]
Model = Annotated[str | None, typer.Option("--model", help="A model's name or folder.")]
Rerank = Annotated[int | None, typer.Option(min=0, help="Candidates to verify; 0 is global-only.")]
OrientationsOption = Annotated[
    Orientations, typer.Option(help="auto rotates the query only if nothing is verified.")
]
Distractors = Annotated[
    Path | None, typer.Option(help="Photos, or an index of photos, that match no query.")
]
Baseline = Annotated[
    list[str] | None,
    typer.Option(help="Also evaluate 'global' (no re-ranking) or 'sift'; may be repeated."),
]
Out = Annotated[
    Path | None, typer.Option(help="Folder for metrics.json, predictions and report.html.")
]

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace a complete run in the folder of --out.")
]


@dataclass(frozen=True)
class CommonOptions:
    """Options of every command that runs the engine on a benchmark."""

    index: Index = None
    distractors: Distractors = None
    rerank: Rerank = None
    orientations: OrientationsOption = Orientations.auto
    model: Model = None
    config: Config = None
    baseline: Baseline = None
    out: Out = None
    overwrite: Overwrite = False
    as_json: AsJson = False


class Evaluate(Protocol):
    """Runs the engine on a benchmark as the options say, prints the numbers, writes the files."""

    def __call__(self, benchmark: Benchmark) -> Run: ...


def engine_command(function: Callable[..., None]) -> Callable[..., None]:
    """A command with the function's own options and those of :class:`CommonOptions`.

    Args:
        function: takes ``evaluate`` and, if it wants them, the common options as ``common``; its
            other parameters become options.
    """
    parameters = inspect.signature(function, eval_str=True).parameters
    own = [p for p in parameters.values() if p.name not in ("evaluate", "common")]
    shared = list(inspect.signature(CommonOptions, eval_str=True).parameters.values())

    def command(**values: Any) -> None:
        common = CommonOptions(**{p.name: values.pop(p.name) for p in shared})
        from eval.run import check_output

        check_output(common.out, common.overwrite)
        failed: dict[str, str] = {}

        def evaluate(benchmark: Benchmark) -> Run:
            run = _evaluate(benchmark, common)
            failed.update(run.metadata["failed_gallery"])
            failed.update(run.metadata["failed_queries"])
            return run

        if "common" in parameters:
            values["common"] = common
        function(evaluate, **values)
        from delg.types import Failure

        report_failures(Failure(query, reason) for query, reason in failed.items())
        if failed:
            raise typer.Exit(PARTLY)

    options = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *shared)]
    command.__doc__ = function.__doc__
    command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in options}
    return command


def _evaluate(benchmark: Benchmark, common: CommonOptions) -> Run:
    overrides = read_config(common.config)
    from eval.evaluate import EvalConfig, evaluate
    from eval.run import save_run

    out = common.out
    config = EvalConfig(
        model=common.model,
        overrides=overrides,
        index=common.index,
        rerank=common.rerank,
        orientations=common.orientations.value,
        distractors=common.distractors,
        baselines=tuple(common.baseline or ()),
        out=out,
    )
    with evaluate(benchmark, config, progress) as results:
        runs = [result.run for result in results]
        if out is not None:
            from eval.reports.match_drawings import draw_best_and_worst

            write_report_of(out, runs, draw_best_and_worst(benchmark, results[0]))
            # The main run makes the folder complete.
            for result in reversed(results):
                save_run(out / result.subfolder, result.run)
    print_runs(runs, common.as_json)
    return runs[0]


def print_scored(
    benchmark: BenchmarkSpec, predictions: Predictions, source: Path, common: CommonOptions
) -> None:
    """Score predictions from a file, print the numbers, write the run if ``--out`` is given."""
    from eval.run import Run, environment_info, save_run
    from eval.scoring import score

    scores = score(benchmark, predictions)
    run = Run(str(source), benchmark, predictions, scores, metadata=environment_info())
    if common.out is not None:
        save_run(common.out, run)
        write_report_of(common.out, [run])
    print_runs([run], common.as_json)
