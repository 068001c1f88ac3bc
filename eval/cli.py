"""``delg eval …``: measure the engine."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from delg.cli.console import progress, put, report_failures, say, table
from delg.cli.options import PARTLY, AsJson, Config, group
from delg.errors import UsageError
from delg.types import Failure
from index.cli.options import Orientations, read_config

if TYPE_CHECKING:
    from eval.benchmark import Benchmark, Question
    from eval.predictions import Predictions
    from eval.run import Run

app = group("Measure the engine, on published benchmarks or on photos of your own.")

Images = Annotated[Path, typer.Option(help="Folder of the dataset's photos.")]
OwnIndex = Annotated[
    Path | None, typer.Option("--index", help="Index of the gallery; made if it does not exist.")
]
AnyModel = Annotated[str | None, typer.Option("--model", help="A model's name or folder.")]
Rerank = Annotated[int | None, typer.Option(min=0, help="Candidates to verify; 0 is global-only.")]
Turns = Annotated[
    Orientations, typer.Option(help="auto turns the query only if nothing is verified.")
]
Distractors = Annotated[
    Path | None, typer.Option(help="Photos, or an index of photos, that are right for no query.")
]
Baseline = Annotated[
    list[str] | None,
    typer.Option(help="Also measure 'global' (no re-ranking) or 'sift'; may be repeated."),
]
Out = Annotated[
    Path | None, typer.Option(help="Folder for metrics.json, predictions and report.html.")
]
Solution = Annotated[Path, typer.Option(help="The solution CSV.")]
Submission = Annotated[Path | None, typer.Option(help="Score this CSV; the engine is not run.")]
Root = Annotated[Path | None, typer.Option(help="The dataset's folder, to run the engine on.")]
Write = Annotated[
    Path | None, typer.Option("--write", help="Write the engine's answers as a submission CSV.")
]
Partial = Annotated[
    bool, typer.Option("--partial", help="Make do with the photos that have been downloaded.")
]
Dataset = Annotated[Path, typer.Argument(metavar="DIR", help="The dataset's folder.")]


@dataclass(frozen=True)
class Common:
    """What every command takes that runs the engine on a benchmark."""

    index: OwnIndex = None
    distractors: Distractors = None
    rerank: Rerank = None
    orientations: Turns = Orientations.auto
    model: AnyModel = None
    config: Config = None
    baseline: Baseline = None
    out: Out = None
    as_json: AsJson = False


class Measure(Protocol):
    """Runs the engine on a benchmark as the options say, prints the numbers, writes the files."""

    def __call__(self, benchmark: Benchmark) -> Run: ...


def register(delg: typer.Typer) -> None:
    """Add the group to ``delg``."""
    delg.add_typer(app, name="eval")


def _engine_command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command with options of its own and those of :class:`Common`.

    The function takes ``run`` and, if it wants them, the common options as ``common``.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = [
            one
            for one in inspect.signature(function, eval_str=True).parameters.values()
            if one.name not in ("run", "common")
        ]
        shared = list(inspect.signature(Common, eval_str=True).parameters.values())
        wants_common = "common" in inspect.signature(function).parameters

        def command(**values: Any) -> None:
            common = Common(**{one.name: values.pop(one.name) for one in shared})
            failed: dict[str, str] = {}

            def run(benchmark: Benchmark) -> Run:
                found = _measure(benchmark, common)
                failed.update(found.facts["failed_queries"])
                return found

            function(run, **({"common": common} if wants_common else {}), **values)
            report_failures(Failure(query, reason) for query, reason in failed.items())
            if failed:
                raise typer.Exit(PARTLY)

        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *shared)]
        command.__doc__ = function.__doc__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        app.command(name)(command)
        return function

    return decorate


@_engine_command("revisited")
def revisited(
    run: Measure,
    gnd: Annotated[
        Path, typer.Option(help="gnd_roxford5k.pkl, or a folder of the older text files.")
    ],
    images: Images,
) -> None:
    """Revisited Oxford/Paris: mAP and mP@k, easy, medium and hard."""
    from eval.datasets.revisited import read_revisited

    run(read_revisited(gnd, images))


@_engine_command("folders")
def folders(
    run: Measure,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folders named by label.")],
    sample: Annotated[
        int | None, typer.Option(min=1, help="So many queries, drawn by chance, not all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
) -> None:
    """Photos in folders named by what they show: each a query against the others."""
    from eval.datasets.folders import read_folders

    run(read_folders(directory, sample, seed))


@_engine_command("queries")
def queries(
    run: Measure,
    gallery: Annotated[Path, typer.Option(help="Folder of the photos to search in.")],
    photos: Annotated[Path, typer.Option("--queries", help="Folder of the query photos.")],
    truth: Annotated[Path, typer.Option(help="CSV: query,relevant; a line for each right answer.")],
) -> None:
    """A benchmark of your own: two folders and a CSV; queries may have no answer."""
    from eval.datasets.queries import read_queries

    run(read_queries(gallery, photos, truth))


@_engine_command("gldv2-retrieval")
def gldv2_retrieval(
    run: Measure,
    common: Common,
    solution: Solution,
    submission: Submission = None,
    root: Root = None,
    write: Write = None,
    partial: Partial = False,
) -> None:
    """Google Landmarks v2, retrieval: mAP@100 of a submission, or of the engine."""
    from eval.datasets import gldv2

    if submission is not None:
        _one_of(root, write)
        question, predictions = gldv2.retrieval_submission(solution, submission)
        _show_scored(question, predictions, submission, common)
        return
    benchmark = gldv2.read_gldv2_retrieval(_needed(root), solution, partial)
    main = run(benchmark)
    if write is not None:
        rankings = main.predictions.rankings["all"]
        gldv2.write_retrieval_submission(write, {q: one.ids for q, one in rankings.items()})


@_engine_command("gldv2-recognition")
def gldv2_recognition(
    run: Measure,
    common: Common,
    solution: Solution,
    submission: Submission = None,
    root: Root = None,
    train_csv: Annotated[
        Path | None, typer.Option(help="train.csv or train_clean.csv: the gallery's labels.")
    ] = None,
    write: Write = None,
    partial: Partial = False,
) -> None:
    """Google Landmarks v2, recognition: GAP of a submission, or of the engine."""
    from eval.datasets import gldv2

    if submission is not None:
        _one_of(root, write)
        question, predictions = gldv2.recognition_submission(solution, submission)
        _show_scored(question, predictions, submission, common)
        return
    if train_csv is None:
        raise UsageError("the engine needs --train-csv, the labels of the gallery")
    benchmark = gldv2.read_gldv2_recognition(_needed(root), solution, train_csv, partial)
    main = run(benchmark)
    if write is not None:
        answers = {query.id: main.predictions.labels.get(query.id) for query in benchmark.queries}
        gldv2.write_recognition_submission(write, answers)


@_engine_command("met")
def met(
    run: Measure,
    directory: Dataset,
    split: Annotated[str, typer.Option(help="test or val.")] = "test",
    mini: Annotated[bool, typer.Option("--mini", help="The smaller database.")] = False,
) -> None:
    """The Met's artworks: GAP, GAP- and accuracy."""
    from eval.datasets.met import read_met

    run(read_met(directory, split, mini))


