"""``delg eval revisited`` and the other benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from delg.errors import UsageError
from delg.remote_path import as_location
from eval.cli.engine_command import CommonOptions, Evaluate, engine_command, print_scored

if TYPE_CHECKING:
    from collections.abc import Callable

Images = Annotated[Path, typer.Option(help="Folder of the dataset's photos.")]
Solution = Annotated[Path, typer.Option(help="The solution CSV.")]
Submission = Annotated[Path | None, typer.Option(help="Score this CSV; the engine does not run.")]
Root = Annotated[Path | None, typer.Option(help="The dataset's folder, to run the engine on.")]
Write = Annotated[
    Path | None, typer.Option("--write", help="Write the engine's predictions as a submission CSV.")
]
Partial = Annotated[
    bool, typer.Option("--partial", help="Use only the photos that have been downloaded.")
]
Dataset = Annotated[Path, typer.Argument(metavar="DIR", help="The dataset's folder.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands to ``delg eval``."""
    commands: dict[str, Callable[..., None]] = {
        "revisited": revisited,
        "folders": folders,
        "queries": queries,
        "framed": framed,
        "gldv2-retrieval": gldv2_retrieval,
        "gldv2-recognition": gldv2_recognition,
        "met": met,
        "sop": sop,
        "instre": instre,
    }
    for name, function in commands.items():
        app.command(name)(engine_command(function))


def revisited(
    evaluate: Evaluate,
    gnd: Annotated[
        Path, typer.Option(help="gnd_roxford5k.pkl, or a folder of the older text files.")
    ],
    images: Images,
) -> None:
    """Revisited Oxford/Paris: mAP and mP@k, easy, medium and hard."""
    from eval.datasets.revisited import read_revisited

    evaluate(read_revisited(gnd, images))


def folders(
    evaluate: Evaluate,
    directory: Annotated[
        Any,
        typer.Argument(
            metavar="DIR", parser=as_location, help="Folder or URL of folders named by label."
        ),
    ],
    sample: Annotated[
        int | None, typer.Option(min=1, help="Evaluate a random sample of N queries.", metavar="N")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random sample.")] = 0,
) -> None:
    """Photos in folders named by label: each is a query against all others."""
    from eval.datasets.folders import read_folders

    evaluate(read_folders(directory, sample, seed))


def queries(
    evaluate: Evaluate,
    gallery: Annotated[
        Any, typer.Option(parser=as_location, help="Folder or URL of the photos to search in.")
    ],
    photos: Annotated[
        Any,
        typer.Option("--queries", parser=as_location, help="Folder or URL of the query photos."),
    ],
    truth: Annotated[
        Path, typer.Option(help="CSV with columns query,relevant; one line per relevant photo.")
    ],
) -> None:
    """A benchmark of your own: two folders and a CSV; queries may match nothing."""
    from eval.datasets.queries import read_queries

    evaluate(read_queries(gallery, photos, truth))


def framed(
    evaluate: Evaluate,
    pictures: Annotated[
        list[Path], typer.Argument(metavar="DIR", help="Folders of photos of different things.")
    ],
    textures: Annotated[
        Path, typer.Option(help="Folder of other photos, which lend textures and backgrounds.")
    ],
    into: Annotated[Path, typer.Option(help="Folder to make the photos and truth.csv in.")],
    sets: Annotated[
        int, typer.Option(min=1, help="Sets of five pictures for each kind of surroundings.")
    ] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all that is drawn by chance.")] = 1,
) -> None:
    """Different pictures in equal frames, pages and shelves: made of your photos, and measured."""
    from eval.datasets.framed import make_framed

    evaluate(make_framed(pictures, textures, into, sets, seed))


def gldv2_retrieval(
    evaluate: Evaluate,
    common: CommonOptions,
    solution: Solution,
    submission: Submission = None,
    root: Root = None,
    write: Write = None,
    partial: Partial = False,
) -> None:
    """Google Landmarks v2, retrieval: mAP@100 of a submission, or of the engine."""
    from eval.datasets import gldv2

    if submission is not None:
        _reject_engine_options(root, write)
        spec, predictions = gldv2.retrieval_submission(solution, submission)
        print_scored(spec, predictions, submission, common)
        return
    benchmark = gldv2.read_gldv2_retrieval(_require_root(root), solution, partial)
    main = evaluate(benchmark)
    if write is not None:
        rankings = main.predictions.rankings["all"]
        gldv2.write_retrieval_submission(write, {q: ranking.ids for q, ranking in rankings.items()})


def gldv2_recognition(
    evaluate: Evaluate,
    common: CommonOptions,
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
        _reject_engine_options(root, write)
        spec, predictions = gldv2.recognition_submission(solution, submission)
        print_scored(spec, predictions, submission, common)
        return
    if train_csv is None:
        raise UsageError("the engine needs --train-csv, the labels of the gallery")
    benchmark = gldv2.read_gldv2_recognition(_require_root(root), solution, train_csv, partial)
    main = evaluate(benchmark)
    if write is not None:
        labels = {query.id: main.predictions.labels.get(query.id) for query in benchmark.queries}
        gldv2.write_recognition_submission(write, labels)


def met(
    evaluate: Evaluate,
    directory: Dataset,
    split: Annotated[str, typer.Option(help="test or val.")] = "test",
    mini: Annotated[bool, typer.Option("--mini", help="The smaller database.")] = False,
) -> None:
    """The Met's artworks: GAP, GAP- and accuracy."""
    from eval.datasets.met import read_met

    evaluate(read_met(directory, split, mini))


def sop(evaluate: Evaluate, directory: Dataset) -> None:
    """Stanford Online Products: recall@1, 10, 100 and 1000."""
    from eval.datasets.sop import read_sop

    evaluate(read_sop(directory))


def instre(
    evaluate: Evaluate,
    gnd: Annotated[Path, typer.Option(help="gnd_instre.mat, or the same as a pickle.")],
    images: Images,
) -> None:
    """INSTRE, objects in clutter: mAP."""
    from eval.datasets.instre import read_instre

    evaluate(read_instre(gnd, images))


def _require_root(root: Path | None) -> Path:
    if root is None:
        raise UsageError("give --submission to score a CSV, or --root to run the engine")
    return root


def _reject_engine_options(*options: Path | None) -> None:
    if any(option is not None for option in options):
        raise UsageError("--submission scores a CSV; --root and --write belong to the engine")
