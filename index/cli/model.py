"""What an index needs of a model beyond its weights: codebook, vocabulary, calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from delg.cli.console import print_result, progress
from delg.errors import UsageError

MixedPhotos = Annotated[
    list[Path],
    typer.Option(help="Photos, or folders of them, of all kinds of things; repeatable."),
]
Instances = Annotated[
    list[Path] | None,
    typer.Option(help="Folder with a folder per label, each with photos of one thing; repeatable."),
]


def _refuse_to_replace(path: Path) -> None:
    if path.exists():
        raise UsageError(f"{path}: exists; delete it first, or choose another place with --out")


def model_codebook(
    model: Annotated[str, typer.Argument(help="A model's name or folder.")],
    photos: Annotated[
        list[Path], typer.Option(help="Photos, or folders of them, to learn from; repeatable.")
    ],
    weights: Annotated[Path | None, typer.Option(help="Another weight file for it.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write (default: codebook.h5 beside the weights).")
    ] = None,
) -> None:
    """Learn how indexes store a model's local features in few bytes, from some hundred photos."""
    from delg.zoo.registry import find_model, load_model
    from index.learn.codebook import learn_codebook
    from index.storage.codebook import codebook_digest, write_codebook

    path = out or find_model(model, weights).codebook
    _refuse_to_replace(path)
    extractor = load_model(model, weights)
    with progress("photos") as report:
        codebook = learn_codebook(extractor, photos, report)
    write_codebook(path, codebook)
    print_result(f"codebook {codebook_digest(codebook)} of {extractor.name} in {path}")


def model_vocabulary(
    model: Annotated[str, typer.Argument(help="A model's name or folder.")],
    photos: Annotated[
        list[Path], typer.Option(help="Photos, or folders of them, to learn from; repeatable.")
    ],
    weights: Annotated[Path | None, typer.Option(help="Another weight file for it.")] = None,
    words: Annotated[int, typer.Option(min=16, max=65_536, help="Number of visual words.")] = 4096,
    out: Annotated[
        Path | None, typer.Option(help="File to write (default: vocabulary.h5 beside the weights).")
    ] = None,
) -> None:
    """Learn a model's visual words, by which indexes find what its global descriptor misses."""
    from delg.zoo.registry import find_model, load_model
    from index.learn.vocabulary import learn_vocabulary
    from index.storage.codebook import read_codebook
    from index.storage.vocabulary import write_vocabulary

    files = find_model(model, weights)
    path = out or files.vocabulary
    _refuse_to_replace(path)
    extractor = load_model(model, weights)
    codebook = None
    if files.codebook.exists():
        codebook = read_codebook(files.codebook, extractor.local_dim)
    with progress("photos") as report:
        vocabulary = learn_vocabulary(extractor, photos, codebook, words, report)
    write_vocabulary(path, vocabulary)
    print_result(
        f"vocabulary {vocabulary.digest} of {extractor.name}, {words:,} words, in {path} "
        f"({path.stat().st_size / 1e6:.1f} MB)"
    )


def model_aggregate(
    model: Annotated[str, typer.Argument(help="A model's name or folder.")],
    photos: MixedPhotos,
    instances: Instances = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write (default: aggregate.h5 beside the model's settings)."),
    ] = None,
) -> None:
    """Learn the part that local features have in a model's global descriptor.

    The model's settings need a section aggregate. Calibrate it afterwards (delg model calibrate).
    """
    from delg.zoo.registry import find_model
    from index.learn.aggregate import learn_aggregate

    files = find_model(model)
    path = out or files.aggregate
    _refuse_to_replace(path)
    learnt = learn_aggregate(files, photos, instances or [], progress)
    learnt.aggregate.save(path)
    print_result(
        f"{path}: learnt from {learnt.photos:,} photos, {learnt.labelled:,} of them with labels, "
        f"for {files.settings.name}"
    )


def model_calibrate(
    model: Annotated[str, typer.Argument(help="A model's name or folder.")],
    photos: MixedPhotos,
    instances: Instances = None,
    weights: Annotated[Path | None, typer.Option(help="Another weight file for it.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write (default: calibration.json beside the weights)."),
    ] = None,
) -> None:
    """Learn how probable matching points make it that two photos show the same thing."""
    from delg.files import write_bytes
    from delg.zoo.registry import find_model, load_model
    from index.calibrate.learn import learn_calibration

    path = out or find_model(model, weights).own_calibration
    _refuse_to_replace(path)
    extractor = load_model(model, weights)
    calibration = learn_calibration(extractor, model, photos, instances or [], progress)
    write_bytes(path, calibration.model_dump_json(indent=1).encode() + b"\n")
    reliability = calibration.reliability
    assert reliability is not None
    print_result(
        f"calibration of {extractor.name} in {path}; expected calibration error "
        f"{reliability.expected_calibration_error:.3f} on {reliability.pairs:,} other pairs"
    )


def model_attention(
    model: Annotated[str, typer.Argument(help="A model's name or folder.")],
    photos: MixedPhotos,
    out: Annotated[Path, typer.Option(help="Folder of the model to make.")],
    instances: Instances = None,
    scale_weights: Annotated[
        str | None,
        typer.Option(
            metavar="W,W,…",
            help="extraction.scale_weights of the copy, a number per scale of the model.",
        ),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Another weight file for it.")] = None,
) -> None:
    """Make a copy of a model whose attention has learnt which local features find their like.

    Its descriptors stay those of the model, and so do codebook and vocabulary. Calibrate it
    afterwards (delg model calibrate).
    """
    from delg.network.tensorflow_import import load_tensorflow
    from delg.zoo.registry import find_model

    chosen = None if scale_weights is None else _parse_weights(scale_weights)
    _refuse_to_replace(out)
    files = find_model(model, weights)
    if not files.has_weights:
        raise UsageError(files.missing())
    load_tensorflow()
    from index.attention.learn import learn_attention

    matching = learn_attention(files, photos, instances or [], chosen, out, progress)
    print_result(
        f"{files.settings.name} with learnt attention in {out}; of {matching.cells:,} features "
        f"{matching.share:.0%} find their like. Now: delg model calibrate {out}"
    )


def _parse_weights(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--scale-weights: {text!r} is not a list of numbers") from None