@_engine_command("sop")
def sop(
    run: Measure,
    directory: Dataset,
) -> None:
    """Stanford Online Products: recall@1, 10, 100 and 1000."""
    from eval.datasets.sop import read_sop

    run(read_sop(directory))


@_engine_command("instre")
def instre(
    run: Measure,
    gnd: Annotated[Path, typer.Option(help="gnd_instre.mat, or the same as a pickle.")],
    images: Images,
) -> None:
    """INSTRE, objects in clutter: mAP."""
    from eval.datasets.instre import read_instre

    run(read_instre(gnd, images))


@app.command("rescore")
def rescore(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="A run's folder.")],
    as_json: AsJson = False,
) -> None:
    """Compute a run's metrics and report again, from its predictions."""
    from eval.run import baselines, load_run, save_run
    from eval.run import rescore as score_again

    places = [run, *baselines(run)]
    again = [score_again(load_run(place)) for place in places]
    for place, one in zip(places, again, strict=True):
        save_run(place, one)
    _write_report(run, again)
    _show(again, as_json)


@app.command("compare")
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders of runs.")],
    html: Annotated[Path | None, typer.Option(help="Page to write, with pictures.")] = None,
    as_json: AsJson = False,
) -> None:
    """Runs side by side: what differs, which is better, on which queries."""
    from eval.reports.compare import compare as compare_runs
    from eval.reports.compare import comparison_json, print_comparison, write_comparison
    from eval.run import load_run

    if len(runs) < 2:
        raise UsageError("compare needs two runs or more")
    found = compare_runs([load_run(run) for run in runs])
    if html is not None:
        write_comparison(html, found)
        say(f"page written: {html}")
    if as_json:
        put(json.dumps(comparison_json(found)))
    else:
        print_comparison(found)


def _needed(root: Path | None) -> Path:
    if root is None:
        raise UsageError("give --submission to score a CSV, or --root to run the engine")
    return root


def _one_of(*others: Path | None) -> None:
    if any(other is not None for other in others):
        raise UsageError("--submission scores a CSV; --root and --write belong to the engine")


def _measure(benchmark: Benchmark, common: Common) -> Run:
    overrides = read_config(common.config)
    from eval.evaluate import Plan, measure
    from eval.run import save_run

    out = common.out
    plan = Plan(
        model=common.model,
        overrides=overrides,
        index=common.index,
        rerank=common.rerank,
        orientations=common.orientations.value,
        distractors=common.distractors,
        baselines=tuple(common.baseline or ()),
        out=out,
    )
    with measure(benchmark, plan, progress) as measured:
        runs = [one.run for one in measured]
        if out is not None:
            from eval.reports.match_drawings import pictures

            for one in measured:
                save_run(out / one.place, one.run)
            _write_report(out, runs, pictures(benchmark, measured[0]))
    _show(runs, common.as_json)
    return runs[0]


def _show_scored(question: Question, predictions: Predictions, title: Path, common: Common) -> None:
    from eval.run import Run, circumstances, save_run
    from eval.scoring import score

    scores = score(question, predictions)
    run = Run(str(title), question, predictions, scores, facts=circumstances())
    if common.out is not None:
        save_run(common.out, run)
        _write_report(common.out, [run])
    _show([run], common.as_json)


def _write_report(out: Path, runs: list[Run], matches: Any = ()) -> None:
    from eval.reports.report import write_report
    from eval.run import REPORT_FILE

    write_report(out / REPORT_FILE, runs, matches)
    say(f"report written: {out / REPORT_FILE}")


def _show(runs: list[Run], as_json: bool) -> None:
    if as_json:
        for run in runs:
            put(json.dumps(run.as_json()))
        return
    put(f"{runs[0].question.name}, {len(runs[0].question.queries):,} queries")
    names = list(dict.fromkeys(n for r in runs for m in r.scores.metrics.values() for n in m))
    rows = []
    for run in runs:
        for part, values in run.scores.metrics.items():
            cells = [_cell(run, part, name) if name in values else "" for name in names]
            rows.append([run.title, part, *cells])
    table(["", "", *names], rows)
    put(
        "in brackets: 95 % intervals over queries (bootstrap)"
        if rows
        else "no query has a right answer, so there is nothing to score"
    )


def _cell(run: Run, part: str, name: str) -> str:
    low, high = run.scores.intervals[part][name]
    return f"{run.scores.metrics[part][name]:.3f} [{low:.2f}–{high:.2f}]"


@app.command("speed")
def eval_speed(
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Run the published way too, in turns with ours.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Smaller sizes and fewer runs: under two minutes.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="Measure this row only; may be repeated.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each stage.")] = 9,
    serve: Annotated[bool, typer.Option("--serve", help="Measure a running server too.")] = False,
    html: Annotated[Path | None, typer.Option(help="Page to write, with charts of growth.")] = None,
    as_json: AsJson = False,
) -> None:
    """How long each stage takes on this machine, beside the published way."""
    from eval.speed.harness import measure
    from eval.speed.report import COLUMNS, cells, machine_line, write_page

    extras = ("serve",) if serve else ()
    found = measure(
        baseline, quick, only or (), runs, extras, lambda row: say("  ".join(cells(row)))
    )
    if html is not None:
        write_page(html, found)
        say(f"page written: {html}")
    if as_json:
        put(json.dumps(found.as_json()))
        return
    put(machine_line(found.machine))
    table(COLUMNS, [cells(row) for row in found.rows])
